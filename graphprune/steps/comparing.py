"""The steps of a comparison on a run folder: which scorers agree, and where they don't. Kept in ``RUN/comparisons``."""

from collections.abc import Sequence
from typing import Any

from graphprune.comparison.agreement import compare
from graphprune.comparison.disagreement import UnitFacts, Within, disagreements
from graphprune.comparison.result import OVERALL, Comparison
from graphprune.core.graph_store import read_graph_manifest
from graphprune.core.io import digest, file_digest, write_json
from graphprune.core.run import Run
from graphprune.steps.kept import all_scores, loaded_scores, named_scores
from graphprune.steps.pipeline import run_graph


def compare_step(run: Run, names: Sequence[str] = (), *, name: str = "comparison", **options: Any) -> dict[str, Any]:
    """The agreement of the run's scorers to ``RUN/comparisons``.

    Args:
        run: its folder.
        names: of score files. Several names joined by commas are one scorer's at several calibration seeds. If none is
            given, all files that score heads or neurons, those that differ in nothing but the seed taken as one.
        name: of the comparison.
        options: see `compare`.

    Raises:
        InputError: scores are missing, or can't be compared.
        FormatError: a file is damaged, or of another model.
    """
    files, left_out = named_scores(run, names) if names else all_scores(run)
    paths = [run.scores_path(each) for several in files.values() for each in several]
    made_of = [files, [file_digest(path) for path in paths], options]
    inputs, path = digest(made_of), run.comparison_path(name)
    if (found := run.finished(f"compare {name}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"compare {name}", inputs, {"scores": files, **options}) as record:
        scores = {label: [loaded_scores(run, each) for each in several] for label, several in files.items()}
        comparison = compare(scores, **options)
        comparison.save(path)
        record.outputs.append(path)
        record.result.update(facts_of(comparison), left_out=left_out, comparison=str(path))
    return record.result


def facts_of(comparison: Comparison) -> dict[str, Any]:
    """What is printed of a comparison: similar scorers beside each other."""
    labels = comparison.labels
    order = comparison.order
    shown = [labels[i] for i in order]
    matrix = comparison.matrix()
    overall = comparison.scope(OVERALL)
    reasons = (overall.why_undefined(label) for label in labels)
    return {
        "labels": shown,
        "seeds": [comparison.contenders[i].n_seeds for i in order],
        "kinds": list(dict.fromkeys(group.split(".")[0] for group in overall.groups)),
        "units": overall.units,
        "spearman": [[matrix[i][j] for j in order] for i in order],
        "clusters": [list(cluster) for cluster in comparison.clusters()],
        "undefined": list(dict.fromkeys(why for why in reasons if why is not None)),
        "notes": list(comparison.notes),
    }


def disagree_step(run: Run, a: str, b: str, *, top: int = 20, within: Within = "group") -> dict[str, Any]:
    """The units that two of the run's scorers judge most differently to ``RUN/comparisons``.

    The graph tells of them, if the run has one.

    Args:
        run: its folder.
        a: the name of a score file.
        b: of another.
        top: how many units.
        within: places are among the units of a `group` or of a `kind`.

    Raises:
        InputError: scores are missing, or can't be compared.
        FormatError: a file is damaged, or of another model.
    """
    named_scores(run, (a, b))
    label = f"{a}-against-{b}"
    graph = run_graph(run)
    made_of = None if graph is None else read_graph_manifest(run.graph_folder)["inputs"]
    inputs = digest([*(file_digest(run.scores_path(name)) for name in (a, b)), top, within, made_of])
    if (found := run.finished(f"disagree {label}", inputs)) is not None:
        return found | {"found": True}
    path = run.comparison_path(label).with_suffix(".json")
    with run.recording(f"disagree {label}", inputs, {"top": top, "within": within}) as record:
        facts = None if graph is None else UnitFacts.of(graph)
        rows = [
            each.row()
            for each in disagreements(loaded_scores(run, a), loaded_scores(run, b), top=top, within=within, facts=facts)
        ]
        write_json(path, {"a": a, "b": b, "within": within, "disagreements": rows})
        record.outputs.append(path)
        record.result.update(a=a, b=b, disagreements=rows, path=str(path))
    return record.result

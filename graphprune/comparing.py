"""The steps of a comparison on a run folder: which scorers agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from graphprune.comparison.agreement import SEED, compare
from graphprune.comparison.result import OVERALL, Comparison
from graphprune.core.errors import InputError
from graphprune.core.io import digest, file_digest
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON

SEVERAL = ","


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
    files, left_out = _chosen(run, names) if names else _all(run)
    paths = [run.scores_path(each) for several in files.values() for each in several]
    made_of = [files, [file_digest(path) for path in paths], options]
    inputs, path = digest(made_of), run.comparison_path(name)
    if (found := run.finished(f"compare {name}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"compare {name}", inputs, {"scores": files, **options}) as record:
        scores = {label: [_loaded(run, each) for each in several] for label, several in files.items()}
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


def _chosen(run: Run, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Score files by label, as the caller named them."""
    files = {each.split(SEVERAL)[0]: each.split(SEVERAL) for each in names}
    everything = [name for several in files.values() for name in several]
    if len(files) < len(names) or len(set(everything)) < len(everything):
        raise InputError(f"scores are named twice: {', '.join(names)}")
    for name in everything:
        if not run.scores_path(name).is_file():
            raise InputError(f"{run.folder} has no scores {name!r}; it has {_known(run)}")
    return files, []


def _known(run: Run) -> str:
    return ", ".join(sorted(path.stem for path in (run.folder / "scores").glob("*.safetensors"))) or "none"


def _all(run: Run) -> tuple[dict[str, list[str]], list[str]]:
    """All files of heads or neurons, by the first of the names of those that differ in the seed; and the others."""
    taken: dict[str, list[str]] = {}
    left_out = []
    for path in sorted((run.folder / "scores").glob("*.safetensors")):
        scores = _loaded(run, path.stem)
        if not {HEAD, NEURON} & set(scores.kinds):
            left_out.append(path.stem)
            continue
        taken.setdefault(_made_by(run, path.stem, scores), []).append(path.stem)
    groups = [sorted(names, key=lambda name: (len(name), name)) for names in taken.values()]
    return {names[0]: names for names in sorted(groups)}, left_out


def _loaded(run: Run, name: str) -> Scores:
    identity = run.manifest()["model"]["identity"]
    return Scores.load(run.scores_path(name), model=identity)


def _made_by(run: Run, name: str, scores: Scores) -> str:
    """A key that files share which differ in nothing but a seed; the file's own where it isn't known how it was made.

    The run's manifest says what text a score was calibrated on, and with which seed.
    """
    step = run.manifest().get("steps", {}).get(f"score {name}", {})
    result: Mapping[str, Any] = step.get("result", {}) if isinstance(step, Mapping) else {}
    if "calibration" not in result:
        return digest([name, scores.inputs])
    calibration = {key: value for key, value in (result["calibration"] or {}).items() if key != SEED}
    options = {key: value for key, value in scores.options.items() if key != SEED}
    return digest([scores.method, options, calibration])

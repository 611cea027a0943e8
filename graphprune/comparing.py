"""The steps of a comparison on a run folder: which scorers agree, and which are what they say they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphprune.calibration.forward import site_sizes
from graphprune.comparison.agreement import SEED, compare
from graphprune.comparison.audit import (
    Verdict,
    baselines_of,
    equals_baseline,
    flips,
    loses_to_random,
    mostly_depth,
    switched_off,
)
from graphprune.comparison.disagreement import UnitFacts, Within, disagreements
from graphprune.comparison.result import OVERALL, Comparison
from graphprune.core.errors import InputError
from graphprune.core.graph_store import read_graph_manifest
from graphprune.core.io import digest, file_digest, write_json
from graphprune.core.run import Run, checked_name
from graphprune.core.scores import Scores
from graphprune.core.stats import VERSION as STATS_VERSION
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.pipeline import run_graph
from graphprune.scorers import SCORERS, make_scorer
from graphprune.scorers.inputs import ScoringInputs

SEVERAL = ","
AUDIT_FORMAT, AUDIT_VERSION = "graphprune.audit", 1


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
    _chosen(run, (a, b))
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
            each.row() for each in disagreements(_loaded(run, a), _loaded(run, b), top=top, within=within, facts=facts)
        ]
        write_json(path, {"a": a, "b": b, "within": within, "disagreements": rows})
        record.outputs.append(path)
        record.result.update(a=a, b=b, disagreements=rows, path=str(path))
    return record.result


def audit_step(run: Run, names: Sequence[str] = (), *, sparsity: float = 0.2, name: str = "audit") -> dict[str, Any]:
    """Verdicts on the run's scorers to ``RUN/audits``.

    Args:
        run: its folder.
        names: of score files, as for `compare_step`.
        sparsity: at which masks are compared.
        name: of the audit.

    Raises:
        InputError: scores are missing, or the run's model is.
        FormatError: a file is damaged, or of another model.
    """
    files, left_out = _chosen(run, names) if names else _all(run)
    if not files:
        raise InputError(f"{run.folder} has no scores of heads or neurons; `graphprune score` makes some")
    paths = [run.scores_path(each) for several in files.values() for each in several]
    inputs = digest([files, [file_digest(path) for path in paths], sparsity])
    if (found := run.finished(f"audit {name}", inputs)) is not None:
        return found | {"found": True}
    path = run.folder / "audits" / f"{checked_name(name)}.json"
    with run.recording(f"audit {name}", inputs, {"scores": files, "sparsity": sparsity}) as record:
        auditor = Auditor(run, _model_of(run), sparsity)
        verdicts = [vars(verdict) for verdict in auditor.verdicts(files)]
        write_json(path, {"format": AUDIT_FORMAT, "version": AUDIT_VERSION, "sparsity": sparsity, "verdicts": verdicts})
        record.outputs.append(path)
        record.result.update(verdicts=verdicts, flagged=sum(v["flagged"] is True for v in verdicts))
        record.result.update(left_out=left_out, audit=str(path))
    return record.result


@dataclass(frozen=True)
class Auditor:
    """What an audit of a run's scorers goes by.

    Attributes:
        run: the run folder.
        model: its model.
        sparsity: at which masks are compared.
    """

    run: Run
    model: Model
    sparsity: float

    def verdicts(self, files: Mapping[str, Sequence[str]]) -> Iterator[Verdict]:
        """All checks of all scorers, whose files are given by label."""
        for label, names in files.items():
            scores = [_loaded(self.run, name) for name in names]
            stats = self._stats(names[0])
            yield equals_baseline(label, scores[0], baselines_of(self.model, stats))
            yield loses_to_random(label, self.sparsity, None, None)
            blind = calibration_of(self.run, names[0]) == {}
            yield flips(label, [] if blind else scores, self.sparsity)
            texts = [] if blind else self._by_text(label, files)
            yield flips(label, texts, self.sparsity, check="text")
            yield mostly_depth(label, scores[0])
            yield self._switch(label, names[0], scores[0], stats)

    def _stats(self, name: str) -> CalibrationStats | None:
        """The statistics that scores were made with, if the run still has them."""
        calibration = calibration_of(self.run, name)
        if not calibration:
            return None
        path = self.run.stats_path(digest([self.model.identity, calibration, STATS_VERSION]))
        if not path.is_file():
            return None
        return CalibrationStats.load(path, site_sizes(self.model), self.model.identity)

    def _by_text(self, label: str, files: Mapping[str, Sequence[str]]) -> list[Scores]:
        """The scores of a scorer with the same options, one for each text that it was calibrated on."""
        ours = _loaded(self.run, files[label][0])
        texts: dict[object, Scores] = {None: ours}
        for names in (files[label], *files.values()):
            calibration, scores = calibration_of(self.run, names[0]), _loaded(self.run, names[0])
            if calibration and (scores.method, dict(scores.options)) == (ours.method, dict(ours.options)):
                texts.pop(None, None)
                texts.setdefault(calibration.get("text"), scores)
        return list(texts.values())

    def _switch(self, label: str, name: str, scores: Scores, stats: CalibrationStats | None) -> Verdict:
        if scores.method not in SCORERS:
            return Verdict(label, "switch", None, None, f"wasn't asked again: {scores.method} is no scorer of one pass")
        scorer = make_scorer(scores.method, **scores.options)
        if scorer.needs_gradients:
            return Verdict(label, "switch", None, None, "wasn't asked again: that takes the gradients of the loss")
        if scorer.needs_stats and stats is None:
            why = f"the statistics that {name} was made with are not in the run; score it again"
            return Verdict(label, "switch", None, None, f"wasn't asked again: {why}")
        return switched_off(label, scorer, ScoringInputs(self.model, stats))


def _model_of(run: Run) -> Model:
    """The model that a run belongs to, from where it was.

    Raises:
        InputError: it isn't there any more.
        FormatError: another one is there now.
    """
    facts = run.manifest()["model"]
    folder = facts.get("folder")
    if folder is None or not Path(folder).is_dir():
        raise InputError(f"the model of {run.folder} is not in {folder} any more")
    model = load_model(folder)
    Run.open(run.folder, identity=model.identity)
    return model


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
    known = calibration_of(run, name)
    if known is None:
        return digest([name, scores.inputs])
    calibration = {key: value for key, value in known.items() if key != SEED}
    options = {key: value for key, value in scores.options.items() if key != SEED}
    return digest([scores.method, options, calibration])


def calibration_of(run: Run, name: str) -> dict[str, Any] | None:
    """What a score file was calibrated on, as the run's manifest has it: empty if on nothing, None if not known."""
    step = run.manifest().get("steps", {}).get(f"score {name}", {})
    result = step.get("result", {}) if isinstance(step, Mapping) else {}
    return dict(result["calibration"] or {}) if "calibration" in result else None

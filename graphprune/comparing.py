"""The steps of a comparison on a run folder: which scorers agree, which are what they say, and what their masks do.

Comparisons and what masks do are in ``RUN/comparisons``, verdicts in ``RUN/audits``, the numbers of each mask in
``RUN/consequences``, named by a hash of all that they depend on.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from graphprune.calibration.forward import site_sizes
from graphprune.calibration.text import read_text, spread, windows
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
from graphprune.comparison.consequence import QUALITIES, Consequence, Consequences, Series
from graphprune.comparison.disagreement import UnitFacts, Within, disagreements
from graphprune.comparison.percolation import Percolation
from graphprune.comparison.result import OVERALL, Comparison
from graphprune.core.errors import InputError
from graphprune.core.graph_store import read_graph_manifest
from graphprune.core.io import digest, file_digest, read_json, write_json
from graphprune.core.mask import Mask
from graphprune.core.progress import progress
from graphprune.core.run import Run, checked_name
from graphprune.core.scores import Scores
from graphprune.core.stats import VERSION as STATS_VERSION
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON
from graphprune.evaluation.divergence import FinalStates, divergence
from graphprune.evaluation.masked import standing_in
from graphprune.masks.select import DepthWarning
from graphprune.methods import ALLOCATION_NAMES, BY_CURVES, BY_GRAPH, Cut, Recipe, Units
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.pipeline import Calibration, run_graph, score_step
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.scorers import SCORERS, make_scorer, scorer_options
from graphprune.scorers.inputs import Scorer, ScoringInputs
from graphprune.solvers.sequential import Overlaid

SEVERAL = ","
AUDIT_FORMAT, AUDIT_VERSION = "graphprune.audit", 1
ENTRY_VERSION = 1
REPAIRS = ("none", "obs")
BLIND = tuple(name for name in ALLOCATION_NAMES if name not in {BY_GRAPH, BY_CURVES})


@dataclass(frozen=True)
class Measured:
    """What consequences are measured on.

    Attributes:
        text: a file to judge on; None measures the graph alone.
        seq_len: tokens a window.
        max_windows: at most so many, spread evenly; None for all.
    """

    text: Path | None = None
    seq_len: int = 512
    max_windows: int | None = None

    def check(self) -> None:
        """Checks all that needs no model.

        Raises:
            InputError: the text isn't there, or a number is out of range.
        """
        if self.text is not None and not self.text.is_file():
            raise InputError(f"the text {self.text} is not there")
        if self.seq_len < 2 or (self.max_windows is not None and self.max_windows < 1):
            raise InputError(f"at least 1 window of 2 tokens is read, not {self.max_windows} of {self.seq_len}")

    def key(self) -> object:
        return None if self.text is None else [file_digest(self.text), self.seq_len, self.max_windows]


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


def audit_step(
    run: Run,
    names: Sequence[str] = (),
    *,
    sparsity: float = 0.2,
    measured: Measured | None = None,
    name: str = "audit",
) -> dict[str, Any]:
    """Verdicts on the run's scorers to ``RUN/audits``.

    Args:
        run: its folder.
        names: of score files, as for `compare_step`.
        sparsity: at which masks are compared.
        measured: a text, to measure scorers against random removal.
        name: of the audit.

    Raises:
        InputError: scores are missing, or the run's model is.
        FormatError: a file is damaged, or of another model.
    """
    measured = measured or Measured()
    measured.check()
    files, left_out = _chosen(run, names) if names else _all(run)
    if not files:
        raise InputError(f"{run.folder} has no scores of heads or neurons; `graphprune score` makes some")
    paths = [run.scores_path(each) for several in files.values() for each in several]
    inputs = digest([files, [file_digest(path) for path in paths], sparsity, measured.key()])
    if (found := run.finished(f"audit {name}", inputs)) is not None:
        return found | {"found": True}
    path = run.folder / "audits" / f"{checked_name(name)}.json"
    with run.recording(f"audit {name}", inputs, {"scores": files, "sparsity": sparsity}) as record:
        auditor = Auditor(run, _model_of(run), sparsity, measured)
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
        measured: what the model is judged on.
    """

    run: Run
    model: Model
    sparsity: float
    measured: Measured

    def verdicts(self, files: Mapping[str, Sequence[str]]) -> Iterator[Verdict]:
        """All checks of all scorers, whose files are given by label."""
        for label, names in files.items():
            scores = [_loaded(self.run, name) for name in names]
            stats = self._stats(names[0])
            yield equals_baseline(label, scores[0], baselines_of(self.model, stats))
            if scores[0].method != "random":
                yield loses_to_random(label, self.sparsity, *self._perplexities(names[0], scores[0]))
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

    def _perplexities(self, name: str, scores: Scores) -> tuple[float | None, float | None]:
        """Of the model pruned by a scorer, and by chance, every layer alike and nothing repaired."""
        if self.measured.text is None:
            return None, None
        calibration = Calibration(None)
        laboratory = Laboratory(self.run, self.model, calibration, self.measured)
        score_step(self.model, self.run, scorer="random", calibration=calibration)
        units = _units_of({name: scores})
        found = [laboratory.of(Series(each), self.sparsity, each, units).quality for each in (name, "random")]
        return found[0]["perplexity"], found[1]["perplexity"]

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


@dataclass
class Laboratory:
    """Where masks of a run's model are made and measured; nothing that the run folder has is measured again.

    Attributes:
        run: the run folder.
        model: its dense model.
        calibration: for repair, and for the allocation by credit.
        measured: what the model is judged on.
    """

    run: Run
    model: Model
    calibration: Calibration
    measured: Measured

    @cached_property
    def evidence(self) -> Evidence:
        """What calibration tells, scores of other scorers kept in the run folder."""
        kept = self.calibration.evidence(self.model, self.run)
        return replace(kept, scored=self._scores_by)

    def _scores_by(self, scorer: Scorer) -> Scores:
        options = scorer_options(scorer)
        return score_step(self.model, self.run, scorer=scorer.name, calibration=self.calibration, **options)[0]

    @cached_property
    def _percolation(self) -> Percolation | None:
        graph = run_graph(self.run)
        return None if graph is None else Percolation.of(graph)

    @cached_property
    def _graph_key(self) -> object:
        path = self.run.graph_folder / "manifest.json"
        return file_digest(path) if path.is_file() else None

    @cached_property
    def _network(self) -> Any:
        return self.model.module(dtype=self.evidence.dtype, device=self.evidence.device)

    @cached_property
    def _rows(self) -> Int[torch.Tensor, "windows seq_len"]:
        if self.measured.text is None:
            raise InputError("quality is measured on a text; give --text FILE")
        found = windows(self.model.tokenizer, read_text(self.measured.text), self.measured.seq_len)
        rows = spread(found, self.measured.max_windows)
        self.model.check_tokens(rows)
        return rows

    @cached_property
    def _dense_logits(self) -> FinalStates:
        return FinalStates(self._network, self._rows, device=self.evidence.device)

    def dense(self) -> dict[str, float]:
        """The quality of the dense model, and what its graph has of each quantity."""
        found = self._kept([self._graph_key, "dense"], self._dense_graph) if self._graph_key is not None else {}
        if self.measured.text is not None:
            found |= self._kept([self.measured.key(), self._precision(), "dense"], self._dense_quality)
        return found

    def _dense_graph(self) -> dict[str, float]:
        return self._remains(Mask.full(self.model.units))

    def _dense_quality(self) -> dict[str, float]:
        return vars(divergence(self._network, self._dense_logits, self._rows, device=self.evidence.device))

    def of(self, series: Series, sparsity: float, name: str, units: Units) -> Consequence:
        """What a mask does: the units go that a score file ranks lowest.

        Args:
            series: who is asked, and how the mask is made.
            sparsity: the fraction removed.
            name: of the score file.
            units: which kinds may go.

        Raises:
            InputError: calibration is needed and there is none.
            InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
        """
        cutting = partial(self._cut, series, sparsity, name, units)
        sees_text = series.compensation != "none" or series.allocation not in BLIND
        calibration = self.calibration.key() if sees_text else None
        scores = file_digest(self.run.scores_path(name))
        mask = [scores, series.allocation, units, sparsity, None if series.allocation in BLIND else calibration]
        graph, quality = {}, {}
        if self._graph_key is not None:
            graph = self._kept([self._graph_key, mask], lambda: self._remains(cutting(compensation="none").mask))
        if self.measured.text is not None:
            made_of = [self.measured.key(), self._precision(), mask, series.compensation, calibration]
            quality = self._kept(made_of, lambda: self._quality(cutting()))
        return Consequence(series, sparsity, graph, quality)

    def _precision(self) -> str:
        return str(self.evidence.dtype)

    def _cut(
        self, series: Series, sparsity: float, name: str, units: Units, *, compensation: str | None = None
    ) -> Cutting:
        compensation = compensation or series.compensation
        recipe = Recipe.of(None, compensation=compensation, cut=Cut(series.allocation, units))
        evidence = self.evidence
        if compensation == "none":  # the scores alone decide: no pass through the blocks
            evidence = replace(evidence, windows=None)
        with warnings.catch_warnings():  # the audit says what is mostly depth, once and not a mask at a time
            warnings.simplefilter("ignore", DepthWarning)
            return apply(recipe, sparsity, evidence, given=_loaded(self.run, name))

    def _remains(self, mask: Mask) -> dict[str, float]:
        if self._percolation is None:
            raise AssertionError("there is a graph")
        return self._percolation.after(mask).facts()

    def _quality(self, cutting: Cutting) -> dict[str, float]:
        dense = self._dense_logits  # before the network computes as pruned
        changed = cutting.model.parameters.above if isinstance(cutting.model.parameters, Overlaid) else {}
        with standing_in(self._network, self.model, cutting.mask, changed):
            return vars(divergence(self._network, dense, self._rows, device=self.evidence.device))

    def _kept(self, made_of: object, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Numbers from the run folder, or measured now and kept there; null stands for infinity."""
        key = digest([self.model.identity, ENTRY_VERSION, made_of])
        path = self.run.folder / "consequences" / f"{key}.json"
        if path.is_file():
            found = read_json(path)
            return {name: inf if value is None else float(value) for name, value in found.items()}
        numbers = {name: float(value) for name, value in measure().items()}
        write_json(path, {name: value if isfinite(value) else None for name, value in numbers.items()})
        return numbers


def consequences_step(
    run: Run,
    names: Sequence[str] = (),
    *,
    sparsities: Sequence[float],
    allocations: Sequence[str] = ("uniform",),
    compensations: Sequence[str] = ("none",),
    calibration: Calibration | None = None,
    measured: Measured | None = None,
    units: Units | None = None,
    name: str = "consequences",
) -> dict[str, Any]:
    """What masks of the run's scorers do to the graph and to the model, to ``RUN/comparisons``.

    Every mask's numbers are an entry of their own in ``RUN/consequences`` as soon as they are measured: a step that is
    killed goes on where it was.

    Args:
        run: its folder.
        names: of score files; all that score heads or neurons, if none is given.
        sparsities: fractions removed.
        allocations: how much goes from which layer.
        compensations: `none`, `obs`.
        calibration: for repair, and for the allocation by credit.
        measured: what the model is judged on.
        units: which kinds may go: those that all scorers score, if not given.
        name: of the result.

    Raises:
        InputError: scores, calibration, or something to measure is missing, or an option is out of range.
        InfeasibleError: a sparsity can't be reached; the nearest is named.
    """
    calibration, measured = calibration or Calibration(None), measured or Measured()
    measured.check()
    _check_masks(run, sparsities, allocations, compensations, calibration, measured)
    files, left_out = _chosen(run, names) if names else _all(run)
    if not files:
        raise InputError(f"{run.folder} has no scores of heads or neurons; `graphprune score` makes some")
    scores = {label: _loaded(run, several[0]) for label, several in files.items()}
    kinds = units or _units_of(scores)
    laboratory = Laboratory(run, _model_of(run), calibration, measured)
    every = [Series(*each) for each in product(files, allocations, compensations)]
    cells = [(series, sparsity) for series in every for sparsity in sorted(set(sparsities))]
    rows = tuple(
        laboratory.of(series, sparsity, files[series.scorer][0], kinds)
        for series, sparsity in progress(cells, "masks", total=len(cells), unit="mask")
    )
    settings = {"units": kinds, "calibration": calibration.key(), "measured": measured.key()}
    found = Consequences(rows, laboratory.dense(), laboratory.model.identity, settings)
    path = run.comparison_path(name).with_suffix(".json")
    found.save(path)
    return {**told(found), "left_out": left_out, "consequences": str(path)}


def told(found: Consequences) -> dict[str, Any]:
    """What is printed of consequences: a row a mask, the areas under the curves, and what tells beforehand."""
    rows = [{"series": row.series.name, "sparsity": row.sparsity, **row.quality, **row.graph} for row in found.rows]
    areas = [
        {"series": series.name, **{each: found.area(series, each) for each in found.quantities}}
        for series in found.series
    ]
    measured = [each for each in QUALITIES if each in found.quantities]
    tells = [
        {"quantity": each, **{quality: found.predicted_by(each, quality).value for quality in measured}}
        for each in found.quantities if each not in QUALITIES
    ]  # fmt: skip
    return {"dense": dict(found.dense), "rows": rows, "areas": areas, "predicts": tells if measured else []}


def _check_masks(
    run: Run,
    sparsities: Sequence[float],
    allocations: Sequence[str],
    compensations: Sequence[str],
    calibration: Calibration,
    measured: Measured,
) -> None:
    if not sparsities or not all(0 < sparsity < 1 for sparsity in sparsities):
        raise InputError(f"masks are made at sparsities between 0 and 1, not {', '.join(map(str, sparsities))}")
    if unknown := next((each for each in compensations if each not in REPAIRS), None):
        raise InputError(f"consequences are of the compensations {' and '.join(REPAIRS)}, not {unknown}")
    for allocation in allocations:
        Cut(allocation).check(sparsities[0])
    if calibration.text is None and ("obs" in compensations or not set(allocations) <= set(BLIND)):
        raise InputError("repair, and the allocations graph and curves, need calibration; give --calibration FILE")
    if measured.text is None and not (run.graph_folder / "manifest.json").is_file():
        raise InputError(f"{run.folder} has no graph and there is no text: export one, or give --text FILE")


def _units_of(scores: Mapping[str, Scores]) -> Units:
    """The kinds that all scorers score."""
    if all({HEAD, NEURON} <= set(each.kinds) for each in scores.values()):
        return "all"
    return "neuron" if all(NEURON in each.kinds for each in scores.values()) else "head"

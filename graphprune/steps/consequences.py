"""What scorers' masks do to the graph and to the model, in ``RUN/comparisons``.

The numbers of each mask are in ``RUN/consequences``, named by a hash of all that they depend on.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from graphprune.calibration.text import read_text, spread, windows
from graphprune.comparison.consequence import QUALITIES, Consequence, Consequences, Series
from graphprune.comparison.percolation import Percolation
from graphprune.core.errors import InputError
from graphprune.core.io import digest, file_digest, read_json, write_json
from graphprune.core.mask import Mask
from graphprune.core.progress import progress
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.evaluation.divergence import FinalStates, divergence
from graphprune.evaluation.masked import standing_in
from graphprune.masks.select import DepthWarning
from graphprune.methods import ALLOCATION_NAMES, BY_CURVES, BY_GRAPH, Cut, Recipe, Units
from graphprune.models.model import Model
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.scorers import scorer_options
from graphprune.scorers.inputs import Scorer
from graphprune.solvers.sequential import Overlaid
from graphprune.steps.kept import all_scores, loaded_scores, model_of, named_scores
from graphprune.steps.pipeline import Calibration, run_graph, score_step

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
            return apply(recipe, sparsity, evidence, given=loaded_scores(self.run, name))

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
    files, left_out = named_scores(run, names) if names else all_scores(run)
    if not files:
        raise InputError(f"{run.folder} has no scores of heads or neurons; `graphprune score` makes some")
    scores = {label: loaded_scores(run, several[0]) for label, several in files.items()}
    kinds = units or units_of(scores)
    laboratory = Laboratory(run, model_of(run), calibration, measured)
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


def units_of(scores: Mapping[str, Scores]) -> Units:
    """The kinds that all scorers score."""
    if all({HEAD, NEURON} <= set(each.kinds) for each in scores.values()):
        return "all"
    return "neuron" if all(NEURON in each.kinds for each in scores.values()) else "head"

"""A recipe applied to a model: score, allocate, take the surgeon through the blocks, cut."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped

from graphprune.allocation import Normalise, Target, allocate
from graphprune.allocation.schedule import counts_of_weights
from graphprune.calibration.forward import calibrate, calibration_rows
from graphprune.calibration.gradient import gradients
from graphprune.calibration.influence import influence
from graphprune.calibration.sensitivity import Sensitivity, sensitivities
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.io import digest, load_tensors, save_tensors
from graphprune.core.mask import WEIGHT, Mask
from graphprune.core.scores import Scores
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON
from graphprune.masks.depth import sub_blocks, whole, without
from graphprune.masks.items import Budget, HeadMode, prunable, removable
from graphprune.masks.select import select, warn_of_depth
from graphprune.methods import BY_CURVES, BY_GRAPH, OBS, Cut, Recipe, Statistics, Units, any_scorer, layers_of
from graphprune.models.bias import biased
from graphprune.models.model import Model
from graphprune.scorers import make_scorer, score
from graphprune.scorers.inputs import Scorer, WeightScorer
from graphprune.solvers.curves import Curves, CurveSurgeon, error_curves, priced
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.mlp import JointSurgeon, JointUnitSurgeon
from graphprune.solvers.obs import HeadError
from graphprune.solvers.scores import EliminationSurgeon, Influence, SolvedScorer, Surviving, of_units
from graphprune.solvers.sequential import Journal, Operated, Overlaid, Surgeon, operate
from graphprune.solvers.units import ByElimination, ByScore, Chooser, Compensation, Decided, UnitSurgeon, Without
from graphprune.solvers.weights import WeightSurgeon
from graphprune.surgery.removed import linear_weights
from graphprune.surgery.shape import shape_of

CREDIT_TOKENS = 4096


@dataclass
class Evidence:
    """What calibration tells of a model; each part is found when it is first asked for.

    Attributes:
        model: the dense model.
        windows: gives the calibration windows; None if there is no text.
        measured: gives the statistics of the dense model.
        exported: gives a graph that has been exported before, if there is one.
        scored: gives what a scorer says of the dense model, if that is kept somewhere.
        folder: where error curves are kept, if anywhere; they serve every sparsity.
        dtype: of the forward passes.
        device: of the forward passes.
    """

    model: Model
    windows: Callable[[], torch.Tensor] | None = None
    measured: Callable[[], CalibrationStats] | None = None
    exported: Callable[[], ModelGraph | None] = field(default=lambda: None)
    scored: Callable[[Scorer], Scores] | None = None
    folder: Path | None = None
    dtype: torch.dtype | None = None
    device: str = "cpu"
    _curves: dict[Any, Curves] = field(default_factory=dict, repr=False)

    @classmethod
    def of_text(
        cls,
        model: Model,
        text: str | Path | torch.Tensor | None,
        *,
        n_samples: int = 32,
        seq_len: int = 512,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
    ) -> "Evidence":
        """From a text, its path, or token ids; see `calibrate`."""
        if text is None:
            return cls(model, dtype=dtype, device=device)
        draw: dict[str, Any] = {"n_samples": n_samples, "seq_len": seq_len, "seed": seed}
        windows = partial(calibration_rows, model, text, **draw)
        measured = partial(calibrate, model, text, dtype=dtype, device=device, **draw)
        return cls(model, windows, measured, dtype=dtype, device=device)

    @cached_property
    def rows(self) -> Shaped[torch.Tensor, "windows seq_len"]:
        """The calibration windows; of a perceptron, its inputs.

        Raises:
            InputError: there is no text.
        """
        if self.windows is None:
            raise InputError("this needs calibration; give --calibration FILE")
        return self.windows()

    @cached_property
    def stats(self) -> CalibrationStats | None:
        return None if self.measured is None else self.measured()

    @cached_property
    def gradients(self) -> dict[str, torch.Tensor]:
        return gradients(self.model, self.rows, dtype=self.dtype, device=self.device)

    @cached_property
    def credit(self) -> Sensitivity:
        """What the prediction feels of an error in each channel that heads and neurons write to."""
        return sensitivities(
            self.model, self.rows[: max(1, CREDIT_TOKENS // self.rows.shape[1])], dtype=self.dtype, device=self.device
        )

    def curves(
        self, chooser: ByElimination, damping: float, *, credited: bool, journal: Journal | None = None
    ) -> Curves:
        """What every next piece of every layer costs; measured once for all sparsities."""
        steps = (chooser.group_start, chooser.group_floor)
        key = (chooser.head_mode, chooser.head_error, *steps, damping, credited)
        if key not in self._curves:
            self._curves[key] = self._kept_curves(key) or self._measured_curves(
                key, chooser, damping, credited, journal
            )
        return self._curves[key]

    def _curves_path(self, key: tuple[object, ...]) -> Path | None:
        if self.folder is None:
            return None
        inputs = [self.model.identity, self.rows.tolist(), key, str(self.dtype)]
        return self.folder / f"curves-{digest(inputs)}.safetensors"

    def _kept_curves(self, key: tuple[object, ...]) -> Curves | None:
        path = self._curves_path(key)
        return None if path is None or not path.is_file() else load_tensors(path)[0]

    def _measured_curves(
        self, key: tuple[object, ...], chooser: ByElimination, damping: float, credited: bool, journal: Journal | None
    ) -> Curves:
        surgeon = CurveSurgeon(chooser, damping, self.credit if credited else None)
        notes = None if journal is None or journal.folder is None else Journal(journal.folder / "curves")
        curves = error_curves(self.model, self.rows, surgeon, dtype=self.dtype, device=self.device, journal=notes)
        if (path := self._curves_path(key)) is not None:
            save_tensors(path, curves, {})
        return curves

    def scores(self, scorer: Scorer) -> Scores:
        """What a scorer says of the dense model.

        Raises:
            InputError: it needs calibration and there is none.
        """
        if self.scored is not None:
            return self.scored(scorer)
        return score(
            self.model,
            scorer,
            stats=self.stats if scorer.needs_stats else None,
            graph=self.exported(),
            gradients=self.gradients if scorer.needs_gradients else None,
        )

    def solved_scores(self, scorer: SolvedScorer, damping: float = 0.01, journal: Journal | None = None) -> Scores:
        """What a scorer says that has to solve the model on the text; see `solvers.scores`.

        Raises:
            InputError: there is no text, or the scorer needs a loss and the model is a perceptron.
        """
        notes = None if journal is None or journal.folder is None else Journal(journal.folder / "scores")
        inputs = [self.model.identity, scorer.name, digest(self.rows.tolist())]
        if isinstance(scorer, Influence):
            found = influence(self.model, self.rows, dtype=self.dtype, device=self.device)
            return Scores(found, scorer.name, {}, self.model.identity, digest(inputs))
        if isinstance(scorer, Surviving):
            solved = apply(Recipe.of("sparsellm", damping=damping), scorer.sparsity, self, journal=notes).operated
        else:
            surgeon = EliminationSurgeon(self.model, damping, self.credit if scorer.credit else None)
            solved = operate(
                self.model, self.rows, surgeon, dtype=self.dtype, device=self.device, journal=notes, what="eliminating"
            )
        if solved is None:
            raise AssertionError("the engine ran")
        options = asdict(scorer) | {"damping": damping}
        found = of_units(solved.notes, self.model)
        return Scores(found, scorer.name, options, self.model.identity, digest([*inputs, options]))


@dataclass(frozen=True)
class Cutting:
    """What goes, and what has become of the rest.

    Attributes:
        mask: what stays.
        model: the dense model with the parameters that have changed, and with biases where these were added.
        kinds: of unit that could go; empty where single weights go.
        operated: what the sequential engine reports, if it ran.
    """

    mask: Mask
    model: Model
    kinds: tuple[str, ...] = ()
    operated: Operated | None = None


def cut(
    model: Model, scores: Scores, sparsity: float, choice: Cut | None = None, *, credit: Scores | None = None
) -> Mask:
    """The mask that removes a fraction of a model's prunable parameters, lowest scores first.

    Args:
        model: the model.
        scores: of its units; higher = keep.
        sparsity: fraction removed of the parameters (or units) of the kinds that are pruned.
        choice: how.
        credit: what the allocation `graph` goes by.

    Raises:
        InputError: an option is unknown, or the scores don't cover the units.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    choice = choice or Cut()
    choice.check(sparsity)
    kinds = kinds_of(choice, scores.kinds)
    mask = _selected(model, scores, counts(model, sparsity, choice, kinds, scores, credit), choice, kinds)
    options = {
        "scorer": dict(scores.options),
        "sparsity": sparsity,
        "units": list(kinds),
        "allocation": choice.allocation or "uniform",
    }
    warn_of_depth(mask, tuple(group.name for group in model.units.of_kind(*kinds)))
    return replace(mask, method=scores.method, options=options, model=model.identity)


def _selected(model: Model, scores: Scores, remove: Mapping[str, int], choice: Cut, kinds: tuple[str, ...]) -> Mask:
    pieces = removable(scores, model.units, kinds, head_mode=choice.heads, floor=choice.floor)
    return select(pieces, remove, model.units)


def kinds_of(choice: Cut, there_are: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of unit that a cut may remove."""
    if choice.units != "all":
        return (choice.units,)
    return tuple(kind for kind in (HEAD, NEURON) if kind in there_are)


def budget_of(model: Model, choice: Cut) -> Budget:
    return choice.budget or ("units" if model.is_perceptron else "parameters")


def counts(
    model: Model,
    sparsity: float,
    choice: Cut,
    kinds: tuple[str, ...],
    scores: Scores | None = None,
    credit: Scores | None = None,
    gone: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """How many pieces of every group go; of groups that go as a whole, with what these cost, none.

    Raises:
        InputError: the allocation needs scores, or the model has no unit of a kind.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    if HEAD in kinds and not model.units.of_kind(HEAD):
        raise InputError(f"{model.name} has no attention heads")
    by, allocation = scores, choice.allocation or "uniform"
    if allocation == BY_GRAPH:
        by, allocation, choice = credit, "global", replace(choice, normalise="none")
    if allocation == "global" and by is None:
        raise InputError(f"the allocation {choice.allocation} needs scores of all layers at once")
    budget, gone = budget_of(model, choice), gone or {}
    pieces = removable(by, model.units, kinds, head_mode=choice.heads, floor=choice.floor, budget=budget)
    pieces = tuple(part for part in pieces if part.group not in gone)
    return allocate(allocation, pieces, _target(model, sparsity, choice, kinds, gone)).remove


def _target(model: Model, sparsity: float, choice: Cut, kinds: tuple[str, ...], gone: Mapping[str, int]) -> Target:
    """What is left to remove, of all that could go."""
    total = prunable(model.units, kinds, budget_of(model, choice))
    return choice.target(max(sparsity - sum(gone.values()) / max(total, 1), 0.0) if gone else sparsity, total)


def apply(
    recipe: Recipe,
    sparsity: float,
    evidence: Evidence,
    *,
    given: Scores | None = None,
    journal: Journal | None = None,
    remove: Mapping[str, int] | None = None,
) -> Cutting:
    """Prunes by a recipe.

    The sequential engine runs where there is a text to calibrate on; without one the scores alone decide, which does
    for scorers that need none.

    Args:
        recipe: how.
        sparsity: the fraction removed.
        evidence: the model and what is known of it.
        given: scores to go by, instead of the recipe's scorer.
        journal: where finished blocks are noted, and found again.
        remove: how many pieces of every group go, instead of the recipe's allocation.

    Raises:
        InputError: an option is unknown, or something that is needed is missing.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    recipe.check(sparsity)
    if remove is not None and recipe.cut.depth:
        raise InputError("counts of units say how much goes from which layer; leave --depth out")
    if recipe.of_weights:
        if remove is not None:
            raise InputError("single weights are allocated by their schedule, not by counts of units")
        return _apply_to_weights(recipe, sparsity, evidence, journal)
    model = evidence.model
    operand = biased(model) if recipe.compensation == "bias" else model
    chooser, kinds = _chooser(recipe, sparsity, evidence, given, journal, remove)
    if isinstance(chooser, Decided) and recipe.compensation == "none" and evidence.windows is None:
        return Cutting(_mask(recipe, sparsity, model, chooser.keep, given), model, kinds)
    if OBS in {recipe.scorer, recipe.compensation} or recipe.joint_method:
        warn_of_few_tokens(evidence, recipe.damping)
    method = recipe.joint_method
    if method and model.is_perceptron:
        raise InputError(
            f"{method} makes up for single weights of a perceptron, not for its units; use --compensation obs"
        )
    units = UnitSurgeon(operand, chooser, "obs" if method else recipe.compensation, recipe.damping)
    surgeon = units if method is None else JointUnitSurgeon(units, recipe.joint, method)
    operated, changed = _through_the_blocks(operand, surgeon, evidence, journal)
    return Cutting(_mask(recipe, sparsity, model, operated.keep, given), changed, kinds, operated)


def _chooser(
    recipe: Recipe,
    sparsity: float,
    evidence: Evidence,
    given: Scores | None,
    journal: Journal | None,
    remove: Mapping[str, int] | None,
) -> tuple[Chooser, tuple[str, ...]]:
    """Who decides which units of which kinds go: scores, scores to be made on the way, or the elimination itself."""
    model, choice = evidence.model, recipe.cut
    if given is None and recipe.scorer not in {"", OBS} and choice.depth != 1:
        solver = any_scorer(recipe.scorer, recipe.options)
        if isinstance(solver, SolvedScorer):
            given = evidence.solved_scores(solver, recipe.damping, journal)
    if choice.depth == 1:
        return _depth_alone(recipe, sparsity, evidence, given, journal)
    scorer = None if recipe.scorer == OBS or given is not None else make_scorer(recipe.scorer, **recipe.options)
    on_the_way = recipe.statistics == "pruned" and choice.allocation != "global" and evidence.windows is not None
    if scorer is not None and not (scorer.is_local and on_the_way):
        given = evidence.scores(scorer)
    kinds = kinds_of(choice, model.units.kinds if given is None else given.kinds)
    gone = _gone(recipe, sparsity, evidence, kinds, journal)
    if remove is None:
        remove = allocated(recipe, sparsity, evidence, kinds, given, journal, gone)
    chooser: Chooser
    if given is not None:
        keep = dict(_selected(model, given, remove, choice, kinds).keep)
        return Decided(without(keep, frozenset(gone))), kinds
    if scorer is not None:
        chooser = ByScore(model, scorer, remove, choice.heads)
    else:
        chooser = _elimination(recipe, model, remove)
    return (Without(chooser, frozenset(gone)) if gone else chooser), kinds


def _depth_alone(
    recipe: Recipe, sparsity: float, evidence: Evidence, given: Scores | None, journal: Journal | None
) -> tuple[Decided, tuple[str, ...]]:
    """Nothing goes but whole sub-blocks."""
    kinds = kinds_of(recipe.cut, evidence.model.units.kinds)
    gone = _gone(recipe, sparsity, evidence, kinds, journal, given)
    return Decided(without(dict(Mask.full(evidence.model.units).keep), frozenset(gone))), kinds


def _gone(
    recipe: Recipe,
    sparsity: float,
    evidence: Evidence,
    kinds: tuple[str, ...],
    journal: Journal | None,
    given: Scores | None = None,
) -> dict[str, int]:
    """The sub-blocks that go as a whole, and what each costs.

    Raises:
        InputError: the model has no such sub-blocks.
    """
    model, choice = evidence.model, recipe.cut
    if not choice.depth:
        return {}
    if model.is_perceptron:
        raise InputError(f"{model.name} is a perceptron, no layer of which can go as a whole; leave --depth out")
    given = _scores_of_depth(recipe, evidence, journal) if given is None else given
    budget = budget_of(model, choice)
    amount = choice.target(sparsity, prunable(model.units, kinds, budget)).amount
    there = sub_blocks(given, model.units, kinds, budget)
    most = sum(block.cost for block in there) if choice.depth == 1 else amount
    return whole(there, round(choice.depth * amount), most)


def _scores_of_depth(recipe: Recipe, evidence: Evidence, journal: Journal | None) -> Scores:
    scorer = recipe.depth_scorer
    if isinstance(scorer, SolvedScorer):
        return evidence.solved_scores(scorer, recipe.damping, journal)
    if scorer is None:
        raise AssertionError("scores are given, or a scorer is named")
    return evidence.scores(scorer)


def _elimination(recipe: Recipe, model: Model, remove: Mapping[str, int]) -> ByElimination:
    return ByElimination(
        model, remove, recipe.cut.heads, recipe.head_error, recipe.group_start, recipe.group_floor
    )  # fmt: skip


def curves_for(recipe: Recipe, evidence: Evidence, *, credited: bool = True, journal: Journal | None = None) -> Curves:
    """What every next piece of every layer costs, eliminated as a recipe does; in nats if credited."""
    return evidence.curves(_elimination(recipe, evidence.model, {}), recipe.damping, credited=credited, journal=journal)


def allocated(
    recipe: Recipe,
    sparsity: float,
    evidence: Evidence,
    kinds: tuple[str, ...],
    scores: Scores | None = None,
    journal: Journal | None = None,
    gone: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """How many pieces of every group go, by scores, by credit on the graph, or by error curves.

    Of groups that are gone as a whole, with what these cost, none do.
    """
    model, choice = evidence.model, recipe.cut
    if choice.allocation == BY_GRAPH:
        return counts(model, sparsity, choice, kinds, None, evidence.scores(make_scorer("credit")), gone)
    by_curves = choice.allocation == BY_CURVES
    if not (by_curves or (choice.allocation == "global" and scores is None)):
        return counts(model, sparsity, choice, kinds, scores, gone=gone)
    curves = curves_for(recipe, evidence, credited=by_curves, journal=journal)
    most = 1 - (1 - sparsity) / 3  # no layer keeps less than a third of what they keep on average
    budget = budget_of(model, choice)
    pieces = removable(None, model.units, kinds, head_mode=choice.heads, floor=choice.floor, budget=budget)
    pieces = tuple(part for part in pieces if part.group not in (gone or {}))
    if by_curves:  # in nats; otherwise second-order errors are compared as the layers' scores are
        choice = replace(choice, normalise="none")
    target = _target(model, sparsity, choice, kinds, gone or {})
    return allocate("global", priced(pieces, curves, most), target).remove


def _apply_to_weights(recipe: Recipe, sparsity: float, evidence: Evidence, journal: Journal | None) -> Cutting:
    model, pattern = evidence.model, recipe.n_of_m
    n_layers = model.architecture.n_layers
    blocks = layers_of(recipe.blocks, n_layers)
    names = [name for name in linear_weights(model) if model.architecture.layer_of(name) in blocks]
    if pattern is not None:
        for name in names:
            pattern.check(model.shapes[name][1], name)
    scorer: WeightScorer | None = None
    found: Mapping[str, torch.Tensor] | None = None
    if recipe.scorer != OBS:
        made = make_scorer(recipe.scorer, **recipe.options)
        if not isinstance(made, WeightScorer):
            raise InputError(f"the scorer {recipe.scorer} scores units, not single weights")
        scorer, found = made, evidence.gradients if made.needs_gradients else None
    if OBS in {recipe.scorer, recipe.compensation} or recipe.joint_method:
        warn_of_few_tokens(evidence, recipe.damping)
    remove = pattern or counts_of_weights(
        recipe.cut.allocation or "uniform", {name: model.shapes[name] for name in names}, recipe.cut.target(sparsity, 1)
    )
    method = recipe.joint_method
    alone = recipe.compensation if method is None else "obs" if scorer is None else "none"
    surgeon = WeightSurgeon(model, scorer, remove, alone, recipe.damping, found, blocks)
    if evidence.windows is None and scorer is not None and recipe.compensation == "none":
        keep = {f"{WEIGHT}{name}": surgeon.by_score(name, model.parameters[name]) for name in names}
        return Cutting(_mask(recipe, sparsity, model, keep, None), model)
    taken: Surgeon = surgeon
    if method is not None:
        taken = JointSurgeon(surgeon, recipe.joint, layers_of(recipe.global_layers, n_layers), method)
    operated, changed = _through_the_blocks(model, taken, evidence, journal)
    return Cutting(_mask(recipe, sparsity, changed, operated.keep, None), changed, operated=operated)


def _through_the_blocks(
    model: Model, surgeon: Surgeon, evidence: Evidence, journal: Journal | None
) -> tuple[Operated, Model]:
    operated = operate(
        model, evidence.rows, surgeon, dtype=evidence.dtype, device=evidence.device, journal=journal
    )  # fmt: skip
    return operated, replace(model, parameters=Overlaid(model.parameters, operated.parameters))


def _mask(
    recipe: Recipe, sparsity: float, model: Model, keep: Mapping[str, torch.Tensor], given: Scores | None
) -> Mask:
    """A whole mask of what was decided."""
    options = {
        "scorer": dict(recipe.options if given is None else given.options),
        "sparsity": sparsity,
        "allocation": recipe.cut.allocation,
        "compensation": recipe.compensation,
        "pattern": recipe.pattern,
    }
    method = recipe.scorer if given is None else given.method
    mask = Mask({**Mask.full(model.units).keep, **keep}, method, options, model.identity)
    mask.check_legal(model.units)
    if not recipe.cut.depth:
        warn_of_depth(mask, tuple(name for name in keep if name in model.units))
    return mask


def warn_of_few_tokens(evidence: Evidence, damping: float) -> None:
    """Says so if there are fewer calibration tokens than a layer that is repaired has columns."""
    units = evidence.model.units
    n_tokens = len(evidence.rows) if evidence.model.is_perceptron else evidence.rows.numel()
    widest = max((group.size * group.width for group in units.of_kind(HEAD, NEURON)), default=0)
    if n_tokens < widest:
        warnings.warn(
            f"{n_tokens:,} calibration tokens for layers of up to {widest:,} columns: the repair fits the text "
            f"more than the model; calibrate on more, or raise the damping ({damping:g})",
            stacklevel=1,
        )


@dataclass(frozen=True)
class Pruned:
    """A pruned model in memory.

    Attributes:
        model: the smaller model (layers padded to a common width where a configuration has only one, unless ragged).
        mask: what stays of the dense one.
        rung: `uniform`, `padded`, `ragged`, `masked` or `excised`.
        operated: what the sequential engine reports, if it ran.
    """

    model: Model
    mask: Mask
    rung: str
    operated: Operated | None = None


def prune(
    model: Model,
    by: Scores | str,
    sparsity: float | None = None,
    *,
    scorer: str | None = None,
    options: Mapping[str, Any] | None = None,
    allocation: str | None = None,
    compensation: Compensation | None = None,
    pattern: str | None = None,
    units: Units = "all",
    head_mode: HeadMode | None = None,
    floor: int = 1,
    round_to: int = 1,
    normalise: Normalise | None = None,
    first: float = 0.0625,
    depth: float | None = None,
    depth_scorer: str | None = None,
    statistics: Statistics | None = None,
    damping: float | None = None,
    head_error: HeadError | None = None,
    group_start: int | None = None,
    group_floor: int | None = None,
    joint: JointOptions | None = None,
    global_layers: str | None = None,
    blocks: str | None = None,
    rung: str = "auto",
    calibration: Path | str | torch.Tensor | None = None,
    n_samples: int = 32,
    seq_len: int = 512,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Pruned:
    """A smaller model without the units (or single weights) that matter least.

    Args:
        model: the dense model; it stays as it is.
        by: a method's name (`PRESETS`), or scores of its units; higher = keep (see `graphprune.score`).
        sparsity: fraction removed of the prunable parameters in the decoder blocks; a pattern like `2:4` says it.
        scorer: instead of the method's own.
        options: of the scorer.
        allocation: `uniform` (every layer alike), `log` or `linear` (later layers lose more; `log_reversed` and
            `linear_reversed`: earlier ones), `global` (one threshold), `graph` (one threshold on the credit of the
            whole graph).
        compensation: `none`; `obs`: what stays of the layers that read removed units is refitted by least squares;
            `bias`: the mean of what goes becomes a bias; `sparsellm`, `reconstruct`: all layers of an MLP make up for
            it together, by auxiliary variables or by gradient steps.
        pattern: `units`, `unstructured`, or `N:M` (N of every M neighbouring weights stay).
        units: `neuron`, `head`, or `all` kinds that have scores.
        head_mode: heads go as whole key/value groups (`group`) or one from every group (`balanced`); None for the
            method's own, as for all choices below that have one.
        floor: neurons, and head groups, that stay in every layer.
        round_to: widths that stay are a multiple of this.
        normalise: of `global`: scores are compared per `layer`, as `standard` deviations, or raw (`none`).
        first: of `log` and `linear`: the largest share that the first layer loses.
        depth: the share of the budget that goes as whole attentions and MLPs.
        depth_scorer: what these go by, where other units go as well; `influence` by default.
        statistics: of the `pruned` blocks before, or of the `dense` model.
        damping: of the Hessians, as a share of their mean diagonal.
        head_error: of a head under second-order errors: `grouped` or `exact`.
        group_start: how many neurons go at a time under second-order errors, at first; None scales with the width.
        group_floor: and at last.
        joint: of the compensations `sparsellm` and `reconstruct`.
        global_layers: the blocks whose MLPs these solve as a whole: `all`, `first_half`, or a range like `0-14`.
        blocks: those that lose single weights, likewise; the sparsity is of these.
        rung: shape of the result: `auto` (ragged where sub-blocks go as a whole), `uniform`, `padded`, `ragged` or
            `masked`.
        calibration: a text, its path, or token ids (see `graphprune.calibrate`).
        n_samples: windows drawn from a text.
        seq_len: tokens a window.
        seed: of the draw.
        dtype: of the forward passes; the checkpoint's own by default.
        device: of the forward passes.

    Raises:
        InputError: an option is unknown, or the scores don't cover the units.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    choice = Cut(
        allocation, units, head_mode, floor, round_to, normalise, first=first, depth=depth, depth_scorer=depth_scorer
    )
    given = None if isinstance(by, str) else by
    recipe = Recipe.of(
        by if isinstance(by, str) else None, scorer=scorer, options=options, cut=choice, compensation=compensation,
        pattern=pattern, statistics=statistics, damping=damping, head_error=head_error, group_start=group_start,
        group_floor=group_floor, joint=joint, global_layers=global_layers, blocks=blocks,
    )  # fmt: skip
    amount = recipe.sparsity(sparsity)
    recipe.check(amount)
    if calibration is None:
        recipe.check_without_text(given_scores=given is not None)
    evidence = Evidence.of_text(
        model, calibration, n_samples=n_samples, seq_len=seq_len, seed=seed, dtype=dtype, device=device
    )
    cutting = apply(recipe, amount, evidence, given=given)
    source = cutting.model
    shape = shape_of(source, cutting.mask, recipe.rung(rung))
    left = (name for name in source.parameters if shape.has(name))
    parameters = {name: shape.parameter(name, source.parameters[name]) for name in left}
    tokenizer = model.text_tokenizer
    if tokenizer is None and model.folder is not None and not model.is_perceptron:
        tokenizer = model.tokenizer
    name = f"{model.name} pruned by {by if isinstance(by, str) else by.method} at {amount:g}"
    smaller = Model.from_parameters(shape.config(source.config), parameters, name=name, tokenizer=tokenizer)
    return Pruned(smaller, cutting.mask, shape.rung, cutting.operated)

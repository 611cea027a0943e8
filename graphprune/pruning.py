"""A point in the product of scorer, allocation and compensation, applied to a model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from graphprune.allocation import ALLOCATIONS, Target, allocate
from graphprune.calibration.forward import calibration_rows
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.masks.items import Budget, HeadMode, prunable, removable
from graphprune.masks.select import select
from graphprune.models.model import Model
from graphprune.scorers import SCORERS
from graphprune.solvers.sequential import Overlaid, repaired
from graphprune.surgery.shape import shape_of

Units = Literal["all", "neuron", "head"]
Compensation = Literal["none", "obs"]
COMPENSATIONS: tuple[Compensation, ...] = ("none", "obs")


@dataclass(frozen=True)
class Preset:
    """A named method: what decides, how it is spread over layers, how survivors make up for it."""

    scorer: str
    allocation: str = "uniform"


PRESETS: dict[str, Preset] = {name: Preset(name) for name in SCORERS}


@dataclass(frozen=True)
class Cut:
    """How scores become a mask.

    Attributes:
        allocation: `uniform`, `global`, or None for the method's own.
        units: what may go: `neuron`, `head`, or `all` kinds that have scores.
        head_mode: heads go as whole key/value groups (`group`) or one from every group (`balanced`).
        floor: pieces that stay in every layer; 0 allows an empty layer.
        round_to: widths that stay are a multiple of this.
        normalise: of `global`: `layer` or `none`.
        budget: what is counted: `parameters`, `units`, or None for parameters of a decoder and units of a perceptron
            (where a weight belongs to two neurons).
    """

    allocation: str | None = None
    units: Units = "all"
    head_mode: HeadMode = "group"
    floor: int = 1
    round_to: int = 1
    normalise: Literal["layer", "none"] = "layer"
    budget: Budget | None = None

    def with_defaults(self, preset: Preset) -> "Cut":
        return self if self.allocation is not None else replace(self, allocation=preset.allocation)

    def check(self, sparsity: float) -> None:
        """Checks everything that can be checked without a model.

        Raises:
            InputError: an option is unknown or out of range.
        """
        if self.allocation is not None and self.allocation not in ALLOCATIONS:
            raise InputError(f"no allocation is named {self.allocation!r}; there are {', '.join(ALLOCATIONS)}")
        if self.units not in {"all", "neuron", "head"}:
            raise InputError(f"units are all, neuron or head, not {self.units!r}")
        if self.floor < 0:
            raise InputError(f"the floor is at least 0, not {self.floor}")
        Target(sparsity, 1, self.normalise, self.round_to)


def kinds_of(choice: Cut, scores: Scores) -> tuple[str, ...]:
    """The kinds of unit that a cut may remove."""
    if choice.units != "all":
        return (choice.units,)
    return tuple(kind for kind in (HEAD, NEURON) if kind in scores.kinds)


def cut(model: Model, scores: Scores, sparsity: float, choice: Cut | None = None) -> Mask:
    """The mask that removes a fraction of a model's prunable parameters, lowest scores first.

    Args:
        model: the model.
        scores: of its units; higher = keep.
        sparsity: fraction removed of the parameters (or units) of the kinds that are pruned.
        choice: how.

    Raises:
        InputError: an option is unknown, or the scores don't cover the units.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    choice = choice or Cut()
    choice.check(sparsity)
    kinds = kinds_of(choice, scores)
    if HEAD in kinds and not model.units.of_kind(HEAD):
        raise InputError(f"{model.name} has no attention heads")
    budget: Budget = choice.budget or ("units" if model.is_perceptron else "parameters")
    pieces = removable(
        scores, model.units, kinds, head_mode=choice.head_mode, floor=choice.floor, budget=budget
    )  # fmt: skip
    target = Target(sparsity, prunable(model.units, kinds, budget), choice.normalise, choice.round_to)
    allocation = allocate(choice.allocation or "uniform", pieces, target)
    options = {
        "scorer": dict(scores.options),
        "sparsity": sparsity,
        "units": list(kinds),
        "allocation": allocation.name,
    }
    return select(pieces, allocation.remove, model.units, method=scores.method, options=options, model=model.identity)


def check_compensation(compensation: str, damping: float) -> None:
    """Checks how survivors shall make up for what goes.

    Raises:
        InputError: it is unknown, or the damping is negative.
    """
    if compensation not in COMPENSATIONS:
        raise InputError(f"no compensation is named {compensation!r}; there are {', '.join(COMPENSATIONS)}")
    if not 0 <= damping < float("inf"):
        raise InputError(f"damping is a share of the mean diagonal, at least 0, not {damping:g}")


@dataclass(frozen=True)
class Pruned:
    """A pruned model in memory.

    Attributes:
        model: the smaller model (layers padded to a common width where a configuration has only one).
        mask: what stays of the dense one.
        rung: `uniform`, `padded`, `masked` or `excised`.
    """

    model: Model
    mask: Mask
    rung: str


def prune(
    model: Model,
    scores: Scores,
    sparsity: float,
    *,
    allocation: str = "uniform",
    units: Units = "all",
    head_mode: HeadMode = "group",
    floor: int = 1,
    round_to: int = 1,
    normalise: Literal["layer", "none"] = "layer",
    rung: str = "auto",
    compensation: Compensation = "none",
    calibration: Path | str | torch.Tensor | None = None,
    damping: float = 0.01,
) -> Pruned:
    """A smaller model without the units that score lowest.

    Args:
        model: the dense model; it stays as it is.
        scores: of its units; higher = keep (see `graphprune.score`).
        sparsity: fraction removed of the prunable parameters in the decoder blocks.
        allocation: `uniform` (every layer alike) or `global` (one threshold).
        units: `neuron`, `head`, or `all` kinds that have scores.
        head_mode: heads go as whole key/value groups (`group`) or one from every group (`balanced`).
        floor: neurons, and head groups, that stay in every layer.
        round_to: widths that stay are a multiple of this.
        normalise: of `global`: compare scores per `layer`, or raw (`none`).
        rung: shape of the result: `auto`, `uniform`, `padded` or `masked`.
        compensation: `none`, or `obs`: what stays of the layers that read removed units is refitted by least squares.
        calibration: a text, its path, or token ids, to repair with (see `graphprune.calibrate`).
        damping: of the Hessians of the repair, as a share of their mean diagonal.

    Raises:
        InputError: an option is unknown, or the scores don't cover the units.
        InfeasibleError: the floors don't allow that much; the nearest sparsity is named.
    """
    choice = Cut(allocation, units, head_mode, floor, round_to, normalise)
    check_compensation(compensation, damping)
    if compensation == "obs" and calibration is None:
        raise InputError("compensation needs calibration: a text, its path, or token ids")
    mask = cut(model, scores, sparsity, choice)
    shape = shape_of(model, mask, rung)
    weights = model.parameters
    if compensation == "obs" and calibration is not None:
        weights = Overlaid(weights, repaired(model, mask, calibration_rows(model, calibration), damping=damping))
    parameters = {name: shape.parameter(name, weights[name]) for name in weights}
    tokenizer = model.text_tokenizer
    if tokenizer is None and model.folder is not None and not model.is_perceptron:
        tokenizer = model.tokenizer
    name = f"{model.name} pruned by {scores.method} at {sparsity:g}"
    smaller = Model.from_parameters(shape.config(model.config), parameters, name=name, tokenizer=tokenizer)
    return Pruned(smaller, mask, shape.rung)

"""What a scorer is, and what it may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from jaxtyping import Float

from graphprune.core.graph import ModelGraph
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON, Ownership, UnitGroup
from graphprune.models.model import Model

UnitScores = dict[str, Float[torch.Tensor, " _units"]]


@dataclass(frozen=True)
class ScoringInputs:
    """A model, what calibration measured, and the exported graph and the loss's gradients if there are any."""

    model: Model
    stats: CalibrationStats | None = None
    graph: ModelGraph | None = None
    gradients: Mapping[str, torch.Tensor] | None = None
    only: tuple[str, ...] | None = None

    @property
    def measured(self) -> CalibrationStats:
        """The statistics of a scorer that said it needs them."""
        if self.stats is None:
            raise ValueError("this scorer needs calibration statistics")
        return self.stats

    @property
    def groups(self) -> tuple[UnitGroup, ...]:
        """The groups to score: heads and neurons, or only some of them. A key/value head counts as its query heads."""
        groups = self.model.units.of_kind(HEAD, NEURON)
        return groups if self.only is None else tuple(group for group in groups if group.name in self.only)

    def weight(self, own: Ownership) -> Float[torch.Tensor, "..."]:
        return self.model.parameters[own.parameter].float()

    def gradient(self, own: Ownership) -> Float[torch.Tensor, "..."]:
        """The gradient of what is owned, for a scorer that said it needs gradients."""
        if self.gradients is None:
            raise ValueError("this scorer needs gradients")
        return self.gradients[own.parameter].float()


@dataclass(frozen=True)
class WeightInputs:
    """What may be looked at to score the weights of one matrix.

    Attributes:
        parameter: its name.
        rms: root mean square over tokens of each of its input channels.
        gradient: of the loss.
    """

    parameter: str
    rms: Float[torch.Tensor, " in"] | None = None
    gradient: Float[torch.Tensor, "out in"] | None = None

    @property
    def norms(self) -> Float[torch.Tensor, " in"]:
        """The inputs' root mean squares, for a scorer that needs statistics."""
        if self.rms is None:
            raise ValueError("this scorer needs the root mean square of the inputs")
        return self.rms

    @property
    def slope(self) -> Float[torch.Tensor, "out in"]:
        """The gradient, for a scorer that needs gradients."""
        if self.gradient is None:
            raise ValueError("this scorer needs gradients")
        return self.gradient


@runtime_checkable  # the shape checker asks
class Scorer(Protocol):
    """A frozen dataclass of hyper-parameters that scores units when called; higher = keep."""

    @property
    def name(self) -> str: ...

    @property
    def needs_stats(self) -> bool: ...

    @property
    def needs_gradients(self) -> bool: ...

    @property
    def is_local(self) -> bool:
        """Whether a group's scores depend on its own outputs alone, so that it can be scored behind pruned blocks."""
        ...

    def __call__(self, inputs: ScoringInputs) -> UnitScores: ...


@runtime_checkable
class WeightScorer(Protocol):
    """A scorer that can score single weights as well; higher = keep.

    Its scores compare within a ``row`` (the weights of one output) or within the whole ``matrix``.
    """

    @property
    def name(self) -> str: ...

    @property
    def per(self) -> Literal["matrix", "row"]: ...

    def of_weights(self, weights: Float[torch.Tensor, "out in"], seen: WeightInputs) -> Float[torch.Tensor, "out in"]:
        """A score for every weight of a matrix, on its device."""
        ...


def option_value(scorer: type, option: str, value: Any) -> Any:
    """A value as the type of a scorer's option; a whole number may stand for a float.

    Raises:
        ValueError: it is none of the allowed values, or of another type.
    """
    hint = get_type_hints(scorer)[option]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{option} is {' or '.join(map(str, get_args(hint)))}, not {value!r}")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{option} is a{'n' if hint is int else ''} {hint.__name__}, not {value!r}")
    return value


def check_options(scorer: Any) -> None:
    """Checks the type of every option of a scorer, and that it is one of the allowed values where there is a choice.

    Raises:
        ValueError: one isn't.
    """
    for option in fields(scorer):
        option_value(type(scorer), option.name, getattr(scorer, option.name))

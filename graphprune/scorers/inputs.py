"""What a scorer is, and what it may look at."""

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
    """A model, what calibration measured, and the exported graph if there is one."""

    model: Model
    stats: CalibrationStats | None = None
    graph: ModelGraph | None = None

    @property
    def measured(self) -> CalibrationStats:
        """The statistics of a scorer that said it needs them."""
        if self.stats is None:
            raise ValueError("this scorer needs calibration statistics")
        return self.stats

    @property
    def groups(self) -> tuple[UnitGroup, ...]:
        """The groups every scorer scores: heads and neurons. A key/value head counts as its query heads."""
        return self.model.units.of_kind(HEAD, NEURON)

    def weight(self, own: Ownership) -> Float[torch.Tensor, "..."]:
        return self.model.parameters[own.parameter].float()


@runtime_checkable  # the shape checker asks
class Scorer(Protocol):
    """A frozen dataclass of hyper-parameters that scores units when called; higher = keep."""

    @property
    def name(self) -> str: ...

    @property
    def needs_stats(self) -> bool: ...

    def __call__(self, inputs: ScoringInputs) -> UnitScores: ...


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

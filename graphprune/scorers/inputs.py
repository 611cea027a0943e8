"""What a scorer is, and what it may look at."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float

from graphprune.core.graph import ModelGraph
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON, Ownership, UnitGroup
from graphprune.models.model import Model

UnitScores = dict[str, Float[torch.Tensor, " units"]]


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


class Scorer(Protocol):
    """A frozen dataclass of hyper-parameters that scores units when called; higher = keep."""

    @property
    def name(self) -> str: ...

    @property
    def needs_stats(self) -> bool: ...

    def __call__(self, inputs: ScoringInputs) -> UnitScores: ...

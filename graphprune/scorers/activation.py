"""How much a unit's output carries on calibration text."""

from dataclasses import dataclass
from typing import ClassVar

from graphprune.scorers.inputs import ScoringInputs, UnitScores


@dataclass(frozen=True)
class Activation:
    """Root mean square over tokens of a unit's output, the L2 norm over channels for a head.

    A neuron's output is the input of the down projection; a head's is its part of the input of the output projection.
    """

    name: ClassVar[str] = "activation"
    needs_stats: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = True

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        stats = inputs.measured
        return {g.name: g.per_unit(stats.rms(g.site)).square().sum(dim=1).sqrt() for g in inputs.groups}

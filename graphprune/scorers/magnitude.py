"""Norms of a unit's own weights, no data."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float

from graphprune.scorers.inputs import ScoringInputs, UnitScores, WeightInputs, check_options


@dataclass(frozen=True)
class Magnitude:
    """``sum |w|`` (norm 1) or ``sqrt(sum w^2)`` (norm 2) over the parameters a unit owns.

    Attributes:
        norm: 1 or 2.
        part: `incoming` (the rows that compute the unit: the baseline of LLM-Rank), `outgoing` (the columns that read
            it), or `all`.
    """

    norm: Literal[1, 2] = 1
    part: Literal["all", "incoming", "outgoing"] = "all"
    name: ClassVar[str] = "magnitude"
    needs_stats: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = False
    per: ClassVar[Literal["matrix", "row"]] = "matrix"

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores = {}
        for group in inputs.groups:
            owns = {"all": group.owns, "incoming": group.incoming, "outgoing": group.outgoing}[self.part]
            total = torch.zeros(group.size)
            for own in owns:
                rows = inputs.weight(own).movedim(own.axis, 0).reshape(group.size, -1)
                total += rows.abs().pow(self.norm).sum(dim=1)
            scores[group.name] = total.pow(1 / self.norm)
        return scores

    def of_weights(
        self,
        weights: Float[torch.Tensor, "out in"],
        seen: WeightInputs,  # noqa: ARG002 - a magnitude needs no data
    ) -> Float[torch.Tensor, "out in"]:
        """``|w|`` of every weight; the options are of units and change nothing here."""
        return weights.abs()

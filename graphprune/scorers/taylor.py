"""First-order Taylor importance (LLM-Pruner: Ma, Fang, Wang 2023, arXiv 2305.11627, section 3.2)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float

from graphprune.scorers.inputs import ScoringInputs, UnitScores, WeightInputs, check_options


@dataclass(frozen=True)
class Taylor:
    """How much the loss changes, to first order, if a unit's parameters are set to zero.

    Math: with ``g = dL/dw`` summed over the parameters ``w`` that a unit owns, ``sum |w g|`` (`element`) or
    ``|sum w g|`` (`unit`). The second order of the paper is left out, as is its default.

    Attributes:
        form: `element` (a parameter's change counts whatever its sign) or `unit` (changes of opposite sign cancel).
    """

    form: Literal["element", "unit"] = "element"
    name: ClassVar[str] = "taylor"
    needs_stats: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = True
    is_local: ClassVar[bool] = False
    per: ClassVar[Literal["matrix", "row"]] = "matrix"

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores = {}
        for group in inputs.groups:
            total = torch.zeros(group.size, dtype=torch.float64)
            for own in group.owns:
                change = inputs.weight(own) * inputs.gradient(own)
                rows = change.movedim(own.axis, 0).reshape(group.size, -1)
                total += (rows.abs() if self.form == "element" else rows).sum(dim=1, dtype=torch.float64)
            scores[group.name] = total.abs()
        return scores

    def of_weights(self, weights: Float[torch.Tensor, "out in"], seen: WeightInputs) -> Float[torch.Tensor, "out in"]:
        """``|w g|`` of every weight, in either form."""
        return (weights * seen.slope).abs()

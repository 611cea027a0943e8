"""Wanda's weight score (Sun et al. 2023, arXiv 2306.11695, equation 1), and its sum over a unit."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float

from graphprune.scorers.inputs import ScoringInputs, UnitScores, WeightInputs


@dataclass(frozen=True)
class Wanda:
    """``sum_i |W_ij| * ||x_j||`` over the rows i of the matrix that reads channel j, summed over a unit's channels.

    The norm is the root mean square over tokens, which orders units like the L2 norm.
    """

    name: ClassVar[str] = "wanda"
    needs_stats: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = True
    per: ClassVar[Literal["matrix", "row"]] = "row"

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores = {}
        for group in inputs.groups:
            norms = inputs.measured.rms(group.site)
            total = torch.zeros(group.size, dtype=torch.float64)
            for own in group.outgoing:
                total += group.per_unit(inputs.weight(own).abs().sum(dim=0).double() * norms).sum(dim=1)
            scores[group.name] = total
        return scores

    def of_weights(self, weights: Float[torch.Tensor, "out in"], seen: WeightInputs) -> Float[torch.Tensor, "out in"]:
        """``|W_ij| * ||x_j||`` of every weight; the paper compares them within a row."""
        return weights.abs() * seen.norms.to(weights)

"""Wanda's weight score, summed over a unit (Sun et al. 2023, arXiv 2306.11695, equation 1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphprune.scorers.inputs import ScoringInputs, UnitScores


@dataclass(frozen=True)
class Wanda:
    """``sum_i |W_ij| * ||x_j||`` over the rows i of the matrix that reads channel j, summed over a unit's channels.

    The norm is the root mean square over tokens, which orders units like the L2 norm.
    """

    name: ClassVar[str] = "wanda"
    needs_stats: ClassVar[bool] = True

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores = {}
        for group in inputs.groups:
            norms = inputs.measured.rms(group.site)
            total = torch.zeros(group.size, dtype=torch.float64)
            for own in group.outgoing:
                total += group.per_unit(inputs.weight(own).abs().sum(dim=0).double() * norms).sum(dim=1)
            scores[group.name] = total
        return scores

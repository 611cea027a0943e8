"""FLAP's fluctuation metric (An, Zhao, Yu, Tang, Wang 2023, arXiv 2312.11983).

A channel that hardly fluctuates can go and be made up for by a bias: what it gave is its mean.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphprune.scorers.inputs import ScoringInputs, UnitScores


@dataclass(frozen=True)
class Flap:
    """``var(x_j) * ||W_:j||^2`` of the channels j that a unit gives to the layer that reads it, the mean over a head.

    Math: this is the mean over tokens of ``||W_:j (x_j - mean(x_j))||^2``: what is left of a channel once a bias stands
    in for its mean. The variance is over all tokens and divided by their number.

    The authors' code divides by the number of windows, a factor that all channels share. To compare layers it
    standardises the channels of each, attention's squared first, before it takes the mean over a head's; how layers
    compare is left to the allocation here.
    """

    name: ClassVar[str] = "flap"
    needs_stats: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = True

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores = {}
        for group in inputs.groups:
            variance = inputs.measured.variance(group.site)
            total = torch.zeros(group.size, dtype=torch.float64)
            for own in group.outgoing:
                squares = inputs.weight(own).square().sum(dim=0).double()
                total += group.per_unit(squares * variance).mean(dim=1)
            scores[group.name] = total
        return scores

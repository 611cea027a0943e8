"""Uniform random scores: what any method must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from graphprune.scorers.inputs import ScoringInputs, UnitScores


@dataclass(frozen=True)
class Random:
    """Independent uniform scores from a seed."""

    seed: int = 0
    name: ClassVar[str] = "random"
    needs_stats: ClassVar[bool] = False

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        generator = torch.Generator().manual_seed(self.seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in inputs.groups}

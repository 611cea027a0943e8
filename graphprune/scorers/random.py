"""Uniform random scores: what any method must beat."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float

from graphprune.core.io import digest
from graphprune.scorers.inputs import ScoringInputs, UnitScores, WeightInputs, check_options


@dataclass(frozen=True)
class Random:
    """Independent uniform scores from a seed."""

    seed: int = 0
    name: ClassVar[str] = "random"
    needs_stats: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = False
    per: ClassVar[Literal["matrix", "row"]] = "matrix"

    def __post_init__(self) -> None:
        check_options(self)
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"the seed is a whole number from 0 to 2^63 - 1, not {self.seed}")

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        generator = torch.Generator().manual_seed(self.seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in inputs.groups}

    def of_weights(self, weights: Float[torch.Tensor, "out in"], seen: WeightInputs) -> Float[torch.Tensor, "out in"]:
        """Independent uniform scores from the seed and the parameter's name."""
        generator = torch.Generator().manual_seed(int(digest([self.seed, seen.parameter]), 16) >> 1)
        return torch.rand(weights.shape, generator=generator).to(weights.device)

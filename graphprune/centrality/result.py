"""A centrality and how it was computed."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float

Direction = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")


@dataclass(frozen=True)
class CentralityResult:
    """Scores of all nodes, in the caller's order.

    Attributes:
        scores: one value a node.
        name: the centrality.
        direction: `forward` (along the edges), `backward` (against them) or `both`.
        normalisation: what the scores sum to, or how they are scaled.
        solver: how they were computed.
        residual: absolute L1 norm of what the scores miss in their own equation.
    """

    scores: Float[torch.Tensor, " n_nodes"]
    name: str
    direction: Direction
    normalisation: str
    solver: str
    residual: float

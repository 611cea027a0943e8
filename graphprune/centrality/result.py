"""A centrality and how it was computed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float

from graphprune.core.graph import ModelGraph

Direction = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")


def nothing_missed() -> float:
    """The residual of what is counted and not solved for."""
    return 0.0


@dataclass(frozen=True)
class CentralityResult:
    """Scores of all nodes, in the caller's order.

    Attributes:
        scores: one value a node, or one column of them for each personalization vector.
        name: the centrality.
        direction: `forward` (along the edges), `backward` (against them) or `both`.
        normalisation: what the scores sum to, or how they are scaled.
        solver: how they were computed.
        stderr: the standard error of each score, where sources were sampled.
        aggregate: how the channels of a head make one value: `sum` where scores add up (a share, a count), else `mean`.
    """

    scores: Float[torch.Tensor, " n_nodes *k"]
    name: str
    direction: Direction
    normalisation: str
    solver: str
    stderr: Float[torch.Tensor, " n_nodes"] | None = None
    aggregate: Literal["sum", "mean"] = "sum"
    check: Callable[[], float] = field(default=nothing_missed, repr=False, compare=False)

    @cached_property
    def residual(self) -> float:
        """Absolute L1 norm of what the scores miss in their own equation; 0 for what is counted, not solved for.

        Measured when it is asked for: another pass over the edges, which uses no order.
        """
        return self.check()


@dataclass(frozen=True)
class EdgeCentralityResult:
    """Scores of all edges.

    Attributes:
        edges: the same edges, with the scores as their weights.
        name, direction, normalisation, solver: as of `CentralityResult`.
        stderr: the same edges with the standard errors as their weights, where sources were sampled.
    """

    edges: ModelGraph
    name: str
    direction: Direction
    normalisation: str
    solver: str
    stderr: ModelGraph | None = None
    check: Callable[[], float] = field(default=nothing_missed, repr=False, compare=False)

    @cached_property
    def residual(self) -> float:
        """As of `CentralityResult`."""
        return self.check()

"""Sums over all paths in the log domain: a product of a thousand layers neither overflows nor vanishes.

A node's value is kept as its log. What it sends is that value as a factor and a level, ``factor * exp(level * width)``:
nodes of one level, or of two that are neighbours, go through a block by one ordinary product, so that a sweep is as
fast as a linear one. Only where a block's senders are further apart does it take several.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float

from graphprune.centrality.sweep import sweep
from graphprune.core.block import EdgeBlock, Run
from graphprune.core.graph import ModelGraph

Values = Float[torch.Tensor, " n_nodes *k"]

WIDTH = 15.0  # powers of e in a level: two of them times a weight above 1e-25 are still a normal float32
NOWHERE = -(1 << 30)  # the level of zero


class Levels:
    """What nodes send, as factors and levels; filled while a sweep goes on.

    Args:
        like: node values, for their shape and device.
        dtype: of the factors: that of the weights they are multiplied with.
    """

    def __init__(self, like: Values, dtype: torch.dtype) -> None:
        self.factor = torch.zeros_like(like, dtype=dtype)
        self.level = torch.full_like(like, NOWHERE, dtype=torch.int32)

    def put(self, logs: torch.Tensor, first: int, last: int) -> None:
        """Sets what nodes ``first`` to ``last`` send, from its logs."""
        level = (logs / WIDTH).ceil()
        there = torch.isfinite(logs)
        self.factor[first:last] = torch.where(there, (logs - level * WIDTH).exp(), 0.0).to(self.factor.dtype)
        self.level[first:last] = torch.where(there, level, float(NOWHERE)).int()

    def through(self, senders: Run, linear: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The log of a linear map without negative entries of what some nodes send, in float64."""
        factor, level = self.factor[slice(*senders)], self.level[slice(*senders)]
        if factor.numel() == 0:
            return linear(factor).double().log()
        top = level.amax(dim=0, keepdim=True)
        depth = torch.where(factor > 0, top - level, 0)
        lower = math.exp(-WIDTH)
        result: torch.Tensor | None = None
        deepest = int(depth.max())
        for here in range(0, deepest + 1, 2):
            if deepest == 0:
                part = factor
            else:
                below = torch.where(depth == here + 1, factor * lower, 0.0)
                part = torch.where(depth == here, factor, below)
                if here and not bool(part.any()):
                    continue
            logs = linear(part).double().log() + (top - here) * WIDTH
            result = logs if result is None else torch.logaddexp(result, logs)
        if result is None:
            raise AssertionError("the highest level is never empty")
        return result


def solve_log(
    graph: ModelGraph,
    start: Values,
    *,
    sender: Float[torch.Tensor, " n_nodes"] | None = None,
    alpha: float = 1.0,
    backward: bool = False,
    arrivals: bool = False,
) -> Values:
    """``log x`` with ``x = exp(start) + y``: what a node has to begin with and what arrives, whatever its magnitude.

    Math: ``y = alpha A^T S x`` (``A S x`` backward); minus infinity is the log of nothing.

    Args:
        graph: a graph with non-negative weights.
        start: log of what each node has to begin with.
        sender: log of the factor of what each node sends.
        alpha: factor of every edge.
        backward: go against the edges.
        arrivals: ``log y`` instead: only what arrives, by paths of at least one edge.

    Node values are float64 whatever the weights are, so that only the relative error of the sums (that of the weights'
    type) is left. Weights below 1e-25 in float32 and 1e-295 in float64 may count as zero beside larger terms.

    Cost: every weight is read once; bound by memory bandwidth.
    """
    start = start.double()
    levels = Levels(start, graph.dtype)

    def send(final: torch.Tensor, first: int, last: int) -> torch.Tensor:
        factor = 0.0 if sender is None else sender[first:last] if final.ndim == 1 else sender[first:last, None]
        levels.put(torch.logaddexp(final, start[first:last]) + factor, first, last)
        return final

    def step(block: EdgeBlock, _: torch.Tensor) -> torch.Tensor:
        senders, linear = (block.dst, block.pull) if backward else (block.src, block.push)
        return levels.through(senders, linear) + math.log(alpha)

    nothing = torch.full_like(start, -torch.inf)
    arrived = sweep(graph, nothing, step, torch.logaddexp, send=send, backward=backward)
    return arrived if arrivals else torch.logaddexp(arrived, start)

"""Shortest paths by min-plus sweeps in topological order, from many sources at once."""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float

from graphprune.centrality.options import refuse_negative
from graphprune.centrality.sweep import sweep
from graphprune.core.block import Block, EdgeBlock
from graphprune.core.graph import ModelGraph

Values = Float[torch.Tensor, " n_nodes *k"]
Distance = Literal["weight", "inverse"] | None
TILE = 1 << 16  # numbers a piece of work holds at a time: what fits the cache of a core


class Length:
    """How long an edge is, and the kernels of shortest paths.

    Args:
        distance: None (every edge counts one), `weight` (the weight is the length) or `inverse` (1 / |weight|: strong
            edges are short, and an edge of weight zero is none).
        name: what the caller calls that option.
        nonnegative: a graph that must not have a negative length.
    """

    def __init__(self, distance: Distance, name: str = "distance", *, nonnegative: ModelGraph | None = None) -> None:
        if distance not in {None, "weight", "inverse"}:
            raise ValueError(f"{name} must be None, 'weight' or 'inverse', not {distance!r}")
        if distance == "weight" and nonnegative is not None:
            refuse_negative(nonnegative, "a length")
        self.distance: str | None = distance

    @classmethod
    def of_products(cls) -> "Length":
        """Lengths that add up as weights multiply: ``-log |w|``, negative above one; weight zero is no edge."""
        length = cls("weight")
        length.distance = "product"
        return length

    def cost(self, block: EdgeBlock) -> int:
        """How many numbers a sweep from one source looks at."""
        rows, columns = block.shape
        return rows + columns if self.distance is None and block.n_edges == rows * columns else block.n_edges

    def of(self, weights: torch.Tensor) -> torch.Tensor:
        """The lengths of edges of these weights, in float64."""
        if self.distance is None:
            return torch.ones_like(weights, dtype=torch.float64)
        if self.distance == "product":
            return -weights.double().abs().log()
        return weights.double() if self.distance == "weight" else weights.double().abs().reciprocal()

    def nearest(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        """``y_v = min_u x_u + l_uv``."""
        if block.is_full and self.distance is None:
            return _amin(x).expand(block.shape[0], *x.shape[1:]) + 1
        if not block.is_full:
            return _smallest(x[block.col] + self._column(block, x), block.rows(), block.shape[0])
        columns = _columns(x).t().contiguous()
        parts = [(columns[:, None] + tile).amin(dim=2) for _, tile in self._tiles(block, x)]
        return torch.cat(parts, dim=1).t().reshape(block.shape[0], *x.shape[1:])

    def nearest_back(self, block: Block, y: torch.Tensor) -> torch.Tensor:
        """``x_u = min_v y_v + l_uv``."""
        if block.is_full and self.distance is None:
            return _amin(y).expand(block.shape[1], *y.shape[1:]) + 1
        if not block.is_full:
            return _smallest(y[block.rows()] + self._column(block, y), block.col.long(), block.shape[1])
        columns = _columns(y).t().contiguous()
        result = columns.new_full((columns.shape[0], block.shape[1]), torch.inf)
        for rows, tile in self._tiles(block, y):
            torch.minimum(result, (columns[:, rows, None] + tile).amin(dim=1), out=result)
        return result.t().reshape(block.shape[1], *y.shape[1:])

    def counted(
        self, block: Block, near: torch.Tensor, far: torch.Tensor, x: torch.Tensor, *, backward: bool = False
    ) -> torch.Tensor:
        """Sums over the edges that shortest paths use, those with ``near_u + l_uv = far_v``, for k sources at once.

        ``sum_u x_u`` at the destinations; backward, ``sum_v x_v`` at the sources. All are (nodes, k).
        """
        if block.is_full and self.distance is None:
            return self._counted_hops(near, far, x, backward=backward)
        if not block.is_full:
            row, col = block.rows(), block.col.long()
            tight = (near[col] + self._column(block, near) == far[row]) & torch.isfinite(far[row])
            senders, receivers, n = (row, col, block.shape[1]) if backward else (col, row, block.shape[0])
            return x.new_zeros((n, x.shape[1])).index_add_(0, receivers, torch.where(tight, x[senders], 0.0))
        near, far, x = near.t().contiguous(), far.t().contiguous(), x.t().contiguous()
        result = x.new_zeros((len(x), block.shape[1] if backward else block.shape[0]))
        for rows, tile in self._tiles(block, near.t()):
            there = far[:, rows, None]
            tight = (near[:, None] + tile == there) & torch.isfinite(there)
            if backward:
                result += torch.where(tight, x[:, rows, None], 0.0).sum(dim=1)
            else:
                result[:, rows] = torch.where(tight, x[:, None], 0.0).sum(dim=2)
        return result.t()

    def _counted_hops(self, near: torch.Tensor, far: torch.Tensor, x: torch.Tensor, *, backward: bool) -> torch.Tensor:
        """Where every edge is there and counts one, shortest paths leave the nearest sources alone."""
        least = _amin(near)
        used_near = (near == least) & torch.isfinite(least)
        used_far = (far == least + 1) & torch.isfinite(least)
        senders, receivers = (used_far, used_near) if backward else (used_near, used_far)
        return torch.where(receivers, torch.where(senders, x, 0.0).sum(dim=0, keepdim=True), 0.0)

    def _column(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        lengths = self.of(block.values)
        return lengths if x.ndim == 1 else lengths[:, None]

    def _tiles(self, block: Block, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """A full block's lengths, a few rows at a time."""
        n_columns = 1 if x.ndim == 1 else max(x.shape[1], 1)
        step = max(1, TILE // max(block.shape[1] * n_columns, 1))
        for start in range(0, block.shape[0], step):
            yield slice(start, start + step), self.of(block.matrix[start : start + step])


def _columns(x: torch.Tensor) -> torch.Tensor:
    return x if x.ndim == 2 else x[:, None]


def _amin(x: torch.Tensor) -> torch.Tensor:
    return x.amin(dim=0, keepdim=True) if len(x) else x.new_full((1, *x.shape[1:]), torch.inf)


def _smallest(values: torch.Tensor, groups: torch.Tensor, n: int) -> torch.Tensor:
    """The smallest value of each group, infinity for an empty one."""
    result = values.new_full((n, *values.shape[1:]), torch.inf)
    index = groups if values.ndim == 1 else groups[:, None].expand_as(values)
    return result.scatter_reduce_(0, index, values, "amin")


def shortest(
    graph: ModelGraph,
    start: Values,
    length: Length,
    *,
    sender: Float[torch.Tensor, " n_nodes"] | None = None,
    backward: bool = False,
    since: int | None = None,
) -> Values:
    """The length of the shortest path to each node from wherever ``start`` isn't infinite; infinity if there is none.

    Min-plus sums in topological order, so negative lengths are fine. ``sender`` is added to all that a node sends,
    which are its own paths without it. ``since`` is as of `sweep`.
    """

    def step(block: EdgeBlock, sent: torch.Tensor) -> torch.Tensor:
        return block.apply(length.nearest_back if backward else length.nearest, sent, torch.inf, backward=backward)

    def send(final: torch.Tensor, first: int, last: int) -> torch.Tensor:
        return final if sender is None else final + sender[first:last]

    return sweep(
        graph, start.clone(), step, torch.minimum, send=None if sender is None else send, backward=backward, since=since
    )  # fmt: skip

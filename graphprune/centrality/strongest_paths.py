"""The strongest paths through a unit: those along which most of the outputs' credit goes back to the inputs.

Math: credit is handed on in shares, ``f_uv = c_v w_uv / s_v``, so a path from an input ``v_0`` to an output ``v_n``
carries ``t_n`` times the product of ``w_uv / s_v`` over its edges; what all paths through a node carry is its credit.
With edges of length ``-log (w_uv / s_v)`` the strongest path is the shortest.

1. `StrongestPaths.of`: two min-plus sweeps tell how far it is from the inputs to every node, and on to the outputs.
2. `StrongestPaths.through`: paths grow from a member back to an input, then on to an output, the most promising first.
   What the sweeps tell of the rest of the way is exact, so paths are completed in order of their strength.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import exp

import numpy as np
import torch
from jaxtyping import Float, Int

from graphprune.centrality.flow import CreditFlow, Members
from graphprune.centrality.shortest_paths import Length, shortest
from graphprune.core.block import Block, Run
from graphprune.core.errors import InputError

Lengths = Float[torch.Tensor, " n_nodes"]
Edges = tuple[Int[torch.Tensor, " _edges"], Float[torch.Tensor, " _edges"]]  # of blocks that differ
Path = tuple[int, ...]


@dataclass(frozen=True)
class CreditPath:
    """A path from an input to an output.

    Attributes:
        nodes: in topological order.
        log_credit: the log of the share of the outputs' credit that goes back along it.
    """

    nodes: Path
    log_credit: float

    @property
    def credit(self) -> float:
        """The share itself; 0 where it is too small for a number."""
        return exp(self.log_credit)


@dataclass(frozen=True)
class StrongestPaths:
    """How far it is from the inputs to every node, and on to the outputs, by the strongest paths.

    Attributes:
        flow: the credit of the nodes.
        strength: the log of what reaches each node in all; 0 where nothing does.
        arriving: the length of the shortest path from an input to each node.
        onward: likewise from each node to an output, ``-log t`` of the output included.
    """

    flow: CreditFlow
    strength: Lengths
    arriving: Lengths
    onward: Lengths

    @classmethod
    def of(cls, flow: CreditFlow) -> "StrongestPaths":
        """Two sweeps over the edges."""
        graph, length = flow.graph, Length.of_products()
        reached = graph.in_strength.double() > 0
        strength = torch.where(reached, graph.in_strength.double(), 1.0).log()
        begun = torch.where(reached, torch.inf, torch.zeros_like(strength))
        ended, size = torch.full_like(strength, torch.inf), graph.nodes.spans[-1].size
        ended[-size:] = np.log(size)
        arriving = shortest(graph, begun, length, sender=strength) + strength
        return cls(flow, strength, arriving, shortest(graph, ended, length, sender=strength, backward=True))

    def through(self, members: Members, n: int) -> tuple[CreditPath, ...]:
        """The strongest paths that pass some nodes, strongest first; fewer than ``n`` if there aren't so many.

        Args:
            members: the nodes of a unit or a group, as `CreditFlow.members` gives them.
            n: how many paths, at most.

        Cost: a row or a column of weights for every node of every path.

        Raises:
            InputError: fewer than 1 path is asked for.
        """
        if n < 1:
            raise InputError(f"at least 1 path is asked for, not {n}")
        found: dict[Path, float] = {}
        for path, length in self._shortest_through(members):
            found.setdefault(path, -length)  # one that passes two members is found from both
            if len(found) == n:
                break
        return tuple(CreditPath(path, log_credit) for path, log_credit in found.items())

    def _shortest_through(self, members: Members) -> Iterator[tuple[Path, float]]:
        """All paths through each of the members, shortest first.

        An entry of the heap is part of a path, the next step that it takes (the best, the second best, …), and the
        length of the shortest path that does so.
        """
        steps, ticket = _Steps(self), count()
        first = steps.ranked(members.nonzero()[:, 0].numpy(), (self.arriving + self.onward)[members].numpy())
        heap: list[tuple[float, int, Path, _Choices, int]] = []
        if len(first.nodes):
            heap.append((first.shortest, next(ticket), (), first, 0))
        while heap:
            length, _, path, choices, turn = heapq.heappop(heap)
            if turn + 1 < len(choices.nodes):
                longer = length + float(choices.excess[turn + 1] - choices.excess[turn])
                heapq.heappush(heap, (longer, next(ticket), path, choices, turn + 1))
            node = int(choices.nodes[turn])
            longer_path = (node, *path) if path and node < path[0] else (*path, node)
            further = steps.before(longer_path[0]) or steps.after(longer_path[-1])
            if further is None:
                yield longer_path, length
            else:
                heapq.heappush(heap, (length, next(ticket), longer_path, further, 0))


@dataclass(frozen=True)
class _Choices:
    """The nodes that a path may go on to, best first.

    Attributes:
        nodes: which.
        shortest: the length of the whole way by the best.
        excess: how much longer it is by each of them.
    """

    nodes: Int[np.ndarray, " choices"]
    shortest: float
    excess: Float[np.ndarray, " choices"]


class _Steps:
    """What may come before and after a node. Every node is looked at once, and every block is mapped once."""

    def __init__(self, paths: StrongestPaths) -> None:
        self._paths, self._blocks = paths, paths.flow.graph.blocks
        self._first_output = paths.flow.graph.n_nodes - paths.flow.graph.nodes.spans[-1].size
        self._loaded: dict[int, Block] = {}
        self._known: dict[tuple[bool, int], _Choices | None] = {}

    @staticmethod
    def ranked(nodes: Int[np.ndarray, " n"], lengths: Float[np.ndarray, " n"]) -> _Choices:
        """Choices by what the whole way would be; those that lead nowhere are left out."""
        order = np.argsort(lengths, kind="stable")[: np.isfinite(lengths).sum()]
        best = float(lengths[order[0]]) if len(order) else np.inf
        return _Choices(nodes[order], best, lengths[order] - best)

    def before(self, node: int) -> _Choices | None:
        """What leads to a node, by how far it is from the inputs; None for an input."""
        if (True, node) not in self._known:
            found = [self._edges(at, node, block.dst, _entering) for at, block in enumerate(self._blocks)]
            self._known[True, node] = self._choices(found, self._paths.arriving)
        return self._known[True, node]

    def after(self, node: int) -> _Choices | None:
        """What a node leads to, by how far it is from the outputs; None for an output."""
        if (False, node) not in self._known:
            found = [self._edges(at, node, block.src, _leaving) for at, block in enumerate(self._blocks)]
            rest = self._paths.onward + self._paths.strength
            self._known[False, node] = None if node >= self._first_output else self._choices(found, rest)
        return self._known[False, node]

    def _edges(self, at: int, node: int, run: Run, edges: Callable[[Block, int], Edges]) -> Edges | None:
        """A node's edges in a block; None if it has none of that direction there."""
        if not run[0] <= node < run[1]:
            return None
        if at not in self._loaded:
            self._loaded[at] = self._blocks[at].load()
        return edges(self._loaded[at], node)

    def _choices(self, found: Sequence[Edges | None], rest: Lengths) -> _Choices | None:
        there = [each for each in found if each is not None]
        if not there:
            return None
        nodes, weights = torch.cat([nodes for nodes, _ in there]), torch.cat([weights for _, weights in there])
        choices = self.ranked(nodes.numpy(), (Length.of_products().of(weights) + rest[nodes]).numpy())
        return choices if len(choices.nodes) else None


def _entering(block: Block, node: int) -> Edges:
    """The sources of a node's edges in a block, and the weights."""
    row = node - block.dst[0]
    if block.is_full:
        return torch.arange(*block.src), block.matrix[row]
    here = slice(int(block.crow[row]), int(block.crow[row + 1]))
    return block.src[0] + block.col[here].long(), block.values[here]


def _leaving(block: Block, node: int) -> Edges:
    """The destinations of a node's edges in a block, and the weights."""
    column = node - block.src[0]
    if block.is_full:
        return torch.arange(*block.dst), block.matrix[:, column]
    here = (block.col == column).nonzero()[:, 0]
    rows = torch.searchsorted(block.crow.long(), here, right=True) - 1
    return block.dst[0] + rows, block.values[here]

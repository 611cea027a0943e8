"""PageRank on a DAG, exact in one sweep (Brin and Page 1998; networkx's conventions).

Math: with ``P[i, j] = w_ij / sum_j w_ij`` (a node without outgoing weight sends nothing: it dangles),
``x = alpha (P^T x + m d) + (1 - alpha) p``, ``m = sum of x over dangling nodes``, ``sum x = 1``.
``I - alpha P^T`` is unit triangular in topological order, so ``x = (1 - alpha) u + alpha m v`` with ``u``, ``v`` its
solutions for ``p`` and ``d``, and the dangling mass follows from one scalar equation. Where dangling mass goes to the
teleport vector itself it only rescales the result.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float

from graphprune.centrality.options import Choice, Weight, spread, ways, weighed
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.sweep import divided, residual, solve
from graphprune.core.graph import ModelGraph

Values = Float[torch.Tensor, " n_nodes *k"]


def pagerank(
    graph: ModelGraph,
    alpha: float = 0.85,
    personalization: Choice = None,
    dangling: Choice = None,
    *,
    direction: Direction = "forward",
    weight: Weight = "weight",
) -> CentralityResult:
    """The share of time a random surfer spends at each node.

    Agrees with ``networkx.pagerank(G, alpha, personalization, dangling=dangling)`` (forward), the same on
    ``G.reverse()`` (backward), and the mean of the two (both).

    Args:
        graph: a graph with non-negative weights.
        alpha: probability of following an edge, in [0, 1].
        personalization: where the surfer jumps: a vector in the caller's order, a mapping from node labels (missing
            nodes count as zero), `uniform` (the default), `inputs` (nodes no weight reaches) or `outputs` (nodes no
            weight leaves). Scaled to sum 1. A matrix (n_nodes, k) is k of them, ranked in the same pass.
        dangling: where the surfer goes from a node without outgoing weight; like ``personalization``, its default.
        direction: `forward` along the edges, `backward` against them (credit from the output), `both` their mean.
        weight: `weight`, or None if every edge shall count the same.

    Normalisation: scores sum to 1 (each column of them).

    Cost: one pass over the edges for the strengths (kept with the graph), one for the sweep, bound by memory bandwidth.
    Sixteen personalization vectors take little longer than one.

    Raises:
        ValueError: alpha is outside [0, 1], a weight is negative, or a vector is negative, not finite or all zero.

    >>> import numpy as np
    >>> from scipy import sparse
    >>> graph = ModelGraph.from_scipy(sparse.csr_array(np.array([[0.0, 1.0], [0.0, 0.0]])))
    >>> [round(x, 4) for x in pagerank(graph).scores.tolist()]
    [0.3509, 0.6491]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    backwards = ways(direction)
    graph = weighed(graph, weight, "PageRank")
    if graph.n_present == 0:
        empty = torch.zeros(graph.n_nodes, dtype=graph.dtype, device=graph.device)
        return CentralityResult(empty, "pagerank", direction, "sum 1", "triangular sweep")
    jump = spread(graph, personalization, "personalization")
    sink = jump if dangling is None else spread(graph, dangling, "dangling")
    parts = [_one_way(graph, alpha, jump, sink, backward=backward) for backward in backwards]
    scores = graph.in_caller_order(torch.stack([x for x, _ in parts]).mean(dim=0))
    return CentralityResult(
        scores, "pagerank", direction, "sum 1", "triangular sweep", check=lambda: max(check() for _, check in parts)
    )


def _one_way(
    graph: ModelGraph, alpha: float, jump: Values, sink: Values, *, backward: bool
) -> tuple[Values, Callable[[], float]]:
    """The scores in one direction, and how to measure what they miss."""
    strength = graph.in_strength if backward else graph.out_strength
    dangles = strength == 0
    follow = divided(alpha, strength)
    if jump is sink or (jump.shape == sink.shape and torch.equal(jump, sink)):
        x = solve(graph, jump, sender=follow, backward=backward)
    else:
        u, v = _both(graph, jump, sink, follow, backward=backward)
        lost = 1 - alpha * v[dangles].sum(dim=0)  # zero only if alpha is 1: then all mass comes from dangling nodes
        mass = (1 - alpha) * u[dangles].sum(dim=0) / lost if alpha < 1 else torch.ones_like(lost)
        x = (1 - alpha) * u + alpha * mass * v
        x = x[:, 0] if jump.ndim == sink.ndim == 1 else x
    x = x / x.sum(dim=0)

    def check() -> float:
        stuck = alpha * x[dangles].sum(dim=0) * (sink if sink.ndim == x.ndim else sink[:, None])
        start = (1 - alpha) * (jump if jump.ndim == x.ndim else jump[:, None])
        return residual(graph, x, stuck + start, sender=follow, backward=backward)

    return x, check


def _both(
    graph: ModelGraph, jump: Values, sink: Values, follow: torch.Tensor, *, backward: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The solutions for the two right-hand sides, as columns, by one sweep."""
    columns = [x if x.ndim == 2 else x[:, None] for x in (jump, sink)]
    solved = solve(graph, torch.cat(columns, dim=1), sender=follow, backward=backward)
    return solved[:, : columns[0].shape[1]], solved[:, columns[0].shape[1] :]

"""Katz centrality on a DAG, exact in one sweep for any attenuation (Katz 1953; networkx's conventions).

Math: ``x = alpha A^T x + beta``. ``A`` is nilpotent, so there is no largest eigenvalue that bounds ``alpha``.
"""

import math

import torch
from jaxtyping import Float

from graphprune.centrality.log_domain import solve_log
from graphprune.centrality.options import Weight, ways, weighed
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.sweep import residual, solve
from graphprune.core.graph import ModelGraph


def katz(
    graph: ModelGraph,
    alpha: float = 0.1,
    beta: float | Float[torch.Tensor, " n_nodes"] = 1.0,
    *,
    normalized: bool = True,
    direction: Direction = "forward",
    weight: Weight = "weight",
) -> CentralityResult:
    """The number of walks that end at each node, each edge of a walk attenuated by ``alpha`` times its weight.

    Agrees with ``networkx.katz_centrality_numpy(G, alpha, beta, normalized, weight="weight")``.

    Args:
        graph: any graph; weights may be negative.
        alpha: attenuation of an edge, at least 0. On a DAG no value is too large.
        beta: what each node has to begin with: a number, or a vector in the caller's order.
        normalized: scale to Euclidean norm 1.
        direction: `forward` (walks that end at the node), `backward` (that start there), `both` (mean of the two).
        weight: `weight`, or None if every edge shall count the same.

    Cost: one pass over the edges, bound by memory bandwidth. Unless a weight is negative it is made in the log domain,
    so that the walks of a deep network don't overflow.

    Raises:
        ValueError: alpha is negative, beta of a wrong shape, or the unnormalised scores are too large for their type.

    >>> import networkx as nx
    >>> walks = katz(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph)), 0.5, normalized=False)
    >>> [round(x, 4) for x in walks.scores.tolist()]
    [1.0, 1.5, 1.75]
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be at least 0 and finite, not {alpha}")
    backwards = ways(direction)
    graph = weighed(graph, weight, "Katz centrality", signed=True)
    start = _start(graph, beta)
    in_log = alpha > 0 and graph.weight != "signed" and not bool((start < 0).any())
    parts = [(_log_walks if in_log else _walks)(graph, alpha, start, backward, normalized) for backward in backwards]
    scores = torch.stack([x for x, _ in parts]).mean(dim=0).to(graph.dtype)
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(f"with alpha={alpha:g} Katz centrality is too large for {scores.dtype}; normalise it")

    def check() -> float:
        gaps = []
        for backward, (x, scale) in zip(backwards, parts, strict=True):
            values, rhs = x.to(graph.dtype), (start * scale).to(graph.dtype)
            gaps.append(residual(graph, values, rhs, sender=float(alpha), backward=backward))
        return max(gaps)

    scaling = "Euclidean norm 1" if normalized else "sum of attenuated walks"
    solver = "triangular sweep in the log domain" if in_log else "triangular sweep"
    return CentralityResult(graph.in_caller_order(scores), "katz", direction, scaling, solver, check=check)


def _start(graph: ModelGraph, beta: float | torch.Tensor) -> Float[torch.Tensor, " n_nodes"]:
    present = graph.indicator().double()
    if not isinstance(beta, torch.Tensor):
        start = present * beta
    elif beta.shape != (graph.n_nodes,):
        raise ValueError(f"beta has shape {tuple(beta.shape)}, the graph has {graph.n_nodes} nodes")
    else:
        start = graph.in_topological_order(beta.to(dtype=torch.float64, device=graph.device)) * present
    if not bool(torch.isfinite(start).all()):
        raise ValueError("beta must be finite")
    return start


def _log_walks(
    graph: ModelGraph, alpha: float, start: torch.Tensor, backward: bool, normalized: bool
) -> tuple[torch.Tensor, float]:
    """The scores in float64 and what they are scaled by."""
    logs = solve_log(graph, start.log(), alpha=alpha, backward=backward)
    shift = float(torch.logsumexp(2 * logs, dim=0)) / 2 if normalized and len(logs) else 0.0
    shift = shift if math.isfinite(shift) else 0.0
    return (logs - shift).exp(), math.exp(-shift)


def _walks(
    graph: ModelGraph, alpha: float, start: torch.Tensor, backward: bool, normalized: bool
) -> tuple[torch.Tensor, float]:
    x = solve(graph, start.to(graph.dtype), sender=float(alpha), backward=backward).double()
    length = float(torch.linalg.vector_norm(x)) if normalized else 1.0
    return (x / length, 1 / length) if length > 0 else (x, 1.0)

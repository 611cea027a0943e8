"""PageRank on a DAG, exact in one sweep (Brin and Page 1998; networkx's conventions).

Math: with ``P[i, j] = w_ij / sum_j w_ij`` (a node without outgoing weight sends nothing: it dangles),
``x = alpha (P^T x + m d) + (1 - alpha) p``, ``m = sum of x over dangling nodes``, ``sum x = 1``.
``I - alpha P^T`` is unit triangular in topological order, so ``x = (1 - alpha) u + alpha m v`` with ``u``, ``v`` its
solutions for ``p`` and ``d``, and the dangling mass follows from one scalar equation. Where dangling mass goes to the
teleport vector itself it only rescales the result.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float

from graphprune.centrality.result import DIRECTIONS, CentralityResult, Direction
from graphprune.centrality.sweep import solve
from graphprune.core.graph import ModelGraph

Vector = Float[torch.Tensor, " n_nodes"]
Choice = torch.Tensor | Mapping[Any, float] | str | None


def pagerank(
    graph: ModelGraph,
    alpha: float = 0.85,
    personalization: Choice = None,
    dangling: Choice = None,
    *,
    direction: Direction = "forward",
    weighted: bool = True,
) -> CentralityResult:
    """The share of time a random surfer spends at each node.

    Agrees with ``networkx.pagerank(G, alpha, personalization, dangling=dangling)`` (forward), the same on
    ``G.reverse()`` (backward), and the mean of the two (both).

    Args:
        graph: a graph with non-negative weights.
        alpha: probability of following an edge, in [0, 1].
        personalization: where the surfer jumps: a vector in the caller's order, a mapping from node labels (missing
            nodes count as zero), `uniform` (the default), `inputs` (nodes no weight reaches) or `outputs` (nodes no
            weight leaves). Scaled to sum 1.
        dangling: where the surfer goes from a node without outgoing weight; like ``personalization``, its default.
        direction: `forward` along the edges, `backward` against them (credit from the output), `both` their mean.
        weighted: whether edge weights count; otherwise every edge counts the same.

    Normalisation: scores sum to 1.

    Cost: one pass over the edges for the strengths (kept with the graph), one for the sweep.

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
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {DIRECTIONS}, not {direction!r}")
    if not weighted:
        graph = _unweighted(graph)
    _refuse_negative(graph)
    if graph.n_nodes == 0:
        return CentralityResult(
            torch.zeros(0, dtype=graph.dtype), "pagerank", direction, "sum 1", "triangular sweep", 0.0
        )
    jump = _distribution(graph, personalization, "personalization")
    sink = jump if dangling is None else _distribution(graph, dangling, "dangling")
    ways = {"forward": (False,), "backward": (True,), "both": (False, True)}[direction]
    parts = [_one_way(graph, alpha, jump, sink, backward=backward) for backward in ways]
    scores = torch.stack([x for x, _ in parts]).mean(dim=0)
    residual = max(gap for _, gap in parts)
    return CentralityResult(graph.in_caller_order(scores), "pagerank", direction, "sum 1", "triangular sweep", residual)


def _one_way(graph: ModelGraph, alpha: float, jump: Vector, sink: Vector, *, backward: bool) -> tuple[Vector, float]:
    strength = graph.in_strength if backward else graph.out_strength
    dangles = strength == 0
    scale = torch.where(dangles, 0.0, 1.0 / strength.where(~dangles, torch.ones_like(strength)))
    same = jump is sink or torch.equal(jump, sink)
    if same:
        x = solve(graph, jump, alpha=alpha, scale=scale, backward=backward)
    else:
        both = solve(graph, torch.stack([jump, sink], dim=1), alpha=alpha, scale=scale, backward=backward)
        u, v = both[:, 0], both[:, 1]
        lost = 1 - alpha * float(v[dangles].sum())  # zero only if alpha is 1: then all mass comes from dangling nodes
        mass = (1 - alpha) * float(u[dangles].sum()) / lost if alpha < 1 else 1.0
        x = (1 - alpha) * u + alpha * mass * v
    x = x / x.sum()
    return x, _residual(
        graph, x, alpha * scale, alpha * x[dangles].sum() * sink + (1 - alpha) * jump, backward=backward
    )


def _residual(graph: ModelGraph, x: Vector, scale: Vector, rest: Vector, *, backward: bool) -> float:
    """``sum |x - rhs|`` of the equation, by a second pass over the edges that uses no order."""
    gap = x - rest
    for block in graph.blocks:
        sender, receiver = (block.dst, block.src) if backward else (block.src, block.dst)
        sent = (x * scale)[slice(*sender)]
        gap[slice(*receiver)] -= block.pull(sent) if backward else block.push(sent)
    return float(gap.abs().sum())


def _distribution(graph: ModelGraph, choice: Choice, name: str) -> Vector:
    """A choice of nodes as a vector of sum 1 in topological order."""
    values = torch.ones(graph.n_nodes, dtype=graph.dtype, device=graph.device)
    if isinstance(choice, str):
        if choice not in {"uniform", "inputs", "outputs"}:
            raise ValueError(f"{name} must be uniform, inputs, outputs, a vector or a mapping, not {choice!r}")
        if choice != "uniform":
            strength = graph.in_strength if choice == "inputs" else graph.out_strength
            values = (strength == 0).to(graph.dtype)
    elif isinstance(choice, Mapping):
        labels = graph.labels if graph.labels is not None else range(graph.n_nodes)
        unknown = choice.keys() - set(labels)
        if unknown:
            raise ValueError(f"{name} names a node that isn't in the graph: {next(iter(unknown))!r}")
        listed = [float(choice.get(label, 0.0)) for label in labels]
        values = graph.in_topological_order(torch.tensor(listed, dtype=graph.dtype, device=graph.device))
    elif choice is not None:
        if choice.shape != (graph.n_nodes,):
            raise ValueError(f"{name} has shape {tuple(choice.shape)}, the graph has {graph.n_nodes} nodes")
        values = graph.in_topological_order(choice.to(dtype=graph.dtype, device=graph.device))
    total = float(values.sum())
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or total <= 0:
        raise ValueError(f"{name} must be finite, non-negative and not all zero")
    return values / total


def _refuse_negative(graph: ModelGraph) -> None:
    if graph.weight == "signed" or (graph.order is not None and any(bool((b.values < 0).any()) for b in graph.blocks)):
        raise ValueError("PageRank needs non-negative weights; export the graph with magnitude or activation weights")


def _unweighted(graph: ModelGraph) -> ModelGraph:
    from dataclasses import replace

    blocks = tuple(replace(block, values=torch.ones_like(block.values)) for block in graph.blocks)
    return replace(graph, blocks=blocks, strengths=None, weight="magnitude")

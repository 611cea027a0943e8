"""Closeness (Bavelas 1950; Wasserman and Faust's version for unconnected graphs)."""

import torch
from jaxtyping import Float

from graphprune.centrality.options import ways
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.sampling import Sources
from graphprune.centrality.shortest_paths import Distance, Length, shortest
from graphprune.centrality.sweep import divided
from graphprune.core.graph import ModelGraph

Vector = Float[torch.Tensor, " n_nodes"]


def closeness(
    graph: ModelGraph,
    *,
    distance: Distance = None,
    wf_improved: bool = True,
    direction: Direction = "forward",
    k: int | None = None,
    seed: int = 0,
) -> CentralityResult:
    """One over the mean distance to a node from the R others that reach it, times R / (n - 1) if ``wf_improved``.

    Agrees with ``networkx.closeness_centrality(G, distance=..., wf_improved=...)``, whose distances are incoming.

    Args:
        graph: a graph without negative lengths.
        distance: None (hops), `weight` (the weight is the length) or `inverse` (1 / |weight|: strong edges are short).
        wf_improved: scale by the share of the nodes that reach the node.
        direction: `forward` (from the others to the node), `backward` (to the others), `both` (mean of the two).
        k: sample this many sources instead of starting from every node; scores then come with ``stderr``, by
            linearisation of the ratio; for both directions, an upper bound.
        seed: of the sample.

    Cost: a min-plus sweep from every source, in batches. Where a block stores every edge, hops are counted by node.
    Exactness that would take much longer than a quarter of an hour is refused.

    Raises:
        ValueError: a length is negative, k is out of range, or exactness would take too long.

    >>> import networkx as nx
    >>> closeness(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph))).scores.tolist()
    [0.0, 0.5, 0.6666666666666666]
    """
    length = Length(distance, nonnegative=graph)
    backwards = ways(direction)
    sources = Sources.draw(graph, k, seed, length, "closeness", passes=len(backwards))
    parts = [_one_way(sources, length, backward, wf_improved) for backward in backwards]
    scores, errors = (torch.stack(values).mean(dim=0).to(graph.dtype) for values in zip(*parts, strict=True))
    return CentralityResult(
        graph.in_caller_order(scores), "closeness", direction,
        "one over the mean distance" + (", times the share that reaches" if wf_improved else ""),
        sources.described("min-plus sweeps"),
        stderr=None if k is None else graph.in_caller_order(errors), aggregate="mean",
    )  # fmt: skip


def _one_way(sources: Sources, length: Length, backward: bool, wf_improved: bool) -> tuple[Vector, Vector]:
    graph = sources.graph
    reached, lengths, squares = (torch.zeros(graph.n_nodes, dtype=torch.float64, device=graph.device) for _ in range(3))
    for nodes, start in sources.batches("closeness"):
        found = shortest(graph, start, length, backward=backward)
        found[nodes, torch.arange(len(nodes), device=found.device)] = torch.inf  # a node's distance to itself
        known = torch.where(torch.isfinite(found), found, 0.0)
        reached += torch.isfinite(found).sum(dim=1)
        lengths += known.sum(dim=1)
        squares += (known * known).sum(dim=1)
    r, t = sources.total(reached), sources.total(lengths)
    scores = divided(r, t)
    power = 2.0 if wf_improved else 1.0  # r^2 / t / (n - 1), or r / t
    if wf_improved:
        scores = scores * r / max(graph.n_present - 1, 1)
    # the relative error of r^power / t, to first order, is that of the sum of power * 1[reached] / r - length / t
    a, b = power / r.clamp(min=1e-300), 1 / t.clamp(min=1e-300)
    error = sources.stderr(a * reached - b * lengths, a**2 * reached - 2 * a * b * lengths + b**2 * squares)
    return scores, torch.where(t > 0, scores * error, 0.0)

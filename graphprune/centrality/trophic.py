"""Trophic levels (Levine 1980): how deep a node sits, counted along the weights.

Math: ``s_v = 1 + sum_u w_uv s_u / sum_u w_uv``; 1 where no weight arrives. On a DAG one sweep.
"""

import torch

from graphprune.centrality.options import Weight, ways, weighed
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.sweep import divided, residual, solve
from graphprune.core.graph import ModelGraph


def trophic_levels(
    graph: ModelGraph, *, direction: Direction = "forward", weight: Weight = "weight"
) -> CentralityResult:
    """One more than the mean level of the nodes that feed a node, weighted by how much each feeds it.

    In a network: the mean number of steps that what a node holds has come, skip edges counted as steps. Agrees with
    ``networkx.trophic_levels(G)``.

    Args:
        graph: a graph with non-negative weights.
        direction: `forward` (levels from the inputs), `backward` (from the outputs), `both` (mean of the two).
        weight: `weight`, or None if every edge shall count the same.

    Cost: one pass over the edges, bound by memory bandwidth.

    Raises:
        ValueError: weights are negative.

    >>> import networkx as nx
    >>> trophic_levels(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph))).scores.tolist()
    [1.0, 2.0, 3.0]
    """
    backwards = ways(direction)
    graph = weighed(graph, weight, "the trophic level")
    ones = graph.indicator()
    parts = []
    for backward in backwards:
        share = divided(1.0, graph.out_strength if backward else graph.in_strength)
        parts.append((solve(graph, ones, receiver=share, backward=backward), share))
    scores = graph.in_caller_order(torch.stack([x for x, _ in parts]).mean(dim=0))

    def check() -> float:
        return max(
            residual(graph, x, ones, receiver=share, backward=backward)
            for backward, (x, share) in zip(backwards, parts, strict=True)
        )

    return CentralityResult(
        scores, "trophic_levels", direction, "1 at the sources", "triangular sweep", aggregate="mean", check=check
    )

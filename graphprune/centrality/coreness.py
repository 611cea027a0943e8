"""Coreness (Seidman 1983; Batagelj and Zaversnik 2003), through igraph."""

import torch

from graphprune.centrality.options import ways
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.unit_graph import from_units, unit_graph
from graphprune.core.graph import ModelGraph


def coreness(graph: ModelGraph, *, direction: Direction = "both") -> CentralityResult:
    """The largest k such that a node is in the k-core: where every node has k edges to the others.

    Weights don't count, so sparsify a full network first: where every unit is tied to every other, all have the same
    coreness. A model's channel graph is taken to the level of units, and each channel has its unit's coreness.

    Args:
        graph: any graph.
        direction: which edges count: `forward` (those that reach a node), `backward` (those that leave), `both`.

    Cost: linear in edges, about a hundred bytes each in igraph.

    Raises:
        InputError: the graph has too many edges for igraph.

    >>> import networkx as nx
    >>> coreness(ModelGraph.from_networkx(nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 3)]))).scores.tolist()
    [2.0, 2.0, 2.0, 1.0]
    """
    ways(direction)
    mode = {"forward": "in", "backward": "out", "both": "all"}[direction]
    found = torch.tensor(unit_graph(graph).coreness(mode=mode), dtype=graph.dtype)
    return CentralityResult(
        from_units(graph, found), "coreness", direction, "number of edges", "igraph", aggregate="mean"
    )

"""Degrees: how many edges reach or leave a node."""

import torch

from graphprune.centrality.result import CentralityResult, Direction
from graphprune.core.graph import ModelGraph


def in_degree(graph: ModelGraph, *, normalized: bool = False) -> CentralityResult:
    """How many edges reach each node, stored zeros included.

    Agrees with ``G.in_degree()``; normalized, with ``networkx.in_degree_centrality(G)`` (divided by n - 1).

    >>> import networkx as nx
    >>> in_degree(ModelGraph.from_networkx(nx.DiGraph([("a", "c"), ("b", "c")]))).scores.tolist()
    [0.0, 2.0, 0.0]
    """
    return _degree(graph, "in_degree", "forward", normalized=normalized)


def out_degree(graph: ModelGraph, *, normalized: bool = False) -> CentralityResult:
    """How many edges leave each node; see `in_degree`."""
    return _degree(graph, "out_degree", "backward", normalized=normalized)


def _degree(graph: ModelGraph, name: str, direction: Direction, *, normalized: bool) -> CentralityResult:
    counts = torch.zeros(graph.n_nodes, dtype=torch.float64, device=graph.device)
    for block in graph.unweighted().blocks:
        run = block.src if direction == "backward" else block.dst
        counts[slice(*run)] += block.sent() if direction == "backward" else block.received()
    if normalized and graph.n_present == 1:
        counts = graph.indicator().double()  # networkx's convention
    elif normalized:
        counts /= max(graph.n_present - 1, 1)
    scores = graph.in_caller_order(counts.to(graph.dtype))
    return CentralityResult(
        scores, name, direction, "divided by n - 1" if normalized else "number of edges", "counting"
    )

"""Distances: the length of the shortest path from the nearest of some nodes."""

from typing import Literal

import torch

from graphprune.centrality.options import Choice, chosen, ways
from graphprune.centrality.result import CentralityResult
from graphprune.centrality.shortest_paths import Distance, Length, shortest
from graphprune.core.graph import ModelGraph


def distances(
    graph: ModelGraph,
    sources: Choice = "inputs",
    *,
    distance: Distance = None,
    direction: Literal["forward", "backward"] = "forward",
) -> CentralityResult:
    """The length of the shortest path to each node from the nearest source; infinity where there is none.

    Agrees with ``networkx.multi_source_dijkstra_path_length(G, sources, weight=...)``, and with Bellman and Ford where
    lengths are negative.

    Args:
        graph: any graph.
        sources: `inputs` (nodes no edge reaches), `outputs` (nodes no edge leaves), `uniform`, a vector (every
            node that isn't zero) in the caller's order, or a mapping.
        distance: None (hops), `weight` (the weight is the length) or `inverse` (1 / |weight|).
        direction: `forward` (from the sources along the edges) or `backward` (to them).

    Cost: one pass over the edges; over the nodes alone for hops where every edge of a block is stored.

    >>> import networkx as nx
    >>> distances(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph))).scores.tolist()
    [0.0, 1.0, 2.0]
    """
    length = Length(distance)
    (backward,) = ways(direction, both=False)
    begun = chosen(graph.unweighted(), sources, "sources")
    if begun.ndim > 1:
        raise ValueError("sources are one vector")
    found = shortest(graph, torch.where(begun > 0, 0.0, torch.inf).double(), length, backward=backward)
    scores = graph.in_caller_order(found.to(graph.dtype))
    return CentralityResult(scores, "distances", direction, "length of a path", "min-plus sweep", aggregate="mean")

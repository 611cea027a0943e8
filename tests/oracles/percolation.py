"""What is left of small digraphs, by enumeration: all paths, all cuts."""

from collections.abc import Iterable
from itertools import product
from math import prod
from typing import Any

import networkx as nx


def ends(digraph: "nx.DiGraph[Any]") -> tuple[list[Any], list[Any]]:
    """The nodes that nothing reaches, and those that nothing leaves."""
    return [n for n, d in digraph.in_degree() if d == 0], [n for n, d in digraph.out_degree() if d == 0]


def path_weight(digraph: "nx.DiGraph[Any]", sources: Iterable[Any], targets: Iterable[Any]) -> float:
    """The sum over all paths of at least one edge of the product of their weights."""
    goals, total = list(targets), 0.0
    for source in sources:
        for target in goals:
            if source != target and source in digraph and target in digraph:
                for path in nx.all_simple_edge_paths(digraph, source, target):
                    total += prod(digraph.edges[edge]["weight"] for edge in path)
    return total


def min_cut(digraph: "nx.DiGraph[Any]", sources: Iterable[Any], targets: Iterable[Any]) -> float:
    """The least weight between two halves of the nodes, over all halves that have the sources on one side."""
    first, last = {n for n in sources if n in digraph}, {n for n in targets if n in digraph}
    if not first or not last:
        return 0.0
    free = [node for node in digraph if node not in first | last]
    best = float("inf")
    for sides in product((False, True), repeat=len(free)):
        near = first | {node for node, side in zip(free, sides, strict=True) if side}
        best = min(best, sum(w for u, v, w in digraph.edges(data="weight") if u in near and v not in near))
    return best

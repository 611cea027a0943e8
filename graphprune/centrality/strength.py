"""Strengths: the sum of the weights that reach or leave a node."""

from graphprune.centrality.result import CentralityResult
from graphprune.core.graph import ModelGraph


def in_strength(graph: ModelGraph) -> CentralityResult:
    """The sum of the weights of the edges that reach each node, signs included.

    Agrees with ``G.in_degree(weight="weight")``. Exported graphs carry it, so it costs nothing.
    """
    scores = graph.in_caller_order(graph.in_strength).clone()
    return CentralityResult(scores, "in_strength", "forward", "sum of weights", "summing")


def out_strength(graph: ModelGraph) -> CentralityResult:
    """The sum of the weights of the edges that leave each node; see `in_strength`."""
    scores = graph.in_caller_order(graph.out_strength).clone()
    return CentralityResult(scores, "out_strength", "backward", "sum of weights", "summing")

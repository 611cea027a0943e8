"""The graph of units, for algorithms that igraph has and that need one list of edges."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Shaped

from graphprune.core.coarsen import Quotient
from graphprune.core.graph import ModelGraph

if TYPE_CHECKING:
    import igraph


def unit_graph(graph: ModelGraph) -> "igraph.Graph":
    """A model's channel graph at unit level, any other as it is, as an igraph graph in the caller's order.

    Raises:
        InputError: it has too many edges for igraph; sparsify it first.
    """
    return (graph.quotient("unit") if _has_channels(graph) else graph).to_igraph()


def from_units(graph: ModelGraph, values: Shaped[torch.Tensor, " n_units"]) -> Shaped[torch.Tensor, " n_nodes"]:
    """To every node of a graph the value of its unit."""
    values = values.to(graph.device)
    if not _has_channels(graph):
        return values
    return Quotient(graph.nodes, "unit").lifted(values.cpu()).to(graph.device)


def _has_channels(graph: ModelGraph) -> bool:
    return graph.order is None and graph.level == "channel" and all(span.kind != "node" for span in graph.nodes.spans)

"""Graphs and scores to draw."""

from typing import Any, Literal

import networkx as nx
import torch

from graphprune.centrality import CentralityResult
from graphprune.core.graph import ModelGraph


def measured(
    graph: ModelGraph,
    name: str = "pagerank",
    *,
    aggregate: Literal["sum", "mean"] = "sum",
    direction: Literal["forward", "backward", "both"] = "forward",
    seed: int = 0,
    stderr: bool = False,
) -> CentralityResult:
    """Random positive scores, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(graph.n_nodes, generator=generator) + 0.1
    errors = torch.rand(graph.n_nodes, generator=generator) if stderr else None
    return CentralityResult(scores, name, direction, "sum 1", "made up", stderr=errors, aggregate=aggregate)


def scored(values: list[float], name: str = "pagerank") -> CentralityResult:
    return CentralityResult(torch.tensor(values, dtype=torch.float64), name, "both", "sum 1", "made up")


def outside(n: int) -> ModelGraph:
    """A path of n nodes with names of their own."""
    digraph: nx.DiGraph[Any] = nx.path_graph(n, nx.DiGraph)
    return ModelGraph.from_networkx(nx.relabel_nodes(digraph, lambda node: f"node <{node}>"))

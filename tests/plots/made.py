"""Graphs and scores to draw."""

from typing import Any, Literal

import networkx as nx
import torch

from graphprune import Comparison, Scores, compare
from graphprune.centrality import CentralityResult
from graphprune.comparison.consequence import Consequence, Consequences, Series
from graphprune.core.graph import ModelGraph
from graphprune.methods import Recipe
from graphprune.studies.store import Result
from graphprune.studies.study import DENSE, Cell
from graphprune.studies.table import Table


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


GROUPS = {"head.0": 4, "head.1": 4, "neuron.0": 24, "neuron.1": 24}


def unit_scores(seed: int, method: str = "made up") -> Scores:
    """Random scores of the heads and neurons of two blocks."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(size, generator=generator) for name, size in GROUPS.items()}
    return Scores(values, method, model="model")


def compared() -> Comparison:
    """Three scorers, two of them at two seeds, one of them without an order in one group."""
    flat = unit_scores(4)
    flat = Scores({**flat.values, "neuron.1": torch.zeros(24)}, "flat", model="model")
    two = {"a": [unit_scores(0), unit_scores(1)], "b": [unit_scores(2), unit_scores(3)]}
    return compare({**two, "flat": flat}, budgets=(0.1, 0.3, 0.5))


def consequences() -> Consequences:
    """Masks of three scorers at two sparsities, those of one also repaired."""
    rows = []
    for scorer, compensation, paths, perplexities in (
        ("a", "none", (0.8, 0.5), (20.0, 40.0)), ("a", "obs", (0.8, 0.5), (12.0, 15.0)),
        ("b", "none", (0.7, 0.4), (30.0, 90.0)), ("c", "none", (0.6, 0.1), (25.0, 99.0)),
    ):  # fmt: skip
        for sparsity, path_mass, perplexity in zip((0.2, 0.4), paths, perplexities, strict=True):
            left = {"path_mass": path_mass, "entropy": 3 + path_mass}
            quality = {"perplexity": perplexity, "kl": perplexity / 20}
            rows.append(Consequence(Series(scorer, "uniform", compensation), sparsity, left, quality))
    return Consequences(tuple(rows), {"path_mass": 1.0, "perplexity": 10.0, "kl": 0.0}, settings={"units": "neuron"})


def studied() -> Table:
    """Two methods at two sparsities, one of them at two seeds and once so bad that there is no number."""
    found = [(Cell("model", DENSE), Result("", {"perplexity.text": 10.0, "acc.piqa": 0.8}))]
    for method, sparsity, seed, perplexity in (
        ("wanda", 0.2, 0, 12.0), ("wanda", 0.2, 1, 14.0), ("wanda", 0.4, 0, 20.0), ("random", 0.2, 0, 90.0),
        ("random", 0.4, 0, float("inf")),
    ):  # fmt: skip
        cell = Cell("model", method, Recipe.of(method), sparsity, seed)
        found.append((cell, Result(cell.name + str(seed), {"perplexity.text": perplexity, "acc.piqa": 0.4})))
    return Table.of("methods side by side", found)

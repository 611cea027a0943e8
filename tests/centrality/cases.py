"""Small directed weighted graphs with every awkward feature, and how answers about them are compared."""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import igraph
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from graphprune.centrality.result import Direction, EdgeCentralityResult
from graphprune.centrality.shortest_paths import Distance
from graphprune.core.graph import ModelGraph
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
SINGLE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}  # a few tens of sums in float32, whose rounding is 6e-8
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
DISTANCES: tuple[Distance, ...] = (None, "weight", "inverse")
DTYPES = (np.float64, np.float32)

CASES = (
    "random",
    "sparse, with isolated nodes",
    "tied",
    "whole numbers",
    "a grid of equal steps",
    "full layers",
    "edges of weight zero",
    "no edges",
    "one node",
    "a chain against the numbering",
    "two sources, two sinks",
)
NOTHING = {"edges of weight zero": ((0, 1), (0, 7), (1, 7), (4, 9), (8, 6))}
"""Edges that are stored and carry nothing, by case; they are left out of its matrix."""

every_case = pytest.mark.parametrize("name", CASES)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
every_distance = pytest.mark.parametrize("distance", DISTANCES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def case(name: str) -> graphs.Matrix:
    """The dense adjacency ``[src, dst]``; zero is no edge."""
    empty = np.zeros((5, 5))
    match name:
        case "random":
            return graphs.random_dag(40, 0.2, seed=1)
        case "sparse, with isolated nodes":
            return graphs.random_dag(40, 0.03, seed=2)
        case "tied":
            return graphs.random_dag(30, 0.3, seed=3, ties=True)
        case "whole numbers":
            return np.ceil(2 * graphs.random_dag(16, 0.4, seed=4))
        case "a grid of equal steps":
            right, down = np.eye(20, k=1), np.eye(20, k=5)
            right[4::5] = 0
            return right + down
        case "full layers":
            return layered(3, 4, 2)
        case "edges of weight zero":
            # 0 receives nothing but a zero later on, 9 nothing but a zero; 8 sends nothing but a zero
            result = np.zeros((10, 10))
            result[[1, 1, 2, 3, 3, 4, 5], [2, 3, 5, 5, 4, 6, 6]] = [1, 2, 3, 1, 2, 1, 4]
            return result
        case "no edges":
            return empty
        case "one node":
            return np.zeros((1, 1))
        case "a chain against the numbering":
            empty[[4, 3, 2, 1], [3, 2, 1, 0]] = [1.0, 5.0, 2.0, 0.5]
            return empty
        case "two sources, two sinks":
            empty[[0, 1, 2, 2], [2, 2, 3, 4]] = [1.0, 2.0, 3.0, 1.0]
            return empty
    raise AssertionError(name)


def layered(*widths: int, weight: float = 1.0) -> graphs.Matrix:
    """Layers in which every node leads to every node of the next."""
    result = np.zeros((sum(widths), sum(widths)))
    start = 0
    for width, following in pairwise(widths):
        result[start : start + width, start + width : start + width + following] = weight
        start += width
    return result


def digraph(name: str) -> "nx.DiGraph[Any]":
    """A case for networkx and the oracles, with the edges that carry nothing."""
    result = graphs.digraph(case(name))
    result.add_weighted_edges_from((a, b, 0.0) for a, b in NOTHING.get(name, ()))
    return result


def chain(*weights: float) -> "nx.DiGraph[Any]":
    """0 -> 1 -> 2 and so on."""
    result: nx.DiGraph[Any] = nx.DiGraph()
    result.add_node(0)
    result.add_weighted_edges_from((i, i + 1, float(weight)) for i, weight in enumerate(weights))
    return result


def edges(n: int, *weighted: tuple[int, int, float]) -> "nx.DiGraph[Any]":
    """The digraph of n nodes with these edges."""
    result: nx.DiGraph[Any] = nx.DiGraph()
    result.add_nodes_from(range(n))
    result.add_weighted_edges_from(weighted)
    return result


DIAMOND = edges(4, (0, 1, 1.0), (0, 2, 3.0), (1, 3, 2.0), (2, 3, 2.0))


def unweighted(reference: "nx.DiGraph[Any]") -> "nx.DiGraph[Any]":
    """The digraph with every edge of weight one."""
    result = reference.copy()
    for _, _, data in result.edges(data=True):
        data["weight"] = 1.0
    return result


def network(reference: "nx.DiGraph[Any]", *, directed: bool = True) -> igraph.Graph:
    """The digraph as igraph's."""
    result = igraph.Graph(n=len(reference), edges=list(reference.edges), directed=directed)
    result.es["weight"] = list(oracle.weights(reference).values())
    return result


def graph_of(reference: "nx.DiGraph[Any]", dtype: Any = np.float64) -> ModelGraph:
    """What the package sees: one SciPy matrix, in which a weight of zero is an edge."""
    listed = list(reference.edges(data="weight"))
    src, dst = [a for a, _, _ in listed], [b for _, b, _ in listed]
    values = np.array([w for _, _, w in listed], dtype=dtype)
    n = len(reference)
    return ModelGraph.from_scipy(sparse.csr_array(sparse.coo_array((values, (src, dst)), shape=(n, n))))


def vector(values: Mapping[Any, float] | NDArray[Any] | list[Any]) -> torch.Tensor:
    """An answer of networkx, igraph or an oracle."""
    listed = list(values.values()) if isinstance(values, Mapping) else list(values)
    return torch.tensor([float(value) for value in listed], dtype=torch.float64)


def by_node(reference: "nx.DiGraph[Any]", found: Mapping[Any, float]) -> torch.Tensor:
    """An answer of networkx in the order of the graph's nodes."""
    return vector([found[node] for node in reference])


def in_direction(direction: str, forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    return {"forward": forward, "backward": backward, "both": (forward + backward) / 2}[direction]


def assert_equal(found: torch.Tensor, expected: torch.Tensor, **single: Any) -> None:
    """Equal up to the rounding of the type that was found; ``single`` loosens it for float32."""
    tolerance = EXACT if found.dtype == torch.float64 else SINGLE | single
    torch.testing.assert_close(found.double(), expected.double(), **tolerance)


def matrix(result: EdgeCentralityResult) -> torch.Tensor:
    """The scores of edges as a dense matrix ``[src, dst]``."""
    return torch.from_numpy(result.edges.to_scipy().toarray())


def error_matrix(result: EdgeCentralityResult) -> torch.Tensor:
    """Their standard errors, likewise."""
    assert result.stderr is not None
    assert result.stderr.n_edges == result.edges.n_edges
    return torch.from_numpy(result.stderr.to_scipy().toarray())


def at(*nodes: int) -> dict[int, float]:
    """A choice of nodes, all alike."""
    return dict.fromkeys(nodes, 1.0)


def inputs(reference: "nx.DiGraph[Any]") -> list[int]:
    return [node for node, strength in reference.in_degree(weight="weight") if strength == 0]


def outputs(reference: "nx.DiGraph[Any]") -> list[int]:
    return [node for node, strength in reference.out_degree(weight="weight") if strength == 0]


@cache
def listed(name: str, distance: str | None, *, reverse: bool = False) -> oracle.Listed:
    """All shortest paths of a case."""
    return oracle.shortest_paths(digraph(name).reverse() if reverse else digraph(name), distance)


def assert_refused(message: str, measure: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """That the measure refuses in one sentence, whatever the types of its arguments."""
    with unchecked(), pytest.raises(ValueError, match=message) as caught:
        measure(*arguments, **options)
    assert "\n" not in str(caught.value)


edge_lists = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(1, 4)), max_size=20),
        st.permutations(range(n)),
    )
)
"""A number of nodes, edges between them with whole weights, and another order of the nodes."""


def matrix_of(n: int, edges: list[tuple[int, int, int]]) -> graphs.Matrix:
    """A drawn list of edges as an acyclic matrix; edges that are drawn twice add up."""
    matrix = np.zeros((n, n))
    for a, b, weight in edges:
        if a != b:
            matrix[min(a, b), max(a, b)] += weight
    return matrix

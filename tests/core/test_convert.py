"""Graphs from and to SciPy, networkx and igraph."""

import re
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from graphprune.core.convert import node_name
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.extraction.export import export
from graphprune.models.model import Model
from tests.families import MODEL_TYPES, decoder
from tests.oracles import graph as graphs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.csr_matrix])
def test_scipy_round_trip_keeps_type_and_order(dtype: type, density: float, kind: Any) -> None:
    matrix: Any = graphs.random_dag(30, density, seed=4).astype(dtype)
    found = ModelGraph.from_scipy(kind(matrix)).to_scipy()
    assert found.dtype == dtype
    assert np.array_equal(found.toarray(), matrix)


@given(st.integers(0, 12), st.integers(0, 1000))
def test_blocks_lead_from_earlier_generations_to_later_ones(n: int, seed: int) -> None:
    matrix = graphs.random_dag(n, 0.3, seed=seed)
    graph = ModelGraph.from_scipy(graphs.csr(matrix))
    assert graph.order is not None
    assert sorted(graph.order.tolist()) == list(range(n))
    ordered = matrix[np.ix_(graph.order.numpy(), graph.order.numpy())]
    assert not np.tril(ordered).any()
    values = torch.arange(n)
    assert torch.equal(graph.in_topological_order(graph.in_caller_order(values)), values)
    assert torch.equal(graph.in_topological_order(values), graph.order)
    longest = {v: i for i, layer in enumerate(nx.topological_generations(graphs.digraph(matrix))) for v in layer}
    assert [graph.nodes.locate(i)[1] for i in range(n)] == [longest[v] for v in graph.order.tolist()]


def test_stored_zeros_are_edges_and_duplicates_are_summed() -> None:
    entries = (np.array([1.0, 2.0, 0.0]), (np.array([2, 2, 1]), np.array([1, 1, 0])))
    graph = ModelGraph.from_scipy(sparse.coo_array(entries, shape=(3, 3)))
    assert graph.n_edges == 2
    assert graph.to_scipy()[2, 1] == 3


def test_the_callers_matrix_is_left_alone() -> None:
    matrix = sparse.csr_array(([1.0, 2.0, 3.0], [2, 1, 1], [0, 3, 3, 3]), shape=(3, 3))
    ModelGraph.from_scipy(matrix)
    assert matrix.indices.tolist() == [2, 1, 1]


@pytest.mark.parametrize("dtype", [np.int32, np.bool_])
def test_integers_and_truth_values_become_float64(dtype: type) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(np.array([[0, 1], [0, 0]]), dtype))
    assert graph.dtype == torch.float64
    assert graph.to_scipy().toarray().tolist() == [[0, 1], [0, 0]]


@given(st.permutations(range(7)), st.integers(1, 5))
def test_a_cycle_is_named_edge_by_edge(shuffle: list[int], length: int) -> None:
    matrix = np.zeros((7, 7))
    for i in range(6):  # a path that leads to the cycle and away from it
        matrix[i, i + 1] = 1
    matrix[length + 1 if length < 5 else 5, 1] = 1
    shuffled = matrix[np.ix_(shuffle, shuffle)]
    with pytest.raises(InputError, match=r"the graph has a cycle: ") as error:
        ModelGraph.from_scipy(graphs.csr(shuffled))
    cycle = [int(node) for node in str(error.value).split(": ")[1].split(" -> ")]
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    assert all(shuffled[a, b] for a, b in pairwise(cycle))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (sparse.csr_array((2, 3)), "this one is 2 x 3"),
        (graphs.csr(np.array([[0, np.nan], [0, 0]])), "NaN or infinite"),
        (graphs.csr(np.array([[0, np.inf], [0, 0]])), "NaN or infinite"),
        (graphs.csr(np.array([[0, 1], [0, 0]]), np.complex128), "not complex128"),
        (graphs.csr(np.eye(2)), "cycle: 0 -> 0"),
    ],
)
def test_matrices_that_are_no_graph_are_refused(matrix: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        ModelGraph.from_scipy(matrix)


def test_networkx_labels_parallel_edges_and_missing_weights() -> None:
    digraph: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    digraph.add_edge("z", ("a", 1), weight=2.0)
    digraph.add_edge("z", ("a", 1), weight=3.0)
    digraph.add_edge("z", "m")
    digraph.add_node("alone")
    graph = ModelGraph.from_networkx(digraph)
    assert graph.labels == ("z", ("a", 1), "m", "alone")
    assert graph.dtype == torch.float64
    back = graph.to_networkx()
    assert list(back) == list(digraph)
    assert dict(back.edges) == {("z", ("a", 1)): {"weight": 5.0}, ("z", "m"): {"weight": 1.0}}


def test_networkx_weights_are_taken_from_the_attribute_asked_for() -> None:
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_edge(0, 1, weight=2.0, cost=7.0)
    for name, expected in (("weight", 2.0), ("cost", 7.0), (None, 1.0)):
        assert ModelGraph.from_networkx(digraph, weight=name).to_scipy()[0, 1] == expected


def test_networkx_round_trip_of_a_random_graph() -> None:
    digraph = graphs.digraph(graphs.random_dag(25, 0.2, seed=9))
    back = ModelGraph.from_networkx(digraph).to_networkx()
    assert list(back) == list(digraph)
    assert {(a, b): w["weight"] for a, b, w in back.edges(data=True)} == {
        (a, b): w["weight"] for a, b, w in digraph.edges(data=True)
    }


def test_networkx_graphs_that_are_not_acyclic_are_refused() -> None:
    loop: nx.DiGraph[Any] = nx.DiGraph([("a", "a"), ("a", "b")])
    with pytest.raises(InputError, match=r"cycle: a -> a$"):
        ModelGraph.from_networkx(loop)
    circle: nx.DiGraph[Any] = nx.DiGraph([("start", "a"), ("a", "b"), ("b", "c"), ("c", "a")])
    with pytest.raises(InputError, match=r"cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)$"):
        ModelGraph.from_networkx(circle)
    undirected: Any = nx.Graph([(0, 1)])
    with pytest.raises(InputError, match="pass a DiGraph"):
        ModelGraph.from_networkx(undirected)


def test_an_empty_networkx_graph_is_an_empty_graph() -> None:
    graph = ModelGraph.from_networkx(nx.DiGraph())
    assert (graph.n_nodes, graph.n_edges) == (0, 0)
    assert graph.to_networkx().number_of_nodes() == 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_all_forms_of_a_models_graph_have_the_same_edges(model_type: str) -> None:
    graph = export(decoder(model_type), level="unit")
    expected = graph.to_scipy().toarray()
    names = [node_name(graph, node) for node in range(graph.n_nodes)]
    digraph, other = graph.to_networkx(), graph.to_igraph()
    assert list(digraph) == other.vs["name"] == names
    assert np.array_equal(nx.to_numpy_array(digraph, nodelist=names, dtype=np.float32), expected)
    found = np.zeros_like(expected)
    for edge in other.es:
        found[edge.source, edge.target] = edge["weight"]
    assert np.array_equal(found, expected)
    assert digraph.nodes["neuron.1.3"] == {"kind": "neuron", "layer": 1, "position": 3}
    assert other.vs.find("neuron.1.3").attributes() == {"name": "neuron.1.3", "kind": "neuron", "layer": 1}
    assert other.is_dag()


def test_igraph_of_an_outside_graph_keeps_the_callers_order_and_labels() -> None:
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_weighted_edges_from([("sink", "last", 1.0), ("source", "sink", 2.0)])
    found = ModelGraph.from_networkx(digraph).to_igraph()
    assert found.vs["name"] == ["sink", "last", "source"]
    assert {(edge.source, edge.target): edge["weight"] for edge in found.es} == {(0, 1): 1.0, (2, 0): 2.0}


def test_too_many_edges_are_refused_with_the_remedy() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(20, 0.5, seed=1)))
    n = graph.n_edges
    for convert in (graph.to_networkx, graph.to_igraph):
        convert(max_edges=n)
        with pytest.raises(InputError, match=f"{n} edges are too many.*sparsify the graph or take a coarser level"):
            convert(max_edges=n - 1)


def test_one_torch_csr_holds_the_same_edges_with_int32_indices(tiny: Model) -> None:
    graph = export(tiny).quotient("unit")
    whole = graph.to_torch()
    assert whole.crow_indices().dtype == whole.col_indices().dtype == torch.int32
    np.testing.assert_array_equal(whole.to_dense().numpy(), graph.to_scipy().toarray())


def test_one_matrix_is_refused_above_a_size(tiny: Model) -> None:
    with pytest.raises(InputError, match="too many for one SciPy matrix"):
        export(tiny).to_scipy(max_edges=1000)

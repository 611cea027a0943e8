"""Graphs from and to SciPy, networkx and igraph."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import igraph
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
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


# ------------------------------------------------------------------------------------------- matrices of every form


def unsorted(kind: Any, rows: list[int], columns: list[int], values: list[Any], n: int, dtype: Any) -> Any:
    """Entries row by row (of a CSC matrix, column by column), in the order given within a row."""
    order = np.argsort(np.array(rows, dtype=np.int64), kind="stable")
    pointers = np.concatenate([[0], np.cumsum(np.bincount(np.array(rows, dtype=np.int64), minlength=n))])
    return kind(
        (np.array(values, dtype=dtype)[order], np.array(columns, dtype=np.int64)[order], pointers), shape=(n, n)
    )


FORMS: dict[str, Callable[[list[int], list[int], list[Any], int, Any], Any]] = {
    "csr_array": partial(unsorted, sparse.csr_array),
    "csr_matrix": partial(unsorted, sparse.csr_matrix),
    "csc_array": lambda rows, columns, *rest: unsorted(sparse.csc_array, columns, rows, *rest),
    "coo_array": lambda rows, columns, values, n, dtype: sparse.coo_array(
        (np.array(values, dtype=dtype), (np.array(rows, dtype=np.int32), np.array(columns, dtype=np.int32))),
        shape=(n, n),
    ),
    "lil_array": lambda *entries: sparse.lil_array(unsorted(sparse.csr_array, *entries)),
}
"""Matrices of given entries, which need be neither sorted nor each there once."""


def arrays(matrix: Any) -> list[NDArray[Any]]:
    names = ("data", "indices", "indptr", "row", "col", "rows")
    return [getattr(matrix, name).copy() for name in names if hasattr(matrix, name)]


def canonical(matrix: Any) -> sparse.csr_array:
    """SciPy's own idea of it, in the type that graphs have."""
    result = sparse.csr_array(matrix).copy()
    result.sum_duplicates()
    return result if result.dtype in (np.float32, np.float64) else result.astype(np.float64)


def check_same(graph: ModelGraph, matrix: Any) -> None:
    """The graph has the matrix's edges, weights of zero among them, and knows what leaves and what reaches each."""
    found, expected = graph.to_scipy(), canonical(matrix)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert graph.strengths is not None
    for strength, axis in zip(graph.strengths, (1, 0), strict=True):
        assert strength.dtype == graph.dtype
        assert np.array_equal(graph.in_caller_order(strength).numpy(), expected.sum(axis=axis))
    recomputed = replace(graph, strengths=None)
    torch.testing.assert_close(recomputed.out_strength, graph.out_strength)
    torch.testing.assert_close(recomputed.in_strength, graph.in_strength)
    assert graph.weight == ("signed" if (expected.data < 0).any() else "magnitude")
    place = 0
    for block in graph.blocks:
        held = block.load()
        assert place <= block.dst[0]  # one generation after the other
        place = block.dst[0]
        if held.n_edges:  # from no more nodes than need be
            assert (int(held.col.min()), int(held.col.max())) == (0, held.shape[1] - 1)
        assert held.crow.dtype == held.col.dtype == torch.int32


listed = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(-3, 3)), max_size=30),
        st.permutations(range(n)),
    )
)
"""Edges with whole weights, zeros among them, and the order of the nodes in which they lead forward."""


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=80)
@given(
    dtype=st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint16, np.bool_]),
    drawn=listed,
    full_from=st.sampled_from([0, 256]),
)
def test_a_matrix_of_any_form_and_type_comes_back_as_it_was(
    form: str, dtype: Any, drawn: tuple[list[tuple[int, int, int]], list[int]], full_from: int
) -> None:
    edges, order = drawn
    forward = [(order[min(a, b)], order[max(a, b)], weight) for a, b, weight in edges if a != b]
    values = [abs(w) if dtype == np.uint16 else w for _, _, w in forward]
    matrix = FORMS[form]([a for a, _, _ in forward], [b for _, b, _ in forward], values, len(order), dtype)
    before = arrays(matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphprune.core.convert.FULL_FROM", full_from)
        graph = ModelGraph.from_scipy(matrix)
    check_same(graph, matrix)
    for now, then in zip(arrays(matrix), before, strict=True):
        assert np.array_equal(now, then)


def layers(*widths: int) -> graphs.Matrix:
    """Layers in which every node leads to every node of the next, each edge with a weight of its own."""
    result = np.zeros((sum(widths), sum(widths)))
    starts = np.cumsum([0, *widths])
    for i in range(len(widths) - 1):
        a, b, c = starts[i : i + 3]
        result[a:b, b:c] = np.arange(1, (b - a) * (c - b) + 1).reshape(b - a, c - b)
    return result


STRUCTURES: dict[str, graphs.Matrix] = {
    "in order already": np.triu(np.arange(144.0).reshape(12, 12), k=1),
    "a chain": np.diag(np.arange(1.0, 30.0), k=1),
    "a chain against the numbering": np.diag(np.arange(1.0, 30.0), k=-1),
    "a star outwards": np.pad(np.arange(1.0, 12.0)[None], ((0, 11), (1, 0))),
    "a star inwards": np.pad(np.arange(1.0, 12.0)[None], ((0, 11), (1, 0))).T,
    "every edge": np.triu(np.arange(400.0).reshape(20, 20) - 200.5, k=1),
    "layers": layers(20, 30, 1, 25),
    "layers with skips": layers(20, 20, 20) + np.eye(60, k=40),
    "no edges": np.zeros((5, 5)),
    "one node": np.zeros((1, 1)),
    "no node": np.zeros((0, 0)),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("order", ["as it is", "reversed", "shuffled"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_of_any_structure_comes_back_as_it_was(name: str, order: str, dtype: Any) -> None:
    matrix = STRUCTURES[name]
    n = len(matrix)
    shuffled = np.random.default_rng(1).permutation(n)
    ids = {"as it is": np.arange(n), "reversed": np.arange(n)[::-1], "shuffled": shuffled}[order]
    form = sparse.csr_array(matrix[np.ix_(ids, ids)].astype(dtype))
    graph = ModelGraph.from_scipy(form)
    check_same(graph, form)
    generations = nx.topological_generations(nx.from_numpy_array(form.toarray(), create_using=nx.DiGraph))
    assert [span.size for span in graph.nodes.spans] == [len(layer) for layer in generations]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_that_are_full_become_full_blocks(dtype: Any) -> None:
    matrix = layers(20, 30, 25).astype(dtype)
    graph = ModelGraph.from_scipy(graphs.csr(matrix, dtype))
    full = [block for block in graph.blocks if block.n_edges]
    assert [(block.src, block.dst) for block in full] == [((0, 20), (20, 50)), ((20, 50), (50, 75))]
    for block in full:
        held = block.load()
        assert held.is_full
        assert np.array_equal(held.matrix.numpy(), matrix[slice(*block.src), slice(*block.dst)].T)


def test_edges_beside_those_of_a_full_layer_are_a_block_of_their_own() -> None:
    matrix = layers(20, 30, 25)
    matrix[3, 60], matrix[7, 74] = -1, 5  # skips
    graph = ModelGraph.from_scipy(graphs.csr(matrix))
    found = [(block.src, block.dst, block.n_edges) for block in graph.blocks if block.n_edges]
    assert sorted(found) == [((0, 20), (20, 50), 600), ((3, 8), (50, 75), 2), ((20, 50), (50, 75), 750)]
    check_same(graph, graphs.csr(matrix))


@pytest.mark.parametrize("gap", [(0, 20), (19, 49), (7, 33)])
def test_a_layer_that_lacks_an_edge_is_no_full_block(gap: tuple[int, int]) -> None:
    matrix = layers(20, 30)
    matrix[gap] = 0
    graph = ModelGraph.from_scipy(graphs.csr(matrix))
    assert not any(block.load().is_full for block in graph.blocks)
    assert graph.n_edges == 599
    check_same(graph, graphs.csr(matrix))
    skipped = np.zeros((51, 51))  # as many edges a node as a full layer has, one of them from elsewhere
    skipped[:50, :50] = matrix
    skipped[50, gap[0]] = skipped[50, gap[1]] = 1
    check_same(ModelGraph.from_scipy(graphs.csr(skipped)), graphs.csr(skipped))


@pytest.mark.parametrize("form", ["sorted", "unsorted", "columns"])
def test_a_matrix_that_may_not_be_written_to_is_read(form: str) -> None:
    """As one that is memory-mapped."""
    entries = (np.array([1.0, 2.0, 3.0]), np.array([2, 1, 2], dtype=np.int32), np.array([0, 2, 3, 3], dtype=np.int32))
    matrix = {"sorted": sparse.csr_array, "unsorted": sparse.csr_array, "columns": sparse.csc_array}[form](
        entries, shape=(3, 3)
    )
    matrix = matrix if form != "columns" else sparse.csc_array(matrix.T)
    if form == "sorted":
        matrix.sum_duplicates()
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    expected = canonical(matrix)
    graph = ModelGraph.from_scipy(matrix)
    assert np.array_equal(graph.to_scipy().toarray(), expected.toarray())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, 2.0], "magnitude"),
        ([1.0, -2.0], "signed"),
        ([0.0, 0.0], "magnitude"),
        ([-0.0, 1.0], "magnitude"),
        ([-1e-300, 1.0], "signed"),
        ([], "magnitude"),
    ],
)
def test_weights_are_signed_if_one_is_negative(weights: list[float], expected: str) -> None:
    ends = np.arange(len(weights))
    graph = ModelGraph.from_scipy(sparse.coo_array((np.array(weights), (ends, ends + 1)), shape=(3, 3)))
    assert graph.weight == expected
    assert ModelGraph.from_networkx(graph.to_networkx()).weight == expected


def test_a_sum_that_is_not_negative_has_no_sign() -> None:
    entries = (np.array([-1.0, 3.0]), (np.array([0, 0]), np.array([1, 1])))
    assert ModelGraph.from_scipy(sparse.coo_array(entries, shape=(2, 2))).weight == "magnitude"


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


@pytest.mark.parametrize("suffix", [".graphml", ".graphml.gz", ".gexf", ".gexf.gz"])
def test_a_file_of_another_program_holds_the_same_graph(suffix: str, tmp_path: Path) -> None:
    graph = export(decoder("llama"), level="unit", weight="magnitude")
    path = tmp_path / f"graph{suffix}"
    kind = suffix.removesuffix(".gz").removeprefix(".")
    getattr(nx, f"write_{kind}")(graph.to_networkx(), path)
    back = getattr(nx, f"read_{kind}")(path)
    found = ModelGraph.from_networkx(back)
    assert found.labels == tuple(node_name(graph, node) for node in range(graph.n_nodes))
    assert np.array_equal(found.to_scipy().toarray(), graph.to_scipy().toarray())
    assert back.nodes["neuron.1.3"]["kind"] == "neuron"
    if kind == "graphml":
        read = igraph.Graph.Read_GraphMLz if suffix.endswith("gz") else igraph.Graph.Read_GraphML
        other = read(str(path))
        assert (other.vcount(), other.ecount()) == (graph.n_nodes, graph.n_edges)
        assert np.array_equal(np.sort(other.es["weight"]), np.sort(graph.to_scipy().data.astype(np.float64)))


def test_a_file_that_igraph_writes_is_read_by_networkx(tmp_path: Path) -> None:
    graph = export(decoder("llama"), level="unit", weight="magnitude")
    graph.to_igraph().write_graphml(str(tmp_path / "graph.graphml"))
    back = nx.read_graphml(tmp_path / "graph.graphml")
    names = nx.get_node_attributes(back, "name")
    assert list(names.values()) == [node_name(graph, node) for node in range(graph.n_nodes)]
    found = ModelGraph.from_networkx(back).to_scipy().toarray()
    np.testing.assert_allclose(found, graph.to_scipy().toarray(), rtol=1e-12)


def test_one_matrix_is_refused_above_a_size(tiny: Model) -> None:
    with pytest.raises(InputError, match="too many for one SciPy matrix"):
        export(tiny).to_scipy(max_edges=1000)

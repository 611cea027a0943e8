"""PageRank against networkx, igraph, a dense solve, and graphs whose answer is known by hand."""

from typing import Any

import igraph
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.centrality import CENTRALITIES, CentralityResult, pagerank
from graphprune.centrality.units import per_unit
from graphprune.core.graph import ModelGraph
from graphprune.extraction.export import export
from tests.centrality.cases import (
    DIRECTIONS,
    EXACT,
    case,
    edge_lists,
    every_case,
    every_direction,
    in_direction,
    matrix_of,
)
from tests.families import MODEL_TYPES, decoder
from tests.oracles import graph as graphs
from tests.oracles import pagerank as oracle
from tests.unchecked import unchecked


def by_networkx(graph: "nx.DiGraph[Any]", alpha: float = 0.85, **options: Any) -> torch.Tensor:
    """What networkx says, asked to go far beyond its default tolerance (it stops at an error of N * tol)."""
    found = nx.pagerank(graph, alpha=alpha, tol=1e-15, max_iter=100_000, **options)
    return torch.tensor([found[node] for node in graph], dtype=torch.float64)


@every_case
@every_direction
def test_equals_networkx(name: str, direction: Any) -> None:
    matrix = case(name)
    reference = graphs.digraph(matrix)
    found = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), direction=direction)
    expected = in_direction(direction, by_networkx(reference), by_networkx(reference.reverse()))
    torch.testing.assert_close(found.scores, expected, **EXACT)
    assert found.scores.dtype == torch.float64
    assert (found.name, found.direction, found.normalisation) == ("pagerank", direction, "sum 1")
    assert found.residual < 1e-14


@every_case
@every_direction
def test_unweighted_equals_networkx_without_weights(name: str, direction: Any) -> None:
    matrix = case(name)
    reference = graphs.digraph(matrix)
    found = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), direction=direction, weight=None).scores
    expected = in_direction(
        direction, by_networkx(reference, weight=None), by_networkx(reference.reverse(), weight=None)
    )
    torch.testing.assert_close(found, expected, **EXACT)


def test_weights_count_unless_told_otherwise() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(case("random")))
    assert (pagerank(graph).scores - pagerank(graph, weight=None).scores).abs().max() > 1e-3


@every_case
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.85, 0.999, 1.0])
@pytest.mark.parametrize("other_sink", [False, True])
def test_equals_a_dense_solve_for_every_alpha(name: str, alpha: float, other_sink: bool) -> None:
    matrix = case(name)
    random = np.random.default_rng(7)
    jump = random.uniform(0.1, 1, len(matrix))
    sink = random.uniform(0.1, 1, len(matrix)) if other_sink else None
    found = pagerank(
        ModelGraph.from_scipy(graphs.csr(matrix)),
        alpha,
        torch.from_numpy(jump),
        None if sink is None else torch.from_numpy(sink),
    )
    expected = torch.from_numpy(oracle.pagerank(matrix, alpha, jump, sink))
    torch.testing.assert_close(found.scores, expected, rtol=1e-9, atol=1e-12)
    assert found.residual < 1e-13


@every_direction
def test_personalization_and_dangling_as_mappings_equal_networkx(direction: Any) -> None:
    matrix = case("sparse, with isolated nodes")
    reference = graphs.digraph(matrix)
    jump, sink = {0: 1.0, 7: 3.0, 11: 0.5}, {2: 1.0, 7: 1.0}
    found = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), 0.7, jump, sink, direction=direction).scores
    expected = in_direction(
        direction,
        by_networkx(reference, 0.7, personalization=jump, dangling=sink),
        by_networkx(reference.reverse(), 0.7, personalization=jump, dangling=sink),
    )
    torch.testing.assert_close(found, expected, **EXACT)
    default = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), 0.7, jump, direction=direction).scores
    assert (found - default).abs().max() > 1e-3


def test_a_vector_and_a_mapping_of_labels_say_the_same() -> None:
    reference: nx.DiGraph[Any] = nx.DiGraph()
    reference.add_weighted_edges_from([("sink", "last", 1.0), ("source", "sink", 2.0), ("source", "last", 1.0)])
    graph = ModelGraph.from_networkx(reference)
    vector = pagerank(graph, personalization=torch.tensor([0.25, 0.0, 0.75])).scores
    mapping = pagerank(graph, personalization={"sink": 1.0, "source": 3.0}).scores
    assert list(reference) == ["sink", "last", "source"]
    torch.testing.assert_close(vector, mapping, **EXACT)
    torch.testing.assert_close(mapping, by_networkx(reference, personalization={"sink": 1.0, "source": 3.0}), **EXACT)


@pytest.mark.parametrize(("choice", "axis"), [("inputs", 0), ("outputs", 1)])
def test_inputs_and_outputs_are_the_nodes_without_edges_on_that_side(choice: str, axis: int) -> None:
    matrix = case("sparse, with isolated nodes")
    graph = ModelGraph.from_scipy(graphs.csr(matrix))
    where = torch.from_numpy((matrix.sum(axis=axis) == 0).astype(np.float64))
    assert 0 < where.sum() < len(where)
    expected = pagerank(graph, personalization=where).scores
    torch.testing.assert_close(pagerank(graph, personalization=choice).scores, expected, **EXACT)
    moved = pagerank(graph, dangling=choice).scores
    torch.testing.assert_close(moved, pagerank(graph, dangling=where).scores, **EXACT)
    assert (moved - pagerank(graph).scores).abs().max() > 1e-3
    torch.testing.assert_close(pagerank(graph, personalization="uniform").scores, pagerank(graph).scores, **EXACT)


@every_case
def test_equals_igraph(name: str) -> None:
    """A surfer who is stuck goes to the reset distribution in igraph, as in networkx by default."""
    matrix = case(name)
    src, dst = matrix.nonzero()
    reference = igraph.Graph(n=len(matrix), edges=list(zip(src.tolist(), dst.tolist(), strict=True)), directed=True)
    weights = matrix[src, dst].tolist()
    jump = np.random.default_rng(5).uniform(0.1, 1, len(matrix))
    expected = reference.personalized_pagerank(damping=0.85, reset=jump.tolist(), weights=weights)
    found = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), personalization=torch.from_numpy(jump)).scores
    # igraph's PRPACK solver stops at a residual of 1e-10
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-10)


def test_a_graph_known_by_hand() -> None:
    """0 -> 1 (weight 3), 0 -> 2 (weight 1), alpha 1/2, start at 0; 1 and 2 dangle back to 0.

    x0 = 1/2 + 1/2 (x1 + x2), x1 = 3/8 x0, x2 = 1/8 x0: x0 = 2/3, x1 = 1/4, x2 = 1/12.
    """
    matrix = np.array([[0, 3, 1], [0, 0, 0], [0, 0, 0]], dtype=np.float64)
    found = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), 0.5, {0: 1.0}).scores
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 4, 1 / 12], dtype=torch.float64), **EXACT)


def test_isolated_nodes_share_alike() -> None:
    found = pagerank(ModelGraph.from_scipy(graphs.csr(case("no edges")))).scores
    torch.testing.assert_close(found, torch.full((5,), 0.2, dtype=torch.float64), **EXACT)


@every_direction
def test_no_nodes_have_no_scores(direction: Any) -> None:
    found = pagerank(ModelGraph.from_scipy(graphs.csr(np.zeros((0, 0)))), direction=direction)
    assert found.scores.shape == (0,)
    assert found.residual == 0


def test_alpha_zero_is_the_personalization() -> None:
    jump = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0], dtype=torch.float64)
    found = pagerank(ModelGraph.from_scipy(graphs.csr(case("two sources, two sinks"))), 0.0, jump).scores
    torch.testing.assert_close(found, jump / 10, **EXACT)


def test_alpha_one_backward_from_the_outputs_is_the_share_of_paths() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(case("two sources, two sinks")))
    found = pagerank(graph, 1.0, "outputs", direction="backward").scores
    # 3 and 4 start with 1/2 each; all of it reaches 2, then a third 0 and two thirds 1: together 3 units
    expected = torch.tensor([1 / 3, 2 / 3, 1, 1 / 2, 1 / 2], dtype=torch.float64) / 3
    torch.testing.assert_close(found, expected, **EXACT)


@every_case
def test_float32_stays_float32_and_agrees(name: str) -> None:
    matrix = case(name)
    single = pagerank(ModelGraph.from_scipy(graphs.csr(matrix, np.float32))).scores
    assert single.dtype == torch.float32
    double = pagerank(ModelGraph.from_scipy(graphs.csr(matrix))).scores
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-7)


def test_edges_of_weight_zero_carry_nothing() -> None:
    with_zero = graphs.csr(case("a chain against the numbering"))
    with_zero.data[1] = 0.0
    assert with_zero.nnz == 4
    found = pagerank(ModelGraph.from_scipy(with_zero)).scores
    torch.testing.assert_close(found, torch.from_numpy(oracle.pagerank(with_zero.toarray(), 0.85)), **EXACT)


@given(edge_lists, st.floats(0, 1))
def test_relabelling_the_nodes_relabels_the_scores(
    drawn: tuple[int, list[tuple[int, int, int]], list[int]], alpha: float
) -> None:
    n, edges, permutation = drawn
    matrix = matrix_of(n, edges)
    plain = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), alpha, direction="both").scores
    relabelled = matrix[np.ix_(permutation, permutation)]
    found = pagerank(ModelGraph.from_scipy(graphs.csr(relabelled)), alpha, direction="both").scores
    torch.testing.assert_close(found, plain[list(permutation)], **EXACT)
    torch.testing.assert_close(float(found.sum()), 1.0, **EXACT)


@given(edge_lists, st.floats(0, 1), st.floats(1e-3, 1e3))
def test_scaling_all_weights_changes_nothing(
    drawn: tuple[int, list[tuple[int, int, int]], list[int]], alpha: float, scale: float
) -> None:
    n, edges, _ = drawn
    matrix = matrix_of(n, edges)
    plain = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), alpha).scores
    torch.testing.assert_close(
        pagerank(ModelGraph.from_scipy(graphs.csr(matrix * scale)), alpha).scores, plain, **EXACT
    )


@given(edge_lists, st.floats(0, 1))
def test_reversing_the_graph_swaps_forward_and_backward(
    drawn: tuple[int, list[tuple[int, int, int]], list[int]], alpha: float
) -> None:
    n, edges, _ = drawn
    matrix = matrix_of(n, edges)
    backward = pagerank(ModelGraph.from_scipy(graphs.csr(matrix)), alpha, direction="backward").scores
    torch.testing.assert_close(backward, pagerank(ModelGraph.from_scipy(graphs.csr(matrix.T)), alpha).scores, **EXACT)
    torch.testing.assert_close(backward, torch.from_numpy(oracle.pagerank(matrix.T, alpha)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_the_unit_interval_is_refused_with_its_value(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"not {alpha}"):
        pagerank(ModelGraph.from_scipy(graphs.csr(case("random"))), alpha)


def test_an_unknown_direction_is_refused_with_the_known_ones() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(case("random")))
    with unchecked(), pytest.raises(ValueError, match=r"forward.*backward.*both.*'sideways'"):
        pagerank(graph, direction="sideways")  # type: ignore[arg-type]


def test_negative_weights_are_refused_unless_they_are_not_used() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(-case("random")))
    with pytest.raises(ValueError, match="non-negative weights"):
        pagerank(graph)
    expected = by_networkx(graphs.digraph(case("random")), weight=None)
    torch.testing.assert_close(pagerank(graph, weight=None).scores, expected, **EXACT)


def test_a_signed_graph_of_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="magnitude or activation"):
        pagerank(export(decoder("llama"), weight="signed"))


@pytest.mark.parametrize("name", ["personalization", "dangling"])
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (torch.zeros(5), "not all zero"),
        (torch.tensor([1.0, 1, 1, 1, -1]), "non-negative"),
        (torch.tensor([1.0, 1, 1, 1, float("nan")]), "finite"),
        (torch.tensor([1.0, 1, 1, 1, float("inf")]), "finite"),
        (torch.ones(4), r"shape \(4,\), the graph has 5 nodes"),
        ({9: 1.0}, "isn't in the graph: 9"),
        ({}, "not all zero"),
        ("everywhere", "'everywhere'"),
    ],
)
def test_a_useless_choice_of_nodes_is_refused_by_name(name: str, choice: Any, message: str) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(case("two sources, two sinks")))
    with pytest.raises(ValueError, match=f"^{name} .*{message}"):
        pagerank(graph, **{name: choice})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_graph_of_every_family_is_ranked_as_networkx_ranks_it(model_type: str) -> None:
    graph = export(decoder(model_type))
    reference = graph.to_networkx()
    for direction in DIRECTIONS:
        found = pagerank(graph, direction=direction).scores
        expected = in_direction(direction, by_networkx(reference), by_networkx(reference.reverse()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-9)  # sums of float32 weights


def test_values_of_nodes_become_values_of_units() -> None:
    graph = export(decoder("llama"))
    scores = torch.arange(graph.n_nodes, dtype=torch.float32)
    units = per_unit(graph, CentralityResult(scores, "mass", "forward", "sum", "by hand"))
    assert units.keys() == {f"{kind}.{layer}" for kind in ("head", "neuron") for layer in (0, 1)} | {
        f"resid.{k}" for k in range(5)
    }
    start, _ = graph.nodes.range("attn", 1)
    assert units["head.1"].tolist() == [float(sum(range(start + 8 * h, start + 8 * h + 8))) for h in range(4)]
    means = per_unit(graph, CentralityResult(scores, "depth", "forward", "mean", "by hand", aggregate="mean"))
    assert means["head.1"].tolist() == [start + 8 * h + 3.5 for h in range(4)]
    first, last = graph.nodes.range("neuron", 0)
    assert units["neuron.0"].tolist() == list(range(first, last))


def test_values_of_modules_become_values_of_blocks() -> None:
    graph = export(decoder("llama"), level="block")
    scores = torch.arange(graph.n_nodes, dtype=torch.float32)
    result = CentralityResult(scores, "mass", "forward", "sum", "by hand")
    assert {name: value.item() for name, value in per_unit(graph, result).items()} == {
        "resid.0": 0, "block.0.attn": 1, "resid.1": 2, "block.0.mlp": 3, "resid.2": 4,
        "block.1.attn": 5, "resid.3": 6, "block.1.mlp": 7, "resid.4": 8,
    }  # fmt: skip


def test_pagerank_is_in_the_table() -> None:
    assert CENTRALITIES["pagerank"] is pagerank

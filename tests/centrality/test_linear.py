"""Degrees, strengths, Katz, PageRank of many, HITS, trophic levels: networkx, igraph, dense solves, answers by hand."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.centrality import hits, in_degree, in_strength, katz, out_degree, out_strength, pagerank, trophic_levels
from graphprune.core.graph import ModelGraph
from graphprune.extraction.export import export
from tests.centrality.cases import (
    CASES,
    DIAMOND,
    assert_equal,
    assert_refused,
    by_node,
    chain,
    digraph,
    edge_lists,
    edges,
    every_case,
    every_direction,
    every_dtype,
    graph_of,
    in_direction,
    layered,
    matrix_of,
    network,
    unweighted,
    vector,
)
from tests.families import MODEL_TYPES, decoder
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

# ------------------------------------------------------------------------------------------- degrees and strengths


@every_case
@every_dtype
def test_degrees_and_strengths_equal_networkx(name: str, dtype: Any) -> None:
    """An edge of weight zero is an edge."""
    reference = digraph(name)
    graph = graph_of(reference, dtype)
    for measure, expected in (
        (in_degree, dict(reference.in_degree())),
        (out_degree, dict(reference.out_degree())),
        (in_strength, dict(reference.in_degree(weight="weight"))),
        (out_strength, dict(reference.out_degree(weight="weight"))),
    ):
        found = measure(graph)
        assert_equal(found.scores, by_node(reference, expected))
        assert (found.residual, found.stderr) == (0.0, None)
    for measure, share in ((in_degree, nx.in_degree_centrality), (out_degree, nx.out_degree_centrality)):
        assert_equal(measure(graph, normalized=True).scores, by_node(reference, share(reference)))


def test_strengths_are_signed_sums() -> None:
    """2 receives 3 - 5, 0 sends 3 + 1."""
    graph = graph_of(edges(3, (0, 2, 3.0), (1, 2, -5.0), (0, 1, 1.0)))
    assert_equal(in_strength(graph).scores, vector([0, 1, -2]))
    assert_equal(out_strength(graph).scores, vector([4, -5, 0]))
    assert_equal(in_degree(graph).scores, vector([0, 1, 2]))


def test_degrees_beyond_the_whole_numbers_of_float32_sums_are_counted() -> None:
    """70,000 edges into one node."""
    graph = graph_of(edges(70_001, *((leaf, 70_000, 1.0) for leaf in range(70_000))), np.float32)
    assert in_degree(graph).scores[-1] == 70_000
    assert out_degree(graph).scores.tolist() == [1.0] * 70_000 + [0.0]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_degrees_and_strengths_of_every_family_equal_networkx(model_type: str) -> None:
    graph = export(decoder(model_type), weight="signed")
    reference = graph.to_networkx()
    assert_equal(in_degree(graph).scores, by_node(reference, dict(reference.in_degree())))
    assert_equal(out_degree(graph).scores, by_node(reference, dict(reference.out_degree())))
    strengths = by_node(reference, dict(reference.in_degree(weight="weight")))
    assert bool((strengths < 0).any())
    assert_equal(in_strength(graph).scores, strengths)


# -------------------------------------------------------------------------------------------------------------- Katz


@pytest.mark.parametrize("name", sorted({*CASES} - {"one node"}))
@every_direction
@pytest.mark.parametrize("normalized", [True, False])
def test_katz_equals_networkx(name: str, direction: Any, normalized: bool) -> None:
    """One equation for one unknown is too small for networkx."""
    reference = digraph(name)
    there, back = (
        by_node(reference, nx.katz_centrality_numpy(way, 0.2, 1.5, normalized=normalized, weight="weight"))
        for way in (reference, reference.reverse())
    )
    found = katz(graph_of(reference), 0.2, 1.5, normalized=normalized, direction=direction)
    assert_equal(found.scores, in_direction(direction, there, back))
    assert found.residual < 1e-14 * max(1.0, float(found.scores.abs().sum()))
    assert (found.name, found.direction) == ("katz", direction)


@every_case
@every_dtype
@pytest.mark.parametrize("alpha", [0.01, 0.5, 3.0])
def test_katz_equals_a_dense_solve_for_every_positive_alpha(name: str, dtype: Any, alpha: float) -> None:
    """The adjacency of an acyclic graph has no eigenvalue but zero: no alpha is too large."""
    reference = digraph(name)
    beta = np.random.default_rng(3).uniform(-1, 1, len(reference))
    graph = graph_of(reference, dtype)
    expected = vector(oracle.katz(reference, alpha, beta))
    found = katz(graph, alpha, torch.from_numpy(beta), normalized=False)
    # terms of both signs cancel: what is left is exact up to the largest of them
    scale = float(expected.abs().max())
    assert_equal(found.scores / scale, expected / scale)
    assert found.scores.dtype == graph.dtype
    raw = katz(graph, alpha, normalized=False).scores
    assert_equal(raw / raw.abs().max(), vector(oracle.katz(reference, alpha)) / float(raw.abs().max()))
    torch.testing.assert_close(float(katz(graph, alpha).scores.double().norm()), 1.0, rtol=1e-6, atol=0.0)


@every_case
def test_unweighted_katz_equals_networkx_without_weights(name: str) -> None:
    reference = unweighted(digraph(name))
    found = katz(graph_of(digraph(name)), 0.2, normalized=False, weight=None).scores
    assert_equal(found, vector(oracle.katz(reference, 0.2)))


def test_katz_without_attenuation_is_where_it_starts() -> None:
    beta = torch.arange(40, dtype=torch.float64)
    assert torch.equal(katz(graph_of(digraph("random")), 0.0, beta, normalized=False).scores, beta)


def test_katz_takes_signed_weights() -> None:
    """x1 = 1 - x0 / 2 = 1/2, x2 = 1 + x1 = 3/2 with alpha 1/2 and weights -1 and 2."""
    graph = graph_of(chain(-1.0, 2.0))
    assert_equal(katz(graph, 0.5, normalized=False).scores, vector([1, 1 / 2, 3 / 2]))
    # networkx turns the sign so that the sum is positive: beta -1 gives the same
    assert_equal(katz(graph, 0.5).scores, vector([1, 1 / 2, 3 / 2]) / 3.5**0.5)


def test_katz_of_a_diamond() -> None:
    """0 -> 1 (1), 0 -> 2 (3), 1 -> 3 (2), 2 -> 3 (2), alpha 1/2: x1 = 1 + 1/2, x2 = 1 + 3/2, x3 = 1 + x1 + x2 = 5."""
    graph = graph_of(DIAMOND)
    assert_equal(katz(graph, 0.5, normalized=False).scores, vector([1, 3 / 2, 5 / 2, 5]))
    # backward: x1 = x2 = 1 + 1, x0 = 1 + 2 / 2 + 3 * 2 / 2
    assert_equal(katz(graph, 0.5, normalized=False, direction="backward").scores, vector([5, 2, 2, 1]))


def test_katz_counts_walks_of_a_chain() -> None:
    """Unit weights, alpha 1/10: 1, 1.1, 1.11, ..."""
    assert_equal(katz(graph_of(chain(1, 1, 1)), normalized=False).scores, vector([1, 1.1, 1.11, 1.111]))


@every_dtype
def test_katz_of_sixty_layers_neither_overflows_nor_loses_its_scale(dtype: Any) -> None:
    """8 wide, weights a million, alpha 1/10: x_0 = 1, x_l = 1 + 800000 x_(l - 1), up to 10^348."""
    graph = ModelGraph.from_scipy(graphs.csr(layered(*[8] * 60, weight=1e6), dtype))
    levels = [1]
    for _ in range(59):
        levels.append(1 + 800_000 * levels[-1])
    expected = vector([level / levels[-1] for level in levels for _ in range(8)])
    found = katz(graph).scores
    # sixty sums in the type of the weights; what is below its smallest number is zero
    rtol, atol = (1e-12, 1e-300) if dtype == np.float64 else (1e-5, 1e-37)
    torch.testing.assert_close(found.double(), expected / float(expected.norm()), rtol=rtol, atol=atol)
    with pytest.raises(ValueError, match=r"too large for torch\.float(32|64)"):
        katz(graph, normalized=False)


@given(edge_lists, st.floats(1e-3, 1e3))
def test_katz_depends_on_alpha_times_the_weights(drawn: tuple[int, Any, Any], scale: float) -> None:
    n, listed, _ = drawn
    plain = katz(ModelGraph.from_scipy(graphs.csr(matrix_of(n, listed))), 0.3).scores
    found = katz(ModelGraph.from_scipy(graphs.csr(matrix_of(n, listed) * scale)), 0.3 / scale).scores
    assert_equal(found, plain)


# ---------------------------------------------------------------------------------------------------------- PageRank


@every_case
@every_dtype
def test_pagerank_of_several_personalizations_is_that_of_each(name: str, dtype: Any) -> None:
    graph = graph_of(digraph(name), dtype)
    jumps = torch.from_numpy(np.random.default_rng(8).uniform(0.1, 1, (graph.n_nodes, 3)))
    sinks = jumps.flip(1)
    for alpha, direction in ((0.85, "forward"), (0.85, "both"), (1.0, "backward")):
        together = pagerank(graph, alpha, jumps, sinks, direction=direction)  # type: ignore[arg-type]
        assert together.scores.shape == (graph.n_nodes, 3)
        for column in range(3):
            alone = pagerank(graph, alpha, jumps[:, column], sinks[:, column], direction=direction)  # type: ignore[arg-type]
            assert_equal(together.scores[:, column], alone.scores)
        assert together.residual < (1e-13 if dtype == np.float64 else 1e-5)


def test_pagerank_without_weights_follows_edges_of_weight_zero() -> None:
    reference = digraph("edges of weight zero")
    expected = by_node(reference, nx.pagerank(reference, weight=None, tol=1e-15, max_iter=10_000))
    assert_equal(pagerank(graph_of(reference), weight=None).scores, expected)
    carrying = by_node(reference, nx.pagerank(reference, tol=1e-15, max_iter=10_000))
    assert_equal(pagerank(graph_of(reference)).scores, carrying)
    assert float((expected - carrying).abs().max()) > 1e-3


# -------------------------------------------------------------------------------------------------------------- HITS


@pytest.mark.parametrize("name", ["random", "tied", "whole numbers", "a chain against the numbering"])
def test_hits_equals_networkx(name: str) -> None:
    reference = digraph(name)
    hubs, authorities = nx.hits(reference, tol=0)
    graph = graph_of(reference)
    # networkx takes one product with a Lanczos vector: its own rounding is a little larger
    torch.testing.assert_close(hits(graph).scores, by_node(reference, authorities), rtol=1e-9, atol=1e-11)
    backward = hits(graph, direction="backward")
    torch.testing.assert_close(backward.scores, by_node(reference, hubs), rtol=1e-9, atol=1e-11)
    assert (backward.name, backward.direction) == ("hits", "backward")


@every_case
@every_dtype
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_hits_solves_its_equation(name: str, dtype: Any, direction: Any) -> None:
    """``A^T A x = s^2 x`` with the largest singular value s, also where several vectors do."""
    reference = digraph(name)
    towards = reference if direction == "forward" else reference.reverse()
    adjacency = torch.from_numpy(oracle.dense(towards))
    found = hits(graph_of(reference, dtype), direction=direction)
    scores, leading = found.scores.double(), float(torch.linalg.matrix_norm(adjacency, 2)) ** 2
    assert found.scores.dtype == graph_of(reference, dtype).dtype
    assert bool((scores >= 0).all())
    torch.testing.assert_close(float(scores.sum()), float(bool(adjacency.any())), rtol=1e-6, atol=1e-12)
    gap = (adjacency.T @ (adjacency @ scores) - leading * scores).abs().max() / max(leading, 1.0)
    assert gap < (1e-10 if dtype == np.float64 else 1e-6)
    assert found.residual < (1e-10 if dtype == np.float64 else 1e-4)


@every_case
def test_hits_starts_from_equal_scores(name: str) -> None:
    """Which of several leading vectors it is: the one that equal scores tend to."""
    reference = digraph(name)
    assert_equal(hits(graph_of(reference)).scores, vector(oracle.authorities(reference)))
    backward = hits(graph_of(reference), direction="backward").scores
    assert_equal(backward, vector(oracle.authorities(reference.reverse())))


@pytest.mark.filterwarnings("ignore:More than 30% of hub or authority scores are zeros")
@pytest.mark.parametrize("name", ["random", "tied", "whole numbers"])
def test_hits_equals_igraph(name: str) -> None:
    """There the largest is scaled to one."""
    reference = digraph(name)
    theirs = network(reference)
    lengths = list(oracle.weights(reference).values())
    graph = graph_of(reference)
    for direction, values in (
        ("forward", theirs.authority_score(weights=lengths)),
        ("backward", theirs.hub_score(weights=lengths)),
    ):
        expected = vector(values) / sum(values)
        found = hits(graph, direction=direction).scores  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)  # ARPACK's default tolerance


def test_hits_of_two_full_layers_are_shared_alike() -> None:
    """3 nodes lead to 4: every hub a third, every authority a quarter."""
    graph = ModelGraph.from_scipy(graphs.csr(layered(3, 4, weight=0.2)))
    assert_equal(hits(graph).scores, vector([0] * 3 + [1 / 4] * 4))
    assert_equal(hits(graph, direction="backward").scores, vector([1 / 3] * 3 + [0] * 4))


def test_hits_by_hand() -> None:
    """0 -> 2 (1), 0 -> 3 (1), 1 -> 3 (1): A^T A on (2, 3) is [[1, 1], [1, 2]], its leading vector (1, golden ratio)."""
    golden = (1 + 5**0.5) / 2
    graph = graph_of(edges(4, (0, 2, 1.0), (0, 3, 1.0), (1, 3, 1.0)))
    assert_equal(hits(graph).scores, vector([0, 0, 1, golden]) / (1 + golden))
    assert_equal(hits(graph, direction="backward").scores, vector([golden, 1, 0, 0]) / (1 + golden))
    unscaled = hits(graph, normalized=False).scores
    assert_equal(unscaled / unscaled.sum(), vector([0, 0, 1, golden]) / (1 + golden))


def test_hits_without_weights_counts_every_edge_the_same() -> None:
    graph = graph_of(edges(4, (0, 2, 5.0), (0, 3, 0.1), (1, 3, 2.0)))
    golden = (1 + 5**0.5) / 2
    assert_equal(hits(graph, weight=None).scores, vector([0, 0, 1, golden]) / (1 + golden))


def test_hits_has_no_mean_of_both_ways() -> None:
    with unchecked(), pytest.raises(ValueError, match=r"direction must .*'both'"):
        hits(graph_of(digraph("random")), direction="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_hits_of_equal_parts_are_shared_alike(copies: int) -> None:
    """An edge, several times, and the graph above, several times: nothing tells the copies apart."""
    golden = (1 + 5**0.5) / 2
    for n, part, answer in (
        (2, [(0, 1)], [0, 1]),
        (4, [(0, 2), (0, 3), (1, 3)], [0, 0, 1 / (1 + golden), golden / (1 + golden)]),
    ):
        shifted = [(a + n * i, b + n * i, 3.0) for i in range(copies) for a, b in part]
        graph = graph_of(edges(n * copies, *shifted))
        found = hits(graph).scores
        assert_equal(found, vector([share / copies for share in answer] * copies))
        assert torch.equal(found, hits(graph).scores)


# ----------------------------------------------------------------------------------------------------- trophic levels


@pytest.mark.parametrize("name", sorted({*CASES} - {"edges of weight zero"}))
@every_direction
def test_trophic_levels_equal_networkx(name: str, direction: Any) -> None:
    """Where a node has edges but no weight, networkx mixes up its nodes."""
    reference = digraph(name)
    there, back = (by_node(reference, nx.trophic_levels(way)) for way in (reference, reference.reverse()))
    found = trophic_levels(graph_of(reference), direction=direction)
    assert_equal(found.scores, in_direction(direction, there, back))
    assert found.residual < 1e-11
    assert (found.name, found.direction) == ("trophic_levels", direction)


@every_case
@every_direction
@every_dtype
def test_trophic_levels_equal_a_dense_solve(name: str, direction: Any, dtype: Any) -> None:
    reference = digraph(name)
    there, back = (vector(oracle.trophic_levels(way)) for way in (reference, reference.reverse()))
    graph = graph_of(reference, dtype)
    found = trophic_levels(graph, direction=direction).scores
    assert_equal(found, in_direction(direction, there, back))
    assert found.dtype == graph.dtype


def test_trophic_levels_of_a_diet() -> None:
    """2 eats 0 and 1 (both level 1): 2. 3 eats three parts of 2 and one of 0: 1 + (3 * 2 + 1 * 1) / 4 = 11 / 4."""
    graph = graph_of(edges(4, (0, 2, 1.0), (1, 2, 5.0), (2, 3, 3.0), (0, 3, 1.0)))
    assert_equal(trophic_levels(graph).scores, vector([1, 1, 2, 11 / 4]))
    assert_equal(trophic_levels(graph, weight=None).scores, vector([1, 1, 2, 1 + 3 / 2]))


def test_trophic_levels_of_layers_are_their_numbers() -> None:
    found = trophic_levels(ModelGraph.from_scipy(graphs.csr(layered(3, 2, 4, weight=0.1)))).scores
    assert_equal(found, vector([1] * 3 + [2] * 2 + [3] * 4))


def test_a_node_that_only_zeros_reach_is_on_the_first_level() -> None:
    graph = graph_of(chain(0.0, 2.0))
    assert_equal(trophic_levels(graph).scores, vector([1, 1, 2]))
    assert_equal(trophic_levels(graph, weight=None).scores, vector([1, 2, 3]))


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("measure", [hits, trophic_levels])
def test_negative_weights_are_refused_where_they_have_no_meaning(measure: Callable[..., Any]) -> None:
    graph = graph_of(edges(3, (0, 1, 1.0), (1, 2, -1.0)))
    with pytest.raises(ValueError, match="non-negative") as caught:
        measure(graph)
    assert "\n" not in str(caught.value)
    positive = graph_of(edges(3, (0, 1, 1.0), (1, 2, 1.0)))
    assert_equal(measure(graph, weight=None).scores, measure(positive, weight=None).scores)


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        (katz, {"alpha": -0.1}, r"alpha must .*-0\.1"),
        (katz, {"alpha": float("nan")}, "alpha must .*nan"),
        (katz, {"alpha": float("inf")}, "alpha must .*inf"),
        (katz, {"beta": torch.ones(7)}, r"beta .*\(7,\).* 40 nodes"),
        (katz, {"beta": torch.full((40,), float("nan"))}, "beta .*finite"),
        (katz, {"beta": float("nan")}, "beta .*finite"),
        (katz, {"direction": "up"}, "direction must .*'up'"),
        (hits, {"direction": "up"}, "direction must .*'up'"),
        (trophic_levels, {"direction": "up"}, "direction must .*'up'"),
        (katz, {"weight": "strength"}, "weight must .*'strength'"),
        (hits, {"weight": "strength"}, "weight must .*'strength'"),
        (trophic_levels, {"weight": "strength"}, "weight must .*'strength'"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_name_and_value(
    measure: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    assert_refused(message, measure, graph_of(digraph("random")), **options)

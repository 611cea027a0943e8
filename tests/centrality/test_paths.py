"""What holds for all measures that look at paths: their properties, and what they refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from graphprune.centrality import (
    betweenness,
    closeness,
    distances,
    edge_betweenness,
    edge_path_mass,
    harmonic,
    path_mass,
    reaching,
    sampling,
)
from graphprune.centrality.sampling import Sources
from graphprune.centrality.shortest_paths import Length
from graphprune.core.block import Block
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from tests.centrality.cases import (
    DIRECTIONS,
    DISTANCES,
    assert_equal,
    assert_refused,
    at,
    case,
    chain,
    digraph,
    edge_lists,
    edges,
    graph_of,
    inputs,
    matrix,
    matrix_of,
    outputs,
    vector,
)
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

# -------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=15)
@given(edge_lists, st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**30]))
def test_scaling_all_weights_scales_lengths(drawn: tuple[int, Any, Any], scale: float) -> None:
    """By powers of two, so that ties stay ties."""
    n, listed, _ = drawn
    plain = ModelGraph.from_scipy(graphs.csr(matrix_of(n, listed)))
    scaled = ModelGraph.from_scipy(graphs.csr(matrix_of(n, listed) * scale))
    with unchecked():  # types are checked elsewhere; here it would take most of the time
        for distance, factor in zip(DISTANCES, (1.0, scale, 1 / scale), strict=True):
            expected = distances(plain, distance=distance).scores * factor
            torch.testing.assert_close(distances(scaled, distance=distance).scores, expected, rtol=1e-10, atol=0.0)
            for measure in (closeness, harmonic):
                expected = measure(plain, distance=distance).scores / factor
                torch.testing.assert_close(measure(scaled, distance=distance).scores, expected, rtol=1e-10, atol=0.0)
            assert_equal(betweenness(scaled, weight=distance).scores, betweenness(plain, weight=distance).scores)


@settings(max_examples=20)
@given(edge_lists)
def test_drawn_graphs_equal_all_paths_listed(drawn: tuple[int, Any, Any]) -> None:
    n, listed, permutation = drawn
    reference = graphs.digraph(matrix_of(n, listed)[np.ix_(permutation, permutation)])
    graph = graph_of(reference)
    nodes, by_edge = oracle.edge_path_mass(reference, inputs(reference), outputs(reference))
    assert_equal(path_mass(graph).scores, torch.from_numpy(nodes))
    assert_equal(matrix(edge_path_mass(graph)), torch.from_numpy(by_edge))
    for distance in (None, "weight"):
        paths = oracle.shortest_paths(reference, distance)
        apart = oracle.distance_matrix(n, paths)
        nodes, by_edge = oracle.betweenness(n, paths)
        assert_equal(betweenness(graph, weight=distance).scores, torch.from_numpy(nodes))
        assert_equal(matrix(edge_betweenness(graph, weight=distance)), torch.from_numpy(by_edge))
        assert_equal(closeness(graph, distance=distance).scores, torch.from_numpy(oracle.closeness(apart)))
        assert_equal(harmonic(graph, distance=distance).scores, torch.from_numpy(oracle.harmonic(apart)))
    assert_equal(reaching(graph, 0.25).scores, torch.from_numpy(oracle.reaching(reference, 0.25, outputs(reference))))


@settings(max_examples=15)
@given(edge_lists)
def test_the_scores_of_edges_follow_a_relabelling(drawn: tuple[int, Any, Any]) -> None:
    n, listed, permutation = drawn
    plain = matrix_of(n, listed)
    relabelled = plain[np.ix_(permutation, permutation)]
    for measure in (edge_path_mass, edge_betweenness):
        before = matrix(measure(ModelGraph.from_scipy(graphs.csr(plain))))
        found = matrix(measure(ModelGraph.from_scipy(graphs.csr(relabelled))))
        assert_equal(found, before[list(permutation)][:, list(permutation)])
        reverse = matrix(measure(ModelGraph.from_scipy(graphs.csr(plain.T))))
        assert_equal(reverse, before.T)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "call",
    [
        path_mass,
        edge_path_mass,
        reaching,
        lambda graph: closeness(graph, distance="weight"),
        lambda graph: harmonic(graph, distance="weight"),
        lambda graph: betweenness(graph, weight="weight"),
        lambda graph: edge_betweenness(graph, weight="weight"),
    ],
)
def test_negative_weights_are_refused_where_they_have_no_meaning(call: Callable[[ModelGraph], Any]) -> None:
    reference = edges(3, (0, 1, 1.0), (1, 2, -1.0))
    with pytest.raises(ValueError, match="non-negative") as caught:
        call(graph_of(reference))
    assert "\n" not in str(caught.value)


def test_negative_weights_are_taken_where_they_are_not_used_or_only_their_size() -> None:
    reference, positive = edges(3, (0, 1, 1.0), (1, 2, -2.0)), edges(3, (0, 1, 1.0), (1, 2, 2.0))
    for measure in (closeness, harmonic):
        for distance in (None, "inverse"):
            expected = measure(graph_of(positive), distance=distance).scores
            assert_equal(measure(graph_of(reference), distance=distance).scores, expected)
    for weight in (None, "inverse"):
        expected = betweenness(graph_of(positive), weight=weight).scores
        assert_equal(betweenness(graph_of(reference), weight=weight).scores, expected)
    assert_equal(path_mass(graph_of(reference), weight=None).scores, vector([1, 1, 1]))


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        (distances, {"distance": "hops"}, "distance must .*'hops'"),
        (closeness, {"distance": "hops"}, "distance must .*'hops'"),
        (harmonic, {"distance": "hops"}, "distance must .*'hops'"),
        (betweenness, {"weight": "hops"}, "weight must .*'hops'"),
        (edge_betweenness, {"weight": "hops"}, "weight must .*'hops'"),
        (path_mass, {"weight": "hops"}, "weight must .*'hops'"),
        (edge_path_mass, {"weight": "hops"}, "weight must .*'hops'"),
        (closeness, {"direction": "up"}, "direction must .*'up'"),
        (harmonic, {"direction": "up"}, "direction must .*'up'"),
        (distances, {"direction": "up"}, "direction must .*'up'"),
        (path_mass, {"sources": "somewhere"}, "sources .*'somewhere'"),
        (path_mass, {"targets": "somewhere"}, "targets .*'somewhere'"),
        (distances, {"sources": "somewhere"}, "sources .*'somewhere'"),
        (reaching, {"targets": "somewhere"}, "targets .*'somewhere'"),
        (path_mass, {"sources": at(77)}, "sources .*77"),
        (distances, {"sources": at(77)}, "sources .*77"),
        (reaching, {"targets": at(77)}, "targets .*77"),
        (path_mass, {"sources": {}}, "sources "),
        (distances, {"sources": {}}, "sources "),
        (reaching, {"targets": {}}, "targets "),
        (reaching, {"threshold": -0.1}, r"threshold must .*-0\.1"),
        (reaching, {"threshold": float("nan")}, "threshold must .*nan"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_name_and_value(
    measure: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    assert_refused(message, measure, graph_of(digraph("random")), **options)


@pytest.fixture(scope="module")
def large() -> ModelGraph:
    """600,000 nodes that lead to one other each."""
    half = 600_000
    nodes = np.arange(half)
    return ModelGraph.from_scipy(sparse.csr_array((np.ones(half), (nodes, nodes + half)), shape=(2 * half, 2 * half)))


@pytest.mark.parametrize("measure", [closeness, harmonic, betweenness, edge_betweenness])
def test_more_exact_work_than_anyone_waits_for_is_refused_with_the_remedy(
    measure: Callable[..., Any], large: ModelGraph
) -> None:
    """More than 10^13 steps exactly, some tens of millions for a sample."""
    with pytest.raises(ValueError, match="give k") as caught:
        measure(large)
    assert "\n" not in str(caught.value)
    assert measure(large, k=3).stderr is not None


def test_what_would_take_longer_than_a_quarter_of_an_hour_is_refused() -> None:
    """200,000 nodes and 100,000 edges. Measured: eleven minutes one way, twenty to eighty what is refused."""
    half = 100_000
    nodes = np.arange(half)
    matrix = sparse.csr_array((np.ones(half), (nodes, nodes + half)), shape=(2 * half, 2 * half))
    graph = ModelGraph.from_scipy(matrix)
    for measure in ("closeness", "harmonic centrality"):
        assert Sources.draw(graph, None, 0, Length(None), measure).exact
    for too_long in (
        lambda: closeness(graph, direction="both"),
        lambda: harmonic(graph, direction="both"),
        lambda: betweenness(graph),
        lambda: edge_betweenness(graph),
    ):
        with pytest.raises(ValueError, match="give k"):
            too_long()
    with pytest.raises(ValueError, match="choose fewer targets"):
        reaching(graph, targets="all")


@pytest.mark.parametrize(("every_edge", "work"), [(False, 5 * (8 * 5 + 5)), (True, 5 * (8 * 5 + 6))])
def test_edges_of_a_full_block_cost_nothing_where_hops_are_counted_by_node(
    every_edge: bool, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that lead to three: the block costs its five nodes, or its six edges."""
    weights = torch.ones(3, 2)
    graph = ModelGraph(NodeIndex((Span("node", 0, 2), Span("node", 1, 3))), (Block.full((0, 2), (2, 5), weights),))
    for passes in (1, 3):
        monkeypatch.setattr(sampling, "WORK", passes * work)
        assert Sources.draw(graph, None, 0, Length(None), "it", passes=passes, every_edge=every_edge).exact
        monkeypatch.setattr(sampling, "WORK", passes * work - 1)
        with pytest.raises(ValueError, match="give k"):
            Sources.draw(graph, None, 0, Length(None), "it", passes=passes, every_edge=every_edge)


def test_directions_are_those_of_the_edges() -> None:
    graph = graph_of(chain(1.0, 1.0))
    found = {direction: harmonic(graph, direction=direction).scores.tolist() for direction in DIRECTIONS}
    assert found == {"forward": [0, 1, 1.5], "backward": [1.5, 1, 0], "both": [0.75, 1, 0.75]}
    assert not np.array_equal(case("random"), case("random").T)

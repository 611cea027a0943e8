"""Distances, closeness, harmonic centrality: against networkx, igraph, all paths listed, and answers by hand."""

from itertools import product
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from graphprune.centrality import (
    closeness,
    distances,
    harmonic,
)
from graphprune.centrality.shortest_paths import Distance
from tests.centrality.cases import (
    DIRECTIONS,
    DTYPES,
    assert_equal,
    at,
    by_node,
    chain,
    digraph,
    edges,
    every_case,
    every_distance,
    graph_of,
    in_direction,
    listed,
    network,
    vector,
)
from tests.oracles import centrality as oracle

# ------------------------------------------------------------------------------------------------------- distances


@every_case
@every_distance
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_distances_from_chosen_sources_equal_all_paths_listed(name: str, distance: Any, direction: Any) -> None:
    reference = digraph(name)
    n = len(reference)
    sources = sorted({0, n // 2, n - 1})
    exact = oracle.distance_matrix(n, listed(name, distance, reverse=direction == "backward"))
    for dtype in DTYPES:
        graph = graph_of(reference, dtype)
        found = distances(graph, at(*sources), distance=distance, direction=direction)
        assert_equal(found.scores, torch.from_numpy(exact[sources].min(axis=0)))
        assert found.scores.dtype == graph.dtype
        assert (found.name, found.direction, found.residual) == ("distances", direction, 0.0)


@every_case
@every_distance
def test_distances_from_the_inputs_equal_networkx(name: str, distance: Any) -> None:
    """Inputs are the nodes that no edge reaches; an edge of weight zero is one."""
    reference = digraph(name)
    length = oracle.with_lengths(reference, distance)
    first = {node for node, degree in reference.in_degree if degree == 0}
    expected = nx.multi_source_dijkstra_path_length(length, first, weight=lambda _a, _b, d: d["length"])
    found = distances(graph_of(reference), distance=distance).scores
    assert_equal(found, vector([expected.get(node, np.inf) for node in reference]))


def test_distances_backward_lead_to_the_sources() -> None:
    """0 -> 1 -> 3 and 2 -> 3, to the outputs; no way leads to an input."""
    graph = graph_of(edges(4, (0, 1, 1.0), (1, 3, 1.0), (2, 3, 1.0)))
    assert distances(graph, "outputs", direction="backward").scores.tolist() == [2, 1, 1, 0]
    assert distances(graph, direction="backward").scores.tolist() == [0, np.inf, 0, np.inf]
    assert distances(graph, torch.tensor([0.0, 0.5, 2.0, 0.0])).scores.tolist() == [np.inf, 0, 0, 1]


def test_distances_may_be_negative() -> None:
    """Lengths 2, -5 and 1: the detour 0 -> 1 -> 2 is 3 shorter than nothing, the direct way is 1 long."""
    graph = graph_of(edges(4, (0, 1, 2.0), (1, 2, -5.0), (0, 2, 1.0)))
    assert_equal(distances(graph, at(0), distance="weight").scores, vector([0, 2, -3, np.inf]))
    assert_equal(distances(graph, at(0), distance="inverse").scores, vector([0, 1 / 2, 1 / 2 + 1 / 5, np.inf]))
    reference = digraph("random")
    for _, _, data in reference.edges(data=True):
        data["weight"] -= 1.0
    expected = nx.single_source_bellman_ford_path_length(reference, 0)
    found = distances(graph_of(reference), at(0), distance="weight").scores
    assert min(expected.values()) < 0
    assert_equal(found, vector([expected.get(node, np.inf) for node in reference]))


def test_an_edge_of_weight_zero_is_a_step_of_no_length_or_no_edge_by_the_option() -> None:
    """0 -> 1 weighs 0: one hop, a length of 0, and no edge where the length is 1 / weight."""
    graph = graph_of(chain(0.0, 2.0))
    expected: dict[Distance, list[float]] = {None: [0, 1, 2], "weight": [0, 0, 2], "inverse": [0, np.inf, np.inf]}
    for distance, answer in expected.items():
        assert distances(graph, at(0), distance=distance).scores.tolist() == answer


# ------------------------------------------------------------------------------------ closeness and harmonic centrality


@every_case
@every_distance
def test_closeness_equals_networkx(name: str, distance: Any) -> None:
    reference = digraph(name)
    length, attribute = oracle.with_lengths(reference, distance), None if distance is None else "length"
    for wf_improved in (True, False):
        there, back = (
            by_node(reference, nx.closeness_centrality(way, distance=attribute, wf_improved=wf_improved))
            for way in (length, length.reverse())
        )
        for direction, dtype in (*product(DIRECTIONS, (np.float64,)), (DIRECTIONS[2], np.float32)):
            graph = graph_of(reference, dtype)
            found = closeness(graph, distance=distance, wf_improved=wf_improved, direction=direction)
            assert_equal(found.scores, in_direction(direction, there, back))
            assert (found.name, found.direction, found.residual, found.stderr) == ("closeness", direction, 0.0, None)


@every_case
@every_distance
def test_harmonic_equals_networkx(name: str, distance: Any) -> None:
    """A node at distance zero (along edges of length zero) adds nothing."""
    reference = digraph(name)
    length, attribute = oracle.with_lengths(reference, distance), None if distance is None else "length"
    there, back = (
        by_node(reference, nx.harmonic_centrality(way, distance=attribute)) for way in (length, length.reverse())
    )
    for direction, dtype in (*product(DIRECTIONS, (np.float64,)), (DIRECTIONS[2], np.float32)):
        found = harmonic(graph_of(reference, dtype), distance=distance, direction=direction)
        assert_equal(found.scores, in_direction(direction, there, back))
        assert (found.name, found.direction, found.residual, found.stderr) == ("harmonic", direction, 0.0, None)


@pytest.mark.parametrize("name", ["random", "whole numbers", "a grid of equal steps"])
@pytest.mark.parametrize("distance", [None, "weight"])
def test_closeness_and_harmonic_equal_igraph(name: str, distance: Any) -> None:
    reference = digraph(name)
    theirs = network(reference)
    lengths = list(oracle.weights(reference).values()) if distance else None
    graph = graph_of(reference)
    near = [0.0 if value != value else value for value in theirs.closeness(mode="in", weights=lengths)]  # noqa: PLR0124
    assert_equal(closeness(graph, distance=distance, wf_improved=False).scores, vector(near))
    far = theirs.harmonic_centrality(mode="out", weights=lengths, normalized=False)
    assert_equal(harmonic(graph, distance=distance, direction="backward").scores, vector(far))


def test_closeness_and_harmonic_of_a_chain() -> None:
    """0 -> 1 -> 2 -> 3, hops. 2 is reached by 2 of 3 others from distances 1 + 2: (2 / 3) (2 / 3) and 1 + 1 / 2."""
    graph = graph_of(chain(5.0, 5.0, 5.0))
    assert_equal(closeness(graph).scores, vector([0, 1 / 3, 2 / 3 * 2 / 3, 3 / 6]))
    assert_equal(closeness(graph, wf_improved=False).scores, vector([0, 1, 2 / 3, 3 / 6]))
    assert_equal(harmonic(graph).scores, vector([0, 1, 3 / 2, 11 / 6]))
    assert_equal(harmonic(graph, direction="backward").scores, vector([11 / 6, 3 / 2, 1, 0]))
    assert_equal(harmonic(graph, distance="weight").scores, vector([0, 1, 3 / 2, 11 / 6]) / 5)
    assert_equal(harmonic(graph, distance="inverse").scores, vector([0, 1, 3 / 2, 11 / 6]) * 5)


def test_closeness_of_a_star() -> None:
    """Four nodes lead into the fifth: all others at distance 1."""
    graph = graph_of(edges(5, *((leaf, 4, 2.0) for leaf in range(4))))
    assert_equal(closeness(graph).scores, vector([0, 0, 0, 0, 1]))
    assert_equal(closeness(graph, direction="backward").scores, vector([1 / 4] * 4 + [0]))
    assert_equal(harmonic(graph).scores, vector([0, 0, 0, 0, 4]))

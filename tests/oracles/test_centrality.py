"""The oracles of the centralities against networkx and igraph, before they judge anything."""

from itertools import product
from typing import Any

import igraph
import networkx as nx
import numpy as np
import pytest

from tests.centrality.cases import CASES, by_node, digraph, every_case, vector
from tests.oracles import centrality as oracle

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
every_distance = pytest.mark.parametrize("distance", [None, "weight", "inverse"])


def by_length(distance: str | None) -> str | None:
    return None if distance is None else "length"


@pytest.mark.parametrize("name", sorted({*CASES} - {"one node"}))
def test_katz(name: str) -> None:
    """One equation for one unknown is too small for networkx."""
    graph = digraph(name)
    found = oracle.katz(graph, 0.1, 2.0)
    expected = by_node(graph, nx.katz_centrality_numpy(graph, 0.1, 2.0, normalized=False, weight="weight")).numpy()
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("name", ["random", "tied", "whole numbers", "a chain against the numbering"])
def test_authorities(name: str) -> None:
    graph = digraph(name)
    expected = by_node(graph, nx.hits(graph, tol=0)[1]).numpy()
    np.testing.assert_allclose(oracle.authorities(graph), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted({*CASES} - {"edges of weight zero"}))
def test_trophic_levels(name: str) -> None:
    """Where a node has edges but no weight, networkx mixes up its nodes."""
    graph = digraph(name)
    np.testing.assert_allclose(oracle.trophic_levels(graph), by_node(graph, nx.trophic_levels(graph)).numpy(), **EXACT)


@every_case
def test_effects_are_positive_along_paths_of_weight_only(name: str) -> None:
    graph = digraph(name)
    carrying = graph.edge_subgraph(edge for edge, w in oracle.weights(graph).items() if w)
    for normalized in (True, False):
        found = oracle.effects(graph, normalized=normalized) > 0
        for node in graph:
            expected = {node} | (nx.descendants(carrying, node) if node in carrying else set())
            assert set(np.flatnonzero(found[node]).tolist()) == expected


@every_case
def test_reaching(name: str) -> None:
    graph = digraph(name)
    graph.remove_edges_from([edge for edge, w in oracle.weights(graph).items() if w == 0])
    n = len(graph)
    expected = [(len(nx.descendants(graph, node)) + 1) / n for node in graph]
    np.testing.assert_allclose(oracle.reaching(graph, 0.0, graph), expected, **EXACT)


@every_case
@pytest.mark.parametrize("mode", ["in", "out", "all"])
def test_coreness(name: str, mode: str) -> None:
    graph = digraph(name)
    reference = igraph.Graph(n=len(graph), edges=list(graph.edges), directed=True)
    assert oracle.coreness(graph, mode).tolist() == reference.coreness(mode=mode)


def test_modularity() -> None:
    graph = digraph("whole numbers")
    labels = [node % 3 for node in graph]
    groups = [{node for node in graph if labels[node] == label} for label in range(3)]
    for resolution in (0.5, 1.0, 2.0):
        expected = nx.community.modularity(graph.to_undirected(), groups, resolution=resolution)
        np.testing.assert_allclose(oracle.modularity(graph, labels, resolution), expected, **EXACT)


def test_partitions_are_as_many_as_bell_counted() -> None:
    assert [sum(1 for _ in oracle.partitions(n)) for n in range(7)] == [1, 1, 2, 5, 15, 52, 203]


@every_case
def test_path_mass(name: str) -> None:
    graph = digraph(name)
    sources = [node for node, strength in graph.in_degree(weight="weight") if strength == 0]
    targets = [node for node, strength in graph.out_degree(weight="weight") if strength == 0]
    nodes, edges = np.zeros(len(graph)), np.zeros((len(graph), len(graph)))
    for source in sources:
        for path in nx.all_simple_edge_paths(graph, source, [t for t in targets if t != source]):
            weight = float(np.prod([graph.edges[edge]["weight"] for edge in path]))
            nodes[[source, *(b for _, b in path)]] += weight
            for edge in path:
                edges[edge] += weight
    total = nodes[sources].sum()
    found = oracle.edge_path_mass(graph, sources, targets)
    assert (total > 0) == (name not in {"no edges", "one node"})
    for mine, theirs in zip(found, (nodes, edges), strict=True):
        np.testing.assert_allclose(mine, theirs / total if total else theirs, **EXACT)


@every_case
@every_distance
def test_distances(name: str, distance: str | None) -> None:
    graph = digraph(name)
    length = oracle.with_lengths(graph, distance)
    expected = np.full((len(graph), len(graph)), np.inf)
    for source, found in nx.shortest_path_length(length, weight=by_length(distance)):
        for target, value in found.items():
            expected[source, target] = value
    found = oracle.distance_matrix(len(graph), oracle.shortest_paths(graph, distance))
    np.testing.assert_allclose(found, expected, **EXACT)


@every_case
@every_distance
def test_closeness_and_harmonic(name: str, distance: str | None) -> None:
    graph = digraph(name)
    length, attribute = oracle.with_lengths(graph, distance), by_length(distance)
    distances = oracle.distance_matrix(len(graph), oracle.shortest_paths(graph, distance))
    for wf_improved in (True, False):
        expected = nx.closeness_centrality(length, distance=attribute, wf_improved=wf_improved)
        found = oracle.closeness(distances, wf_improved=wf_improved)
        np.testing.assert_allclose(found, vector(expected).numpy(), **EXACT)
    harmonic = nx.harmonic_centrality(length, distance=attribute)
    np.testing.assert_allclose(oracle.harmonic(distances), by_node(graph, harmonic).numpy(), **EXACT)


@pytest.mark.parametrize(
    ("name", "distance"),
    sorted({*product(CASES, ("", "weight", "inverse"))} - {("edges of weight zero", "weight")}),
)
def test_betweenness(name: str, distance: str) -> None:
    """Positive lengths only: networkx asks for them."""
    graph = digraph(name)
    length, attribute = oracle.with_lengths(graph, distance or None), by_length(distance or None)
    listed = oracle.shortest_paths(graph, distance or None)
    for normalized in (True, False):
        for endpoints in (False, True):
            expected = nx.betweenness_centrality(length, normalized=normalized, weight=attribute, endpoints=endpoints)
            nodes, edges = oracle.betweenness(len(graph), listed, normalized=normalized, endpoints=endpoints)
            np.testing.assert_allclose(nodes, by_node(graph, expected).numpy(), **EXACT)
        by_edge = nx.edge_betweenness_centrality(length, normalized=normalized, weight=attribute)
        assert set(zip(*edges.nonzero(), strict=True)) == {edge for edge, value in by_edge.items() if value}
        for edge, value in by_edge.items():
            assert edges[edge] == pytest.approx(value, rel=1e-10)

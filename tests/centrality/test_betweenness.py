"""Betweenness of nodes and edges: against networkx, igraph, all shortest paths listed, and answers by hand."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse

from graphprune.centrality import (
    betweenness,
    edge_betweenness,
)
from graphprune.core.block import Block
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from tests.centrality.cases import (
    DIAMOND,
    DTYPES,
    assert_equal,
    by_node,
    chain,
    digraph,
    every_case,
    every_distance,
    graph_of,
    listed,
    matrix,
    network,
    vector,
)
from tests.oracles import centrality as oracle


@every_case
@every_distance
def test_betweenness_equals_all_shortest_paths_listed(name: str, distance: Any) -> None:
    """Listed with exact lengths: networkx may not have edges of length zero."""
    reference = digraph(name)
    n, paths = len(reference), listed(name, distance)
    for dtype in DTYPES:
        graph = graph_of(reference, dtype)
        for endpoints in (False, True):
            nodes, by_edge = oracle.betweenness(n, paths, endpoints=endpoints)
            found = betweenness(graph, weight=distance, endpoints=endpoints)
            assert_equal(found.scores, torch.from_numpy(nodes))
            assert (found.name, found.residual, found.stderr) == ("betweenness", 0.0, None)
        on_edges = edge_betweenness(graph, weight=distance)
        assert_equal(matrix(on_edges), torch.from_numpy(by_edge))
        assert on_edges.edges.n_edges == graph.n_edges
        assert on_edges.stderr is None


@pytest.mark.parametrize("name", ["random", "tied", "one node", "no edges"])
@every_distance
def test_betweenness_equals_networkx(name: str, distance: Any) -> None:
    """Pairs counted, not shares of them."""
    reference, graph = digraph(name), graph_of(digraph(name))
    length, attribute = oracle.with_lengths(reference, distance), None if distance is None else "length"
    for endpoints in (False, True):
        expected = nx.betweenness_centrality(length, normalized=False, weight=attribute, endpoints=endpoints)
        found = betweenness(graph, normalized=False, weight=distance, endpoints=endpoints).scores
        assert_equal(found, by_node(reference, expected))
    dense = torch.zeros(len(reference), len(reference), dtype=torch.float64)
    for edge, value in nx.edge_betweenness_centrality(length, normalized=False, weight=attribute).items():
        dense[edge] = value
    assert_equal(matrix(edge_betweenness(graph, normalized=False, weight=distance)), dense)


@pytest.mark.parametrize("name", ["random", "whole numbers", "a grid of equal steps"])
@pytest.mark.parametrize("distance", [None, "weight"])
def test_betweenness_equals_igraph(name: str, distance: Any) -> None:
    reference = digraph(name)
    theirs = network(reference)
    lengths = list(oracle.weights(reference).values()) if distance else None
    graph = graph_of(reference)
    nodes = theirs.betweenness(directed=True, weights=lengths)
    assert_equal(betweenness(graph, normalized=False, weight=distance).scores, vector(nodes))
    found = matrix(edge_betweenness(graph, normalized=False, weight=distance))
    on_edges = theirs.edge_betweenness(directed=True, weights=lengths)
    src, dst = zip(*reference.edges, strict=True)
    assert_equal(found[list(src), list(dst)], vector(on_edges))


def test_betweenness_of_a_diamond() -> None:
    """Two shortest paths of two hops lead from 0 to 3: half a pair for each node between, of 3 * 2 pairs.

    By length (weights 1 + 2 and 3 + 2) only the way through 1 is shortest.
    """
    graph = graph_of(DIAMOND)
    assert_equal(betweenness(graph, normalized=False).scores, vector([0, 1 / 2, 1 / 2, 0]))
    assert_equal(betweenness(graph).scores, vector([0, 1 / 12, 1 / 12, 0]))
    assert_equal(betweenness(graph, normalized=False, weight="weight").scores, vector([0, 1, 0, 0]))
    # strong edges are short: 1 + 1/2 through 1, 1/3 + 1/2 through 2
    assert_equal(betweenness(graph, normalized=False, weight="inverse").scores, vector([0, 0, 1, 0]))
    # with endpoints 0 and 3 are on the paths of their three pairs, 1 and 2 on their two and half of the longest
    assert_equal(betweenness(graph, normalized=False, endpoints=True).scores, vector([3, 5 / 2, 5 / 2, 3]))
    by_edge = matrix(edge_betweenness(graph, normalized=False))
    assert_equal(by_edge[[0, 0, 1, 2], [1, 2, 3, 3]], vector([3 / 2] * 4))


def test_betweenness_of_a_chain() -> None:
    """Node i of 5 lies between i earlier and 4 - i later nodes; edge i -> i + 1 carries (i + 1) (4 - i) pairs."""
    graph = graph_of(chain(3.0, 1.0, 4.0, 1.0))
    assert_equal(betweenness(graph, normalized=False).scores, vector([0, 3, 4, 3, 0]))
    by_edge = matrix(edge_betweenness(graph, normalized=False))
    assert_equal(by_edge[range(4), range(1, 5)], vector([4, 6, 6, 4]))


def deep_layers(n_layers: int = 400, width: int = 8) -> sparse.csr_array:
    """Full layers without the dense matrix: up to 8^398 shortest paths between two nodes, far beyond float64."""
    src, dst = np.meshgrid(np.arange(width), np.arange(width))
    shift = width * np.arange(n_layers - 1)[:, None]
    rows, columns = (shift + src.ravel()).ravel(), (shift + width + dst.ravel()).ravel()
    n = n_layers * width
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))


def test_betweenness_counts_more_paths_than_float64_can() -> None:
    """From one source in an earlier layer, each node of layer i has an eighth of the paths to 8 (399 - i) nodes.

    256 sampled sources stand for the 3199 others, for a node that is sampled itself 255 do. How many lie before a layer
    is a whole number, and the sampled nodes of a layer are what it rises by.
    """
    layer, ones = np.arange(400), torch.ones(8, 8, dtype=torch.float64)
    nodes = NodeIndex(tuple(Span("node", i, 8) for i in range(400)))
    graph = ModelGraph(nodes, tuple(Block.full((8 * i, 8 * i + 8), (8 * i + 8, 8 * i + 16), ones) for i in range(399)))
    found = betweenness(graph, 256, normalized=False).scores.view(400, 8).numpy()[:-1] / 3199
    shares = found / (399 - layer[:-1, None])
    before = np.round(np.median(shares, axis=1, keepdims=True) * 256)
    drawn = ~np.isclose(shares, before / 256, rtol=1e-11, atol=0)
    np.testing.assert_allclose(shares[drawn], np.broadcast_to(before / 255, shares.shape)[drawn], rtol=1e-11)
    start = int(np.flatnonzero(before)[0])  # drawn nodes before it have no share to tell them by
    assert start < 50, "sources that are 8^340 paths away from the end"
    np.testing.assert_array_equal(np.diff(before[start:, 0]), drawn[start:-1].sum(axis=1))
    assert 250 < before[-1, 0] <= 256


def test_edge_betweenness_counts_more_paths_than_float64_can() -> None:
    """From one source in an earlier layer, each edge of layer i has an eighth of the paths to each of 399 - i layers.

    Thirty sampled sources stand for 3200; how many of them lie before a layer is a whole number that rises to thirty.
    """
    found = edge_betweenness(ModelGraph.from_scipy(deep_layers()), 30, normalized=False).edges.to_scipy().tocoo()
    layers = found.coords[0] // 8
    before = found.data / (3200 / 30) / ((399 - layers) / 8)
    alike = [float(b[0]) for b in (before[layers == i] for i in range(399)) if np.ptp(b) < 1e-8]
    assert len(alike) >= 399 - 30, "all but the layers of the sources themselves"
    np.testing.assert_allclose(alike, np.round(alike), rtol=0, atol=1e-8)
    assert (np.diff(np.round(alike)) >= 0).all()
    assert round(alike[40]) > 0, "a source that is 8^350 paths away from the end"
    assert round(alike[-1]) >= 29

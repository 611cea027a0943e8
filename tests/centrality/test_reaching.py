"""Reaching centrality: against sums over all paths, networkx, and graphs whose answer is known by hand."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from graphprune.centrality import (
    reaching,
)
from graphprune.core.graph import ModelGraph
from tests.centrality.cases import (
    DIAMOND,
    assert_equal,
    at,
    digraph,
    edges,
    every_case,
    every_dtype,
    graph_of,
    layered,
    outputs,
    vector,
)
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs


@every_case
@every_dtype
@pytest.mark.parametrize("threshold", [0.0, 0.0517, 0.3137])
@pytest.mark.parametrize("normalized", [True, False])
def test_reaching_equals_the_sum_over_all_paths(name: str, dtype: Any, threshold: float, normalized: bool) -> None:
    reference = digraph(name)
    graph = graph_of(reference, dtype)
    everywhere = oracle.effects(reference, normalized=normalized)
    assert threshold == 0 or (np.abs(everywhere - threshold) > 1e-5).all(), "an effect lies on the edge of counting"
    for targets, nodes in (("outputs", outputs(reference)), ("all", list(reference))):
        expected = torch.from_numpy(oracle.reaching(reference, threshold, nodes, normalized=normalized))
        found = reaching(graph, threshold, targets, normalized=normalized)
        assert_equal(found.scores, expected)
        assert (found.name, found.direction) == ("reaching", "backward")


@every_case
def test_reaching_everything_equals_networkx(name: str) -> None:
    reference = digraph(name)
    reference.remove_edges_from([edge for edge, weight in oracle.weights(reference).items() if weight == 0])
    n = len(reference)
    expected = [
        nx.local_reaching_centrality(reference, node) * (n - 1) / n + 1 / n if reference.size() else 1 / n
        for node in reference
    ]
    assert_equal(reaching(graph_of(digraph(name)), 0.0, "all").scores, vector(expected))


def test_reaching_of_a_diamond() -> None:
    """3 receives 2 and 2, all of it from 0 in the end: its credit is 1/2 through 1, 1/2 through 2, 1 through 0."""
    graph = graph_of(DIAMOND)
    assert_equal(reaching(graph, 0.5).scores, vector([1, 1, 1, 1]))
    assert_equal(reaching(graph, 0.51).scores, vector([1, 0, 0, 1]))
    # products of weights: 1 * 2 + 3 * 2 from 0, 2 from 1 and 2, 1 from 3 itself
    assert_equal(reaching(graph, 2.0, normalized=False).scores, vector([1, 1, 1, 0]))
    assert_equal(reaching(graph, 8.0, normalized=False).scores, vector([1, 0, 0, 0]))


def test_reaching_two_outputs() -> None:
    """0 -> 1 (1), 0 -> 2 (1), 3 -> 2 (9): a tenth of 2 comes through 0, all of 1."""
    graph = graph_of(edges(4, (0, 1, 1.0), (0, 2, 1.0), (3, 2, 9.0)))
    assert_equal(reaching(graph, 0.0).scores, vector([1, 1 / 2, 1 / 2, 1 / 2]))
    assert_equal(reaching(graph, 0.2).scores, vector([1 / 2, 1 / 2, 1 / 2, 1 / 2]))
    assert_equal(reaching(graph, 0.95).scores, vector([1 / 2, 1 / 2, 1 / 2, 0]))
    assert_equal(reaching(graph, 0.2, at(2)).scores, vector([0, 0, 1, 1]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_is_reached_through_sixty_weak_layers_is_still_reached(dtype: Any) -> None:
    """Products of 1e-354 are above zero."""
    graph = ModelGraph.from_scipy(graphs.csr(layered(*[8] * 60, weight=1e-6), dtype))
    for normalized in (True, False):
        assert_equal(reaching(graph, 0.0, normalized=normalized).scores, vector([1.0] * 472 + [1 / 8] * 8))


def test_effects_beyond_the_largest_float_are_still_effects() -> None:
    """Twelve layers of eight, weights a million and some zeros: products up to 1e75, far beyond float32."""
    weights = layered(*[8] * 12, weight=1e6)
    src, dst = weights.nonzero()
    zero = np.arange(len(src)) % 7 == 0
    weights[src[zero], dst[zero]] = 0.0
    reference = graphs.digraph(weights)
    reference.add_weighted_edges_from((int(a), int(b), 0.0) for a, b in zip(src[zero], dst[zero], strict=True))
    expected = vector(oracle.reaching(reference, 2.0, outputs(reference), normalized=False))
    assert expected[:80].tolist() == [1.0] * 80
    for dtype in (np.float64, np.float32):
        assert_equal(reaching(graph_of(reference, dtype), 2.0, normalized=False).scores, expected)


def test_more_targets_than_fit_one_pass_are_all_counted() -> None:
    """600 outputs: every input leads to all, every output to itself."""
    graph = ModelGraph.from_scipy(graphs.csr(layered(2, 600)))
    assert_equal(reaching(graph, 0.0).scores, vector([1.0] * 2 + [1 / 600] * 600))

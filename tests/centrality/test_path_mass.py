"""Shares of the weight of all paths: against all paths listed, and graphs whose answer is known by hand."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from graphprune.centrality import (
    edge_path_mass,
    path_mass,
)
from graphprune.core.graph import ModelGraph
from tests.centrality.cases import (
    DIAMOND,
    EXACT,
    assert_equal,
    at,
    chain,
    digraph,
    edges,
    every_case,
    every_dtype,
    graph_of,
    inputs,
    layered,
    matrix,
    outputs,
    unweighted,
    vector,
)
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs


@every_case
@every_dtype
def test_path_mass_is_the_share_of_all_paths_listed(name: str, dtype: Any) -> None:
    reference = digraph(name)
    nodes, by_edge = oracle.edge_path_mass(reference, inputs(reference), outputs(reference))
    graph = graph_of(reference, dtype)
    assert_equal(path_mass(graph).scores, torch.from_numpy(nodes))
    found = edge_path_mass(graph)
    assert_equal(matrix(found), torch.from_numpy(by_edge))
    assert found.edges.n_edges == graph.n_edges
    assert found.edges.dtype == graph.dtype


@every_case
def test_path_mass_without_weights_is_the_share_of_the_number_of_paths(name: str) -> None:
    reference = unweighted(digraph(name))
    nodes, by_edge = oracle.edge_path_mass(reference, inputs(reference), outputs(reference))
    graph = graph_of(digraph(name))
    assert_equal(path_mass(graph, weight=None).scores, torch.from_numpy(nodes))
    assert_equal(matrix(edge_path_mass(graph, weight=None)), torch.from_numpy(by_edge))


@every_dtype
def test_path_mass_between_chosen_nodes_may_start_and_end_anywhere(dtype: Any) -> None:
    """Sources that lie behind sources, targets with more behind them, a node that is both."""
    reference = digraph("whole numbers")
    order = list(nx.topological_sort(reference))
    sources, targets = [order[0], order[3], order[8]], [order[8], order[10], order[15]]
    nodes, by_edge = oracle.edge_path_mass(reference, sources, targets)
    assert nodes[order[8]] > 0
    graph = graph_of(reference, dtype)
    assert_equal(path_mass(graph, at(*sources), at(*targets)).scores, torch.from_numpy(nodes))
    assert_equal(matrix(edge_path_mass(graph, at(*sources), at(*targets))), torch.from_numpy(by_edge))


def test_sources_and_targets_weigh_what_they_are_given() -> None:
    """0 -> 2 (1), 1 -> 2 (1), 2 -> 3 (1), 2 -> 4 (2): three parts start at 0, one at 1; 4 counts half.

    Paths weigh 3 * 1, 3 * 2 / 2, 1 * 1 and 1 * 2 / 2: together 8.
    """
    graph = graph_of(edges(5, (0, 2, 1.0), (1, 2, 1.0), (2, 3, 1.0), (2, 4, 2.0)))
    found = path_mass(graph, {0: 3.0, 1: 1.0}, torch.tensor([0.0, 0.0, 0.0, 1.0, 0.5]))
    assert_equal(found.scores, vector([3 / 4, 1 / 4, 1, 1 / 2, 1 / 2]))


def test_path_mass_of_a_diamond() -> None:
    """0 -> 1 (1), 0 -> 2 (3), 1 -> 3 (2), 2 -> 3 (2): paths weigh 1 * 2 and 3 * 2, together 8.

    A quarter goes through 1, three quarters through 2, everything through both ends.
    """
    graph = graph_of(DIAMOND)
    found = path_mass(graph)
    assert_equal(found.scores, vector([1, 1 / 4, 3 / 4, 1]))
    assert found.direction == "both"
    by_edge = matrix(edge_path_mass(graph))
    assert_equal(by_edge[[0, 0, 1, 2], [1, 2, 3, 3]], vector([1 / 4, 3 / 4, 1 / 4, 3 / 4]))


@pytest.mark.parametrize("weak", [1e-3, 1e-20])
def test_a_target_that_is_a_source_too_keeps_the_paths_that_arrive_however_weak(weak: float) -> None:
    """0 -> 1 -> 2, all of them sources and targets: paths 01 and 12 weigh ``weak`` and twice that, 012 both."""
    graph = graph_of(chain(weak, 2 * weak))
    total = 3 * weak + 2 * weak**2
    expected = vector([weak + 2 * weak**2, total, 2 * weak + 2 * weak**2]) / total
    assert_equal(path_mass(graph, "uniform", "uniform").scores, expected)
    by_edge = matrix(edge_path_mass(graph, "uniform", "uniform"))
    assert_equal(by_edge[[0, 1], [1, 2]], expected[[0, 2]])


def test_path_mass_of_full_layers_is_shared_alike() -> None:
    """2, 5 and 3 nodes, all edges alike: a path takes one node of each layer, any with equal chance."""
    found = path_mass(ModelGraph.from_scipy(graphs.csr(layered(2, 5, 3, weight=7.0)))).scores
    assert_equal(found, vector([1 / 2] * 2 + [1 / 5] * 5 + [1 / 3] * 3))


def test_path_mass_of_a_chain_is_one_and_of_isolated_nodes_zero() -> None:
    reference = chain(0.5, 3.0, 1e-3)
    reference.add_nodes_from([4, 5])
    assert_equal(path_mass(graph_of(reference)).scores, vector([1, 1, 1, 1, 0, 0]))


@pytest.mark.parametrize("name", ["random", "whole numbers", "a grid of equal steps", "edges of weight zero"])
def test_every_cut_between_inputs_and_outputs_is_crossed_by_all_the_mass(name: str) -> None:
    reference = digraph(name)
    first, last = inputs(reference), outputs(reference)
    order = [*first, *(v for v in nx.topological_sort(reference) if v not in {*first, *last}), *last]
    graph = graph_of(reference)
    mass, by_edge = path_mass(graph).scores, matrix(edge_path_mass(graph))
    for cut in range(len(set(first)), len(order) - len(set(last)) + 1):
        before = torch.zeros(len(reference), dtype=torch.bool)
        before[order[:cut]] = True
        torch.testing.assert_close(float(by_edge[before][:, ~before].sum()), 1.0, **EXACT)
    middle = [v for v in reference if v not in {*first, *last}]
    torch.testing.assert_close(by_edge.sum(dim=1)[middle + first], mass[middle + first], **EXACT)
    torch.testing.assert_close(by_edge.sum(dim=0)[middle + last], mass[middle + last], **EXACT)


@pytest.mark.parametrize("name", ["full layers", "a grid of equal steps"])
def test_the_mass_of_every_layer_is_one(name: str) -> None:
    reference = digraph(name)
    mass = path_mass(graph_of(reference)).scores
    for layer in nx.topological_generations(reference):
        torch.testing.assert_close(float(mass[layer].sum()), 1.0, **EXACT)


@every_dtype
@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_sixty_layers_neither_overflow_nor_vanish(dtype: Any, weight: float) -> None:
    """8^60 paths of weight 1e-354 or 1e354, far outside float64: still an eighth goes through each node."""
    graph = ModelGraph.from_scipy(graphs.csr(layered(*[8] * 60, weight=weight), dtype))
    found, by_edge = path_mass(graph), edge_path_mass(graph)
    assert_equal(found.scores, torch.full((480,), 1 / 8, dtype=torch.float64))
    assert_equal(torch.from_numpy(by_edge.edges.to_scipy().data), torch.full((59 * 64,), 1 / 64, dtype=torch.float64))
    assert found.residual < (1e-12 if dtype == np.float64 else 1e-4)


@every_dtype
def test_sixty_random_layers_equal_the_chain_of_their_rescaled_matrices(dtype: Any) -> None:
    """Weights from 1e-9 to 1e9. Scaling the vectors to sum 1 after each layer is exact: the scales cancel."""
    random = np.random.default_rng(0)
    blocks = [(10.0 ** random.uniform(-9, 9, (8, 8))).astype(dtype).astype(np.float64) for _ in range(59)]
    full = np.zeros((480, 480))
    for layer, block in enumerate(blocks):
        full[8 * layer : 8 * layer + 8, 8 * layer + 8 : 8 * layer + 16] = block
    into, out_of = [np.ones(8)], [np.ones(8)]
    for block in blocks:
        step = into[-1] @ block
        into.append(step / step.sum())
    for block in reversed(blocks):
        step = block @ out_of[-1]
        out_of.append(step / step.sum())
    products = [a * b for a, b in zip(into, reversed(out_of), strict=True)]
    expected = np.concatenate([product / product.sum() for product in products])
    found = path_mass(ModelGraph.from_scipy(graphs.csr(full, dtype))).scores
    # each layer rounds once to float32 (6e-8), forth and back
    assert_equal(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("dtype", "far"), [(np.float64, 280), (np.float64, 300), (np.float32, 30)])
def test_paths_whose_weights_are_as_far_apart_as_floats_go_count_by_their_product(dtype: Any, far: int) -> None:
    """A tiny weight times a huge one, and two of each, on the way to one target: both paths weigh 1.

    A third path of two tiny weights has no share; the fourth weighs 3.
    """
    tiny, huge = 10.0**-far, 10.0**far
    reference = edges(
        12,
        (0, 1, tiny), (1, 2, huge),
        (3, 4, huge), (4, 5, huge), (5, 6, tiny), (6, 2, tiny),
        (7, 8, tiny), (8, 9, tiny),
        (10, 11, 3.0),
    )  # fmt: skip
    found = path_mass(graph_of(reference, dtype)).scores
    assert_equal(found, vector([1, 1, 2, 1, 1, 1, 1, 0, 0, 0, 3, 3]) / 5)


def test_a_path_that_outweighs_all_others_leaves_them_their_tiny_shares() -> None:
    reference = edges(6, (0, 1, 1e150), (1, 2, 1e150), (3, 4, 1e10), (4, 5, 1.0))
    found = path_mass(graph_of(reference)).scores
    torch.testing.assert_close(found, vector([1, 1, 1, 1e-290, 1e-290, 1e-290]), rtol=1e-9, atol=0.0)


def test_path_mass_is_the_same_in_the_reversed_graph() -> None:
    reference = digraph("random")
    assert_equal(path_mass(graph_of(reference.reverse())).scores, path_mass(graph_of(reference)).scores)


def test_paths_of_one_length_may_be_scaled() -> None:
    reference = digraph("full layers")
    scaled = digraph("full layers")
    for _, _, data in scaled.edges(data=True):
        data["weight"] *= 1e-3
    assert_equal(path_mass(graph_of(scaled)).scores, path_mass(graph_of(reference)).scores)


def test_sources_and_targets_without_a_path_between_them_are_refused() -> None:
    graph = graph_of(edges(4, (0, 1, 1.0), (2, 3, 1.0)))
    for measure in (path_mass, edge_path_mass):
        with pytest.raises(ValueError, match="path") as caught:
            measure(graph, at(0), at(3))
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="path"):
            measure(graph, at(1), at(1))
        assert float(matrix(edge_path_mass(graph, at(2), at(3))).sum()) == pytest.approx(1)

"""Measures that look at paths: against networkx, igraph, all paths listed, and graphs whose answer is known by hand."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import igraph
import networkx as nx
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
)
from graphprune.centrality.result import Direction, EdgeCentralityResult
from graphprune.centrality.shortest_paths import Distance
from graphprune.core.block import Block
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from tests.centrality.cases import (
    DTYPES,
    EXACT,
    assert_equal,
    by_node,
    case,
    chain,
    digraph,
    edge_lists,
    edges,
    every_case,
    every_dtype,
    graph_of,
    in_direction,
    layered,
    matrix_of,
    vector,
)
from tests.oracles import centrality as oracle
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

DISTANCES: tuple[Distance, ...] = (None, "weight", "inverse")
WAYS: tuple[Direction, ...] = ("forward", "backward", "both")
every_distance = pytest.mark.parametrize("distance", DISTANCES)
DIAMOND = edges(4, (0, 1, 1.0), (0, 2, 3.0), (1, 3, 2.0), (2, 3, 2.0))


def matrix(result: EdgeCentralityResult) -> torch.Tensor:
    """The scores of edges as a dense matrix ``[src, dst]``."""
    return torch.from_numpy(result.edges.to_scipy().toarray())


def error_matrix(result: EdgeCentralityResult) -> torch.Tensor:
    """Their standard errors, likewise."""
    assert result.stderr is not None
    assert result.stderr.n_edges == result.edges.n_edges
    return torch.from_numpy(result.stderr.to_scipy().toarray())


def at(*nodes: int) -> dict[int, float]:
    """A choice of nodes, all alike."""
    return dict.fromkeys(nodes, 1.0)


def inputs(reference: "nx.DiGraph[Any]") -> list[int]:
    return [node for node, strength in reference.in_degree(weight="weight") if strength == 0]


def outputs(reference: "nx.DiGraph[Any]") -> list[int]:
    return [node for node, strength in reference.out_degree(weight="weight") if strength == 0]


@cache
def listed(name: str, distance: str | None, *, reverse: bool = False) -> oracle.Listed:
    """All shortest paths of a case."""
    return oracle.shortest_paths(digraph(name).reverse() if reverse else digraph(name), distance)


# ---------------------------------------------------------------------------------------------- shares of path weight


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
    reference = digraph(name)
    for _, _, data in reference.edges(data=True):
        data["weight"] = 1.0
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
        for direction, dtype in (*product(WAYS, (np.float64,)), (WAYS[2], np.float32)):
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
    for direction, dtype in (*product(WAYS, (np.float64,)), (WAYS[2], np.float32)):
        found = harmonic(graph_of(reference, dtype), distance=distance, direction=direction)
        assert_equal(found.scores, in_direction(direction, there, back))
        assert (found.name, found.direction, found.residual, found.stderr) == ("harmonic", direction, 0.0, None)


@pytest.mark.parametrize("name", ["random", "whole numbers", "a grid of equal steps"])
@pytest.mark.parametrize("distance", [None, "weight"])
def test_closeness_and_harmonic_equal_igraph(name: str, distance: Any) -> None:
    reference = digraph(name)
    network = igraph.Graph(n=len(reference), edges=list(reference.edges), directed=True)
    lengths = list(oracle.weights(reference).values()) if distance else None
    graph = graph_of(reference)
    near = [0.0 if value != value else value for value in network.closeness(mode="in", weights=lengths)]  # noqa: PLR0124
    assert_equal(closeness(graph, distance=distance, wf_improved=False).scores, vector(near))
    far = network.harmonic_centrality(mode="out", weights=lengths, normalized=False)
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


# ------------------------------------------------------------------------------------------------------ betweenness


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
    network = igraph.Graph(n=len(reference), edges=list(reference.edges), directed=True)
    lengths = list(oracle.weights(reference).values()) if distance else None
    graph = graph_of(reference)
    nodes = network.betweenness(directed=True, weights=lengths)
    assert_equal(betweenness(graph, normalized=False, weight=distance).scores, vector(nodes))
    found = matrix(edge_betweenness(graph, normalized=False, weight=distance))
    on_edges = network.edge_betweenness(directed=True, weights=lengths)
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


# ---------------------------------------------------------------------------------------------------------- samples

SAMPLED = (betweenness, closeness, harmonic)
every_sampled = pytest.mark.parametrize("measure", SAMPLED, ids=lambda measure: str(measure.__name__))


@cache
def sampled(measure: Callable[..., Any], k: int, n_seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and standard errors (n_seeds, n_nodes) of samples of k of 60 sources."""
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(60, 0.08, seed=6)))
    with unchecked():  # types are checked elsewhere; here it would take most of the time
        results = [measure(graph, k=k, seed=seed) for seed in range(n_seeds)]
    return torch.stack([r.scores for r in results]), torch.stack([r.stderr for r in results])


def exact(measure: Callable[..., Any]) -> torch.Tensor:
    scores: torch.Tensor = measure(ModelGraph.from_scipy(graphs.csr(graphs.random_dag(60, 0.08, seed=6)))).scores
    return scores


@every_sampled
@every_case
def test_all_sources_sampled_is_the_exact_answer(measure: Callable[..., Any], name: str) -> None:
    graph = graph_of(digraph(name))
    found = measure(graph, k=graph.n_nodes, seed=3)
    assert_equal(found.scores, measure(graph).scores)
    assert_equal(found.stderr, torch.zeros(graph.n_nodes))


@every_sampled
def test_a_sample_is_that_of_its_seed_and_says_how_sure_it_is(measure: Callable[..., Any]) -> None:
    graph = graph_of(digraph("random"))
    first, again, other = (measure(graph, k=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.scores, again.scores)
    assert torch.equal(first.stderr, again.stderr)
    assert not torch.equal(first.scores, other.scores)
    assert first.stderr.shape == first.scores.shape
    assert bool((first.stderr >= 0).all())
    assert bool((first.stderr > 0).any())


@every_sampled
def test_samples_are_right_on_average(measure: Callable[..., Any]) -> None:
    scores, _ = sampled(measure, 30, 50)
    error = (scores.mean(dim=0) - exact(measure)).abs()
    assert int((scores.std(dim=0) > 0).sum()) > 30
    assert bool((error <= 4 * scores.std(dim=0) / 50**0.5 + 1e-12).all())


@every_sampled
def test_the_stated_standard_error_is_that_of_many_samples(measure: Callable[..., Any]) -> None:
    scores, stderr = sampled(measure, 30, 50)
    spread = scores.std(dim=0)
    ratio = (stderr.square().mean(dim=0).sqrt() / spread)[spread > 0]
    assert 0.9 < float(ratio.median()) < 1.1


@every_sampled
def test_three_stated_standard_errors_cover(measure: Callable[..., Any]) -> None:
    """And one doesn't: it is not just wide."""
    scores, stderr = sampled(measure, 30, 50)
    error, known = (scores - exact(measure)).abs(), stderr > 0
    # a few sources hold most of a node's betweenness: a sample without them can't know. Measured: 0.947, 0.980, 0.964
    least = 0.94 if measure is betweenness else 0.95
    assert float((error <= 3 * stderr)[known].double().mean()) > least
    assert 0.6 < float((error <= stderr)[known].double().mean()) < 0.75


@every_sampled
def test_larger_samples_err_less(measure: Callable[..., Any]) -> None:
    errors = [(sampled(measure, k, 30)[0] - exact(measure)).square().mean() for k in (8, 50)]
    assert errors[0] > 10 * errors[1] > 0


def test_sampled_edge_betweenness_has_a_standard_error_on_every_edge() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(60, 0.08, seed=6)))
    whole = matrix(edge_betweenness(graph))
    results = [edge_betweenness(graph, 30, seed=seed) for seed in range(30)]
    scores = torch.stack([matrix(result) for result in results])
    stderr = torch.stack([error_matrix(result) for result in results])
    known = stderr > 0
    # skewed as that of nodes; measured: 0.947
    assert float(((scores - whole).abs() <= 3 * stderr)[known].double().mean()) > 0.94
    everything = edge_betweenness(graph, graph.n_nodes)
    assert_equal(matrix(everything), whole)
    assert_equal(error_matrix(everything), torch.zeros(60, 60))


@pytest.mark.parametrize(
    "call",
    [
        lambda graph, **options: betweenness(graph, endpoints=True, **options),
        lambda graph, **options: betweenness(graph, normalized=False, weight="weight", **options),
        lambda graph, **options: harmonic(graph, distance="weight", **options),
        lambda graph, **options: harmonic(graph, direction="both", **options),
        edge_betweenness,
    ],
)
def test_the_mean_of_all_samples_is_exact_and_so_is_their_variance(call: Callable[..., Any]) -> None:
    """Three of five nodes can be drawn in ten ways; with enough seeds each is met, and told by its scores."""
    graph = graph_of(chain(1.0, 3.0, 2.0, 5.0))

    samples = {}
    for seed in range(60):
        with unchecked():
            result = call(graph, k=3, seed=seed)
        on_edges = isinstance(result, EdgeCentralityResult)
        scores = matrix(result).flatten() if on_edges else result.scores
        stderr = error_matrix(result).flatten() if on_edges else result.stderr
        samples[tuple(scores.round(decimals=9).tolist())] = (scores, stderr)
    assert len(samples) == 10
    scores, stderr = (torch.stack(list(part)) for part in zip(*samples.values(), strict=True))
    exact = call(graph)
    assert_equal(scores.mean(dim=0), matrix(exact).flatten() if call is edge_betweenness else exact.scores)
    assert_equal(stderr.square().mean(dim=0), scores.var(dim=0, correction=0))
    assert bool(stderr.any())


@pytest.mark.parametrize("measure", [*SAMPLED, edge_betweenness])
@pytest.mark.parametrize("k", [-1, 0, 2, 41])
def test_a_sample_of_too_few_or_too_many_sources_is_refused(measure: Any, k: int) -> None:
    """Two leave a node that is one of them with one: nothing to tell an error by."""
    with pytest.raises(ValueError, match=rf"^k.* 3 and the 40 nodes, not {k}$") as caught:
        measure(graph_of(digraph("random")), k=k)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- reaching


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
    with unchecked(), pytest.raises(ValueError, match=message) as caught:
        measure(graph_of(digraph("random")), **options)
    assert "\n" not in str(caught.value)


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
    """2 * 10^12 steps exactly, a few million for a sample."""
    with pytest.raises(ValueError, match="give k") as caught:
        measure(large)
    assert "\n" not in str(caught.value)
    assert measure(large, k=3).stderr is not None


def test_directions_are_those_of_the_edges() -> None:
    graph = graph_of(chain(1.0, 1.0))
    found = {direction: harmonic(graph, direction=direction).scores.tolist() for direction in WAYS}
    assert found == {"forward": [0, 1, 1.5], "backward": [1.5, 1, 0], "both": [0.75, 1, 0.75]}
    assert not np.array_equal(case("random"), case("random").T)

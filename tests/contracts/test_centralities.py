"""What holds for every entry of CENTRALITIES, on graphs from outside and on a model's."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from graphprune import centrality as package
from graphprune.centrality import CENTRALITIES
from graphprune.centrality.result import CentralityResult
from graphprune.core.block import Block
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import load_graph, save_graph
from graphprune.core.mask import Mask
from graphprune.core.nodes import NodeIndex
from graphprune.extraction.export import export
from tests.centrality.cases import (
    DIRECTIONS,
    EXACT,
    SINGLE,
    case,
    chain,
    digraph,
    edge_lists,
    edges,
    every_dtype,
    graph_of,
    matrix_of,
)
from tests.families import decoder
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

Options = dict[str, Any]
DEVICES = ["cpu", *([str(torch.accelerator.current_accelerator())] if torch.accelerator.is_available() else [])]
every_name = pytest.mark.parametrize("name", CENTRALITIES)
AWKWARD = ("random", "edges of weight zero", "two sources, two sinks", "one node")
every_shape = pytest.mark.parametrize("shape", AWKWARD)
every_device = pytest.mark.parametrize("device", DEVICES)

OPTIONS: dict[str, tuple[Options, ...]] = {  # beside the defaults: every option that isn't a direction
    "in_degree": ({"normalized": True},),
    "out_degree": ({"normalized": True},),
    "in_strength": (),
    "out_strength": (),
    "pagerank": (
        {"alpha": 0.3, "personalization": "inputs", "dangling": "outputs"},
        {"personalization": "outputs"},
        {"weight": None},
    ),
    "katz": ({"alpha": 0.7, "beta": 2.0, "normalized": False}, {"weight": None}),
    "hits": ({"normalized": False}, {"weight": None}),
    "path_mass": ({"weight": None},),
    "closeness": ({"distance": "weight", "wf_improved": False}, {"distance": "inverse"}),
    "harmonic": ({"distance": "weight"}, {"distance": "inverse"}),
    "betweenness": ({"weight": "weight", "endpoints": True}, {"weight": "inverse", "normalized": False}),
    "reaching": ({"threshold": 0.0, "targets": "all"}, {"threshold": 5.0, "normalized": False}),
    "trophic_levels": ({"weight": None},),
    "coreness": (),
}
DIRECTED = {name: value for name, value in CENTRALITIES.items() if "direction" in inspect.signature(value).parameters}
# what the same measure is of the reversed graph, where it has no direction of its own
MIRRORED = {
    "in_degree": "out_degree",
    "out_degree": "in_degree",
    "in_strength": "out_strength",
    "out_strength": "in_strength",
    "path_mass": "path_mass",
    "betweenness": "betweenness",
}
SIGNLESS = {"pagerank", "hits", "path_mass", "reaching", "trophic_levels"}  # a negative share means nothing


def settings_of(name: str) -> list[Options]:
    """The defaults, every direction, and what OPTIONS says."""
    ways = [{"direction": d} for d in DIRECTIONS if (name, d) != ("hits", "both")] if name in DIRECTED else []
    return [{}, *ways, *OPTIONS[name]]


def rebuilt(reference: "nx.DiGraph[Any]", keep: torch.Tensor, dtype: Any = np.float64) -> ModelGraph:
    """The subgraph of the nodes kept, numbered anew."""
    nodes = [node for node, stays in zip(reference, keep.tolist(), strict=True) if stays]
    number = {node: i for i, node in enumerate(nodes)}
    left = [(number[a], number[b], w) for a, b, w in reference.edges(data="weight") if {a, b} <= number.keys()]
    return graph_of(edges(len(nodes), *left), dtype)


def close(found: torch.Tensor, expected: torch.Tensor, options: Options) -> None:
    """Equal up to the rounding of the type that was found (a graph of no nodes is float64, whatever it was before)."""
    tolerance = EXACT if found.dtype == torch.float64 else SINGLE
    torch.testing.assert_close(found, expected.to(found.dtype), **tolerance, msg=lambda text: f"{options}: {text}")


def is_small(found: CentralityResult) -> bool:
    """Whether the residual is no more than the rounding of a few hundred edges; it grows with the scores themselves."""
    size = max(1.0, float(found.scores.abs().sum()))
    return 0 <= found.residual / size < (1e-14 if found.scores.dtype == torch.float64 else 1e-6)


def scores(name: str, graph: ModelGraph, options: Options) -> torch.Tensor:
    """For comparisons: types are checked where results are looked at, here that would take most of the time."""
    with unchecked():
        found: torch.Tensor = CENTRALITIES[name](graph, **options).scores
    return found


@pytest.fixture(scope="module")
def model_graph() -> ModelGraph:
    return export(decoder("llama"))


@pytest.fixture(scope="module")
def folder(model_graph: ModelGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same graph on the disk."""
    path = tmp_path_factory.mktemp("graph")
    save_graph(model_graph, path)
    return path


def test_the_table_and_the_lists_of_this_file_name_the_same() -> None:
    assert OPTIONS.keys() == CENTRALITIES.keys()
    assert DIRECTED.keys() | MIRRORED.keys() | {"reaching"} == CENTRALITIES.keys()
    assert not DIRECTED.keys() & MIRRORED.keys()


@every_name
def test_is_exported_by_its_name(name: str) -> None:
    assert getattr(package, name) is CENTRALITIES[name]
    assert CENTRALITIES[name].__name__ == name
    assert CENTRALITIES[name].__doc__


# --------------------------------------------------------------------------------------------------------- the result


@every_name
@every_device
@every_dtype
def test_gives_every_node_a_finite_score_of_the_graphs_type(name: str, device: str, dtype: Any) -> None:
    graph = graph_of(digraph("random"), dtype)
    for options in settings_of(name):
        found = CENTRALITIES[name](graph.to(device), **options)
        assert isinstance(found, CentralityResult)
        assert found.scores.shape == (40,)
        assert found.scores.dtype == graph.dtype
        assert found.scores.device.type == torch.device(device).type
        assert bool(torch.isfinite(found.scores).all())
        assert found.name == name
        assert found.direction in DIRECTIONS
        assert found.direction == options.get("direction", found.direction)
        assert found.normalisation
        assert found.solver
        assert found.aggregate in {"sum", "mean"}
        assert found.stderr is None
        assert isinstance(found.residual, float)
        assert is_small(found), (options, found.residual)
        if device != "cpu":
            close(found.scores.cpu(), scores(name, graph, options), options)


@every_name
def test_every_option_makes_a_difference(name: str) -> None:
    signature = inspect.signature(CENTRALITIES[name]).parameters
    graph = graph_of(digraph("random"))
    for options in settings_of(name):
        for option, value in options.items():
            if value != signature[option].default:
                rest = {key: other for key, other in options.items() if key != option}
                assert not torch.equal(scores(name, graph, options), scores(name, graph, rest)), option


@every_name
def test_tells_nodes_apart(name: str) -> None:
    assert len(set(scores(name, graph_of(digraph("random")), {}).tolist())) > 1


@every_name
def test_float32_agrees_with_float64(name: str) -> None:
    single, double = graph_of(digraph("whole numbers"), np.float32), graph_of(digraph("whole numbers"))
    for options in settings_of(name):
        close(scores(name, single, options), scores(name, double, options), options)


@every_name
@every_shape
def test_is_the_same_when_asked_again_and_leaves_the_graph_as_it_is(name: str, shape: str) -> None:
    graph = graph_of(digraph(shape))
    blocks = [block.load() for block in graph.blocks]
    before = [(block.values.clone(), block.crow.clone(), block.col.clone()) for block in blocks]
    for options in settings_of(name):
        first = scores(name, graph, options)
        kept = first.clone()
        assert torch.equal(scores(name, graph, options), kept), options
        assert torch.equal(first, kept), options
    for block, parts in zip(blocks, before, strict=True):
        assert all(
            torch.equal(now, then) for now, then in zip((block.values, block.crow, block.col), parts, strict=True)
        )


# -------------------------------------------------------------------------------------------------------- small graphs


@every_name
@every_dtype
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_graphs_without_edges_have_scores_too(name: str, dtype: Any, n: int) -> None:
    for graph in (
        ModelGraph.from_scipy(sparse.csr_array((n, n), dtype=dtype)),
        ModelGraph.from_networkx(nx.empty_graph(n, nx.DiGraph)),
        ModelGraph(NodeIndex(()), ()),
    ):
        for options in settings_of(name):
            found = CENTRALITIES[name](graph, **options)
            assert found.scores.shape == (graph.n_nodes,)
            assert found.scores.dtype == graph.dtype
            assert bool(torch.isfinite(found.scores).all())
            assert len(set(found.scores.tolist())) <= 1
            assert found.residual == pytest.approx(0, abs=1e-6)


@every_name
def test_two_nodes_and_an_edge_have_scores_too(name: str) -> None:
    for weight in (2.0, 0.0):
        graph = graph_of(edges(2, (1, 0, weight)))
        for options in settings_of(name):
            found = scores(name, graph, options)
            assert found.shape == (2,)
            assert bool(torch.isfinite(found).all()), options


@every_name
def test_takes_a_networkx_graph_with_labels_of_its_own(name: str) -> None:
    reference = nx.relabel_nodes(digraph("sparse, with isolated nodes"), lambda node: f"the node {node}")
    shuffled: nx.DiGraph[Any] = nx.DiGraph()
    order = np.random.default_rng(2).permutation(40).tolist()
    shuffled.add_nodes_from(f"the node {node}" for node in order)
    shuffled.add_edges_from(reference.edges(data=True))
    labelled, plain = ModelGraph.from_networkx(shuffled), graph_of(digraph("sparse, with isolated nodes"))
    for options in settings_of(name):
        close(scores(name, labelled, options), scores(name, plain, options)[order], options)


# ----------------------------------------------------------------------------------------------------------- symmetries


@every_name
@settings(max_examples=10)
@given(edge_lists)
def test_relabelling_the_nodes_relabels_the_scores(name: str, drawn: tuple[int, Any, list[int]]) -> None:
    n, listed, permutation = drawn
    matrix = matrix_of(n, listed)
    relabelled = ModelGraph.from_scipy(graphs.csr(matrix[np.ix_(permutation, permutation)]))
    plain = ModelGraph.from_scipy(graphs.csr(matrix))
    for options in settings_of(name):
        close(scores(name, relabelled, options), scores(name, plain, options)[list(permutation)], options)


@every_name
@settings(max_examples=10)
@given(edge_lists)
def test_reversing_the_graph_swaps_the_directions(name: str, drawn: tuple[int, Any, list[int]]) -> None:
    n, listed, permutation = drawn
    matrix = matrix_of(n, listed)[np.ix_(permutation, permutation)]
    graph, other = ModelGraph.from_scipy(graphs.csr(matrix)), ModelGraph.from_scipy(graphs.csr(matrix.T))
    if name in DIRECTED:
        there, back = ({"direction": one} for one in ("forward", "backward"))
        close(scores(name, graph, back), scores(name, other, there), back)
        if name != "hits":
            both = {"direction": "both"}
            close(scores(name, graph, both), scores(name, other, both), both)
            if name != "coreness":  # the core both ways is its own: no mean
                mean = (scores(name, graph, there) + scores(name, graph, back)) / 2
                close(scores(name, graph, both), mean, both)
    elif name in MIRRORED:
        close(scores(name, graph, {}), scores(MIRRORED[name], other, {}), {})
    else:  # reaching always goes against the edges: the outputs of the one are the inputs of the other
        ends = {"targets": torch.from_numpy((matrix.sum(axis=0) == 0).astype(np.float64))}
        close(scores(name, other, ends), scores(name, other, {}), ends)


@every_name
@settings(max_examples=10)
@given(edge_lists, st.sampled_from([2.0**-30, 2.0**-3, 2.0**3, 2.0**30]))
def test_a_factor_on_all_weights_changes_what_it_should(
    name: str, drawn: tuple[int, Any, list[int]], factor: float
) -> None:
    """Strengths follow it, Katz where alpha makes up for it; shares, levels, hops and counts don't change.

    By powers of two, so that ties stay ties. The measures' own tests say what happens to lengths. Paths of different
    lengths gain differently, so path mass keeps where it counts paths.
    """
    n, listed, _ = drawn
    matrix = matrix_of(n, listed)
    graph, scaled = ModelGraph.from_scipy(graphs.csr(matrix)), ModelGraph.from_scipy(graphs.csr(matrix * factor))
    gain = factor if name in {"in_strength", "out_strength"} else 1.0
    before: Options = {"path_mass": {"weight": None}}.get(name, {})
    after: Options = {"katz": {"alpha": 0.1 / factor}}.get(name, before)
    expected = scores(name, graph, before) * gain
    torch.testing.assert_close(scores(name, scaled, after), expected, rtol=1e-10, atol=1e-14 * gain)


# ------------------------------------------------------------------------------------------------------- masked graphs


@every_name
@pytest.mark.parametrize(("shape", "dtype"), [*((shape, np.float64) for shape in AWKWARD), ("random", np.float32)])
def test_a_masked_graph_has_the_scores_of_what_is_left(name: str, shape: str, dtype: Any) -> None:
    reference = digraph(shape)
    keep = torch.rand(len(reference), generator=torch.Generator().manual_seed(1)) < 0.7
    left, graph = rebuilt(reference, keep, dtype), graph_of(reference, dtype).masked(keep)
    for options in settings_of(name):
        found = CENTRALITIES[name](graph, **options)
        assert found.scores.dtype == graph.dtype
        assert not found.scores[~keep].any(), options
        close(found.scores[keep], scores(name, left, options), options)
        assert is_small(found), (options, found.residual)


@every_name
@every_dtype
def test_where_nothing_is_left_all_scores_are_zero(name: str, dtype: Any) -> None:
    graph = graph_of(digraph("random"), dtype).masked(torch.zeros(40) > 0)
    for options in settings_of(name):
        found = CENTRALITIES[name](graph, **options)
        assert torch.equal(found.scores, torch.zeros(40, dtype=graph.dtype)), options
        assert found.residual == 0, options


@every_name
def test_masks_add_up_and_the_graph_stays_whole(name: str) -> None:
    graph = graph_of(digraph("random"))
    first, second = (torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.7 for seed in (1, 2))
    for options in ({}, *OPTIONS[name]):
        before = scores(name, graph, options)
        twice = scores(name, graph.masked(first).masked(second), options)
        close(twice, scores(name, graph.masked(first & second), options), options)
        close(scores(name, graph.masked(torch.ones(40) > 0), options), before, options)
        assert torch.equal(scores(name, graph, options), before), options


def llama_mask() -> tuple[Mask, Callable[[str], bool]]:
    """A legal mask of the tiny model, and whether a channel of its graph stays, by its name."""
    model = decoder("llama")
    keep = {name: value.clone() for name, value in Mask.full(model.units).keep.items()}
    keep["head.0"][[2, 3]] = False
    keep["kv_head.0"][1] = False
    keep["head.1"][[0, 2]] = False
    keep["neuron.0"][::3] = False
    keep["neuron.1"][5] = False
    mask = Mask(keep)
    mask.check_legal(model.units)

    def stays(node: str) -> bool:
        kind, layer, position = node.split(".")
        unit = {"gate": "neuron", "up": "neuron", "pattern": "head", "query": "head", "attn": "head",
                "key": "kv_head", "value": "kv_head"}.get(kind, kind)  # fmt: skip
        width = 8 if kind in {"query", "attn", "key", "value"} else 1
        return unit == "resid" or bool(keep[f"{unit}.{layer}"][int(position) // width])

    return mask, stays


@every_name
def test_a_mask_of_units_has_the_scores_of_the_graph_without_their_channels(name: str, model_graph: ModelGraph) -> None:
    mask, stays = llama_mask()
    keep = torch.tensor([stays(node) for node in model_graph.to_networkx()])
    assert 0 < int((~keep).sum()) < len(keep) // 2
    graph, by_node = model_graph.masked(mask), model_graph.masked(keep)
    left = ModelGraph.from_scipy(model_graph.to_scipy()[keep.numpy()][:, keep.numpy()])
    for options in ({}, *OPTIONS[name]):
        found = CENTRALITIES[name](graph, **options)
        assert not found.scores[~keep].any(), options
        close(found.scores, scores(name, by_node, options), options)
        if name != "coreness":  # that is of units, which a graph from outside doesn't know
            close(found.scores[keep], scores(name, left, options), options)


@pytest.mark.parametrize("mask", [torch.ones(7) > 0, torch.ones(40), torch.ones(40, 1) > 0])
def test_a_mask_that_does_not_fit_is_refused(mask: torch.Tensor) -> None:
    graph = graph_of(digraph("random"))
    with unchecked(), pytest.raises(InputError, match="40 nodes") as caught:
        graph.masked(mask)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- graphs on the disk


@every_name
def test_a_graph_on_the_disk_has_the_scores_of_the_one_in_memory(
    name: str, model_graph: ModelGraph, folder: Path
) -> None:
    streamed, mapped = (load_graph(folder, stream=stream) for stream in (True, False))
    assert not any(isinstance(block, Block) for block in streamed.blocks)
    keep = torch.rand(model_graph.n_nodes, generator=torch.Generator().manual_seed(0)) < 0.8
    masked = scores(name, model_graph.masked(keep), {})
    for options in settings_of(name):
        expected = scores(name, model_graph, options)
        assert expected.dtype == torch.float32
        assert bool(torch.isfinite(expected).all())
        close(CENTRALITIES[name](streamed, **options).scores, expected, options)
        close(scores(name, mapped, options), expected, options)
    close(scores(name, streamed.masked(keep), {}), masked, {})


@every_name
def test_a_models_graph_is_ranked_as_the_same_graph_from_outside(name: str, model_graph: ModelGraph) -> None:
    graph = model_graph.quotient("unit") if name == "coreness" else model_graph
    outside = ModelGraph.from_scipy(graph.to_scipy())
    for options in settings_of(name):
        close(scores(name, graph, options), scores(name, outside, options), options)


# -------------------------------------------------------------------------------- what isn't a score of every node

EDGE_MEASURES = (package.edge_path_mass, package.edge_betweenness)


@pytest.mark.parametrize("measure", EDGE_MEASURES)
@every_shape
def test_masked_edges_have_no_score_and_the_others_that_of_what_is_left(measure: Any, shape: str) -> None:
    reference = digraph(shape)
    keep = torch.rand(len(reference), generator=torch.Generator().manual_seed(1)) < 0.7
    found = torch.from_numpy(measure(graph_of(reference).masked(keep)).edges.to_scipy().toarray())
    assert not found[~keep].any()
    assert not found[:, ~keep].any()
    left = measure(rebuilt(reference, keep)).edges.to_scipy().toarray()
    close(found[keep][:, keep], torch.from_numpy(left), {})


@pytest.mark.parametrize("measure", EDGE_MEASURES)
def test_edges_of_a_graph_on_the_disk_have_the_scores_of_those_in_memory(
    measure: Any, model_graph: ModelGraph, folder: Path
) -> None:
    expected = measure(model_graph.quotient("unit")).edges.to_networkx()
    assert set(expected) == set(model_graph.quotient("unit").to_networkx())
    k = {"k": 8} if measure is package.edge_betweenness else {}
    dense = torch.from_numpy(measure(model_graph, **k).edges.to_scipy().toarray())
    assert dense.dtype == torch.float32
    assert float(dense.sum()) > 0
    for stream in (True, False):
        found = measure(load_graph(folder, stream=stream), **k).edges.to_scipy().toarray()
        close(torch.from_numpy(found), dense, {})


@every_shape
@pytest.mark.parametrize("distance", [None, "weight", "inverse"])
def test_distances_in_a_masked_graph_are_those_in_what_is_left(shape: str, distance: Any) -> None:
    reference = digraph(shape)
    keep = torch.rand(len(reference), generator=torch.Generator().manual_seed(3)) < 0.7
    keep[-1] = True
    graph, left = graph_of(reference).masked(keep), rebuilt(reference, keep)
    for sources in ("inputs", "uniform"):
        found = package.distances(graph, sources, distance=distance).scores
        close(found[keep], package.distances(left, sources, distance=distance).scores, {})


def test_distances_and_communities_of_a_graph_on_the_disk_are_those_in_memory(
    model_graph: ModelGraph, folder: Path
) -> None:
    for stream in (True, False):
        loaded = load_graph(folder, stream=stream)
        for distance in (None, "inverse"):
            expected = package.distances(model_graph, distance=distance).scores
            close(package.distances(loaded, distance=distance).scores, expected, {})
        found, known = package.leiden(loaded), package.leiden(model_graph)
        assert torch.equal(found.membership, known.membership)
        assert found.modularity == pytest.approx(known.modularity)


def test_communities_of_a_masked_graph_are_those_of_what_is_left() -> None:
    """Two cliques of four and a node between them: without it they are apart."""
    weights = np.zeros((9, 9))
    weights[:4, :4] = weights[5:, 5:] = np.triu(np.ones((4, 4)), k=1)
    weights[:4, 4] = weights[4, 5:] = 1
    keep = torch.arange(9) != 4
    found = package.leiden(ModelGraph.from_scipy(graphs.csr(weights)).masked(keep))
    labels = found.membership[keep].tolist()
    assert labels in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert found.modularity == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("name", DIRECTED)
def test_an_unknown_direction_is_refused_with_the_known_ones(name: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=r"direction must .*forward.*backward.*'sideways'") as caught:
        CENTRALITIES[name](graph_of(digraph("random")), direction="sideways")
    assert "\n" not in str(caught.value)


@every_name
def test_refuses_an_option_it_does_not_have(name: str) -> None:
    with unchecked(), pytest.raises(TypeError, match="nonsense"):
        CENTRALITIES[name](graph_of(digraph("random")), nonsense=1)


@every_name
def test_negative_weights_give_finite_scores_or_one_sentence(name: str) -> None:
    """Sums of walks and of weights take them, shares don't; the rest uses no weights unless told to."""
    graph = ModelGraph.from_scipy(graphs.csr(-case("random")))
    if name in SIGNLESS:
        with pytest.raises(ValueError, match="non-negative weights") as caught:
            CENTRALITIES[name](graph)
        assert "\n" not in str(caught.value)
    else:
        assert bool(torch.isfinite(scores(name, graph, {})).all())


@pytest.mark.parametrize("name", sorted(SIGNLESS))
def test_one_negative_weight_among_many_is_refused_wherever_it_is(name: str) -> None:
    for place in range(4):
        weights = [1.0, 1.0, 1.0, 1.0]
        weights[place] = -1e-30
        with pytest.raises(ValueError, match="non-negative weights"):
            CENTRALITIES[name](graph_of(chain(*weights)))


@pytest.mark.parametrize("name", sorted(SIGNLESS))
def test_a_signed_graph_of_a_model_is_refused_with_what_to_export(name: str) -> None:
    with pytest.raises(ValueError, match="non-negative weights; export the graph with magnitude or activation"):
        CENTRALITIES[name](export(decoder("llama"), weight="signed"))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_never_becomes_a_graph(weight: float) -> None:
    matrix = case("random")
    matrix[tuple(np.argwhere(matrix)[3])] = weight
    with pytest.raises(InputError, match="an edge weight is NaN or infinite"):
        ModelGraph.from_scipy(graphs.csr(matrix))


def test_a_cycle_never_becomes_a_graph() -> None:
    with pytest.raises(InputError, match=r"cycle: \d -> \d -> \d -> \d$"):
        ModelGraph.from_scipy(graphs.csr(np.roll(np.eye(3), 1, axis=1)))

"""Graphs without some of their nodes: the same as the graphs built anew from what is left."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphprune.core.block import Block, EdgeBlock, MaskedBlock
from graphprune.core.errors import InputError
from graphprune.core.graph import LEVELS, Level, ModelGraph
from graphprune.core.mask import Mask
from graphprune.extraction.export import export
from graphprune.models.model import Model
from graphprune.surgery.cut import excised
from graphprune.surgery.shape import shape_of
from tests.core.test_block import sparse_block
from tests.families import FIXED_HEADS, MODEL_TYPES, decoder, perceptron
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

# Which unit each channel belongs to and how many channels a unit has, written down independently of the package.
UNIT = {"query": ("head", 8), "key": ("kv_head", 8), "value": ("kv_head", 8), "pattern": ("head", 1),
        "attn": ("head", 8), "gate": ("neuron", 1), "up": ("neuron", 1)}  # fmt: skip
SINGLE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # sums of a few dozen weights of both signs in float32


def stays(graph: ModelGraph, keep: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which nodes of a model's graph stay, node by node, if these units do."""

    def one(node: int) -> bool:
        kind, layer, position = graph.nodes.locate(node)
        unit, width = UNIT.get(kind, (kind, 1)) if graph.level == "channel" else (kind, 1)
        name = f"{unit}.{layer}"
        return bool(keep[name][position // width]) if name in keep else True

    return torch.tensor([one(node) for node in range(graph.n_nodes)])


def rebuilt(graph: ModelGraph, keep: torch.Tensor) -> ModelGraph:
    """The same nodes with copies of the edges between those that stay; it knows of no mask."""

    def part(held: EdgeBlock) -> Block:
        block = held.load()
        shape = (block.dst[1] - block.dst[0], block.src[1] - block.src[0])
        weights, pattern = torch.zeros(shape, dtype=block.dtype), torch.zeros(shape, dtype=torch.bool)
        row, col = block.rows(), block.col.long()
        pattern[row, col] = keep[block.dst[0] + row] & keep[block.src[0] + col]
        weights[row, col] = block.values
        return sparse_block(block.src, block.dst, weights, pattern)

    return replace(graph, blocks=tuple(part(block) for block in graph.blocks), strengths=None)


def dense(graph: ModelGraph) -> NDArray[Any]:
    """The adjacency, NaN where there is no edge: one of weight zero is something else."""
    matrix = graph.to_scipy()
    result = np.full(matrix.shape, np.nan)
    coo = matrix.tocoo()
    result[coo.row, coo.col] = coo.data
    return result


def check(found: ModelGraph, expected: ModelGraph, keep: torch.Tensor) -> None:
    """The masked graph is the rebuilt one; only it knows which nodes have gone."""
    assert found.present is not None
    assert torch.equal(found.present, keep)
    assert found.n_present == int(keep.sum())
    assert torch.equal(found.indicator(), keep.to(found.dtype))
    assert (found.n_nodes, found.n_edges, found.dtype) == (expected.n_nodes, expected.n_edges, expected.dtype)
    assert (found.level, found.weight, found.model) == (expected.level, expected.weight, expected.model)
    assert [block.n_edges for block in found.blocks] == [block.n_edges for block in expected.blocks]
    np.testing.assert_array_equal(dense(found), dense(expected))
    tolerance = SINGLE if found.dtype == torch.float32 else {}
    for one, other in ((found.out_strength, expected.out_strength), (found.in_strength, expected.in_strength)):
        torch.testing.assert_close(one, other, **tolerance)
        assert not one[~keep].any()
    rules: list[dict[str, Any]] = [{"top_k": 2}, {"threshold": 0.5}, {"share": 0.6}]
    for rule in rules:
        (part, dropped), (other_part, other_dropped) = found.sparsify(**rule), expected.sparsify(**rule)
        np.testing.assert_array_equal(dense(part), dense(other_part))
        assert dropped == other_dropped
        assert part.present is found.present


# ------------------------------------------------------------------------------------------------- graphs from outside


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("seed", "part"), [(0, 0.0), (0, 0.3), (1, 0.7), (2, 0.7), (0, 1.0)])
def test_a_graph_from_outside_is_masked_in_the_callers_order(seed: int, dtype: type, part: float) -> None:
    matrix = graphs.random_dag(25, 0.3, seed=seed)
    graph = ModelGraph.from_scipy(graphs.csr(matrix, dtype))
    assert graph.order is not None
    assert graph.order.tolist() != sorted(graph.order.tolist())
    keep = torch.from_numpy(np.random.default_rng(seed).random(25) < part)
    found = graph.masked(keep)
    check(found, rebuilt(graph, keep[graph.order]), keep[graph.order])
    left = keep.numpy()
    expected: NDArray[Any] = np.where(np.outer(left, left), matrix, 0).astype(dtype)
    assert np.array_equal(found.to_scipy().toarray(), expected)
    smaller = ModelGraph.from_scipy(graphs.csr(matrix[np.ix_(left, left)], dtype))
    assert found.n_edges == smaller.n_edges
    for name in ("out_strength", "in_strength"):
        one, other = found.in_caller_order(getattr(found, name)), smaller.in_caller_order(getattr(smaller, name))
        torch.testing.assert_close(one[keep], other)
        assert not one[~keep].any()


@given(st.integers(1, 8), st.integers(0, 1000), st.data())
def test_a_mask_leaves_the_edges_between_what_stays(n: int, seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    matrix = graphs.random_dag(n, 0.5, seed=seed)
    found = ModelGraph.from_scipy(graphs.csr(matrix)).masked(torch.tensor(keep))
    expected = np.where(np.outer(keep, keep), matrix, 0)
    assert np.array_equal(found.to_scipy().toarray(), expected)
    assert found.n_edges == np.count_nonzero(expected)
    assert found.n_present == sum(keep)


def test_labels_stay_with_their_nodes() -> None:
    digraph = graphs.digraph(graphs.random_dag(20, 0.3, seed=1))
    labelled = nx.relabel_nodes(digraph, lambda node: f"node {node}")
    graph = ModelGraph.from_networkx(labelled)
    keep = torch.tensor([node % 3 != 0 for node in range(20)])
    found = graph.masked(keep)
    assert found.labels == graph.labels
    back = found.to_networkx()
    assert list(back) == list(labelled)  # nodes keep their places; what has gone is alone
    left = labelled.subgraph([f"node {node}" for node in range(20) if keep[node]])
    assert dict(back.edges) == dict(left.edges)
    assert len(back.edges) > 0
    igraph = found.to_igraph()
    assert igraph.vs["name"] == list(labelled)
    assert {(igraph.vs[e.source]["name"], igraph.vs[e.target]["name"]) for e in igraph.es} == set(left.edges)


def test_a_block_of_which_everything_stays_is_not_wrapped() -> None:
    graph = export(perceptron((6, 10, 8, 4)))
    keep = torch.ones(graph.n_nodes, dtype=torch.bool)
    assert graph.masked(keep).blocks == graph.blocks
    keep[-1] = False
    blocks = graph.masked(keep).blocks
    assert blocks[:2] == graph.blocks[:2]
    assert isinstance(blocks[2], MaskedBlock)


# ---------------------------------------------------------------------------------------------------- graphs of models


def legal(model: Model, **changes: torch.Tensor) -> Mask:
    keep = dict(Mask.full(model.units).keep) | {name.replace("_of_", "."): value for name, value in changes.items()}
    mask = Mask(keep, model=model.identity)
    mask.check_legal(model.units)
    return mask


def of(text: str) -> torch.Tensor:
    """Which stay, written as a row of ones and dots."""
    return torch.tensor([sign == "1" for sign in text])


EVERY_OTHER = of("1." * 12)
MASKS: dict[str, Callable[[Model], Mask]] = {
    "nothing goes": legal,
    "a group of heads with its keys": lambda model: legal(model, head_of_0=of("11.."), kv_head_of_0=of("1.")),
    "one head of every group": lambda model: legal(model, head_of_1=of("1..1")),
    "heads of all layers": lambda model: legal(
        model, head_of_0=of("..11"), kv_head_of_0=of(".1"), head_of_1=of(".1.1"), kv_head_of_1=of("11")
    ),
    "all heads of a layer": lambda model: legal(model, head_of_1=of("...."), kv_head_of_1=of("..")),
    "neurons": lambda model: legal(model, neuron_of_0=EVERY_OTHER, neuron_of_1=~EVERY_OTHER),
    "all neurons of a layer": lambda model: legal(model, neuron_of_0=torch.zeros(24, dtype=torch.bool)),
    "a bit of everything": lambda model: legal(
        model, head_of_0=of("1.1."), head_of_1=of("..1."), kv_head_of_1=of(".1"), neuron_of_1=EVERY_OTHER
    ),
}
every_mask = pytest.mark.parametrize("which", MASKS)
levels = pytest.mark.parametrize("level", ["channel", "unit"])


@cache
def llama() -> Model:
    return decoder("llama")


@cache
def llama_graph(level: Level) -> ModelGraph:
    return export(llama(), level=level, weight="signed")


@every_mask
@levels
def test_a_mask_of_units_takes_their_channels_out(which: str, level: Level) -> None:
    graph, mask = llama_graph(level), MASKS[which](llama())
    keep = stays(graph, mask.keep)
    assert bool(keep.all()) == (which == "nothing goes")
    check(graph.masked(mask), rebuilt(graph, keep), keep)
    assert torch.equal(graph.masked(mask).out_strength, graph.masked(keep).out_strength)


@every_mask
@pytest.mark.parametrize(("coarse", "norm"), [("unit", 1), ("unit", 2), ("block", 2)])
def test_the_quotient_of_a_masked_graph_is_that_of_what_is_left(which: str, coarse: Level, norm: int) -> None:
    graph, mask = llama_graph("channel"), MASKS[which](llama())
    keep = stays(graph, mask.keep)
    found = graph.masked(mask).quotient(coarse, norm=norm)
    expected = rebuilt(graph, keep).quotient(coarse, norm=norm)
    assert (found.nodes, found.n_edges, found.level, found.weight) == (
        expected.nodes, expected.n_edges, coarse, "magnitude",
    )  # fmt: skip
    np.testing.assert_array_equal(dense(found), dense(expected))
    names = {found.nodes.locate(node): bool(found.indicator()[node]) for node in range(found.n_nodes)}
    if coarse == "unit":
        assert torch.equal(found.indicator().bool(), stays(found, mask.keep))
        again = llama_graph("unit").masked(mask)
        if norm == 2:  # the unit graph's own norm
            np.testing.assert_allclose(dense(found), dense(again), rtol=1e-6)
    else:
        assert names["attn", 1, 0] == (which != "all heads of a layer")
        assert names["mlp", 0, 0] == (which != "all neurons of a layer")
        assert found.n_present == found.n_nodes - which.startswith("all")


@levels
def test_a_perceptrons_neurons_are_masked_layer_by_layer(level: Level) -> None:
    model = perceptron((6, 10, 8, 4))
    graph = export(model, level=level, weight="signed")
    mask = legal(model, neuron_of_0=of("1.1.1.1.1."), neuron_of_1=of("11....11"))
    keep = stays(graph, mask.keep)
    assert int((~keep).sum()) == 9
    check(graph.masked(mask), rebuilt(graph, keep), keep)
    assert graph.masked(mask).n_edges == 6 * 5 + 5 * 4 + 4 * 4


def test_groups_that_a_mask_does_not_name_stay() -> None:
    graph = llama_graph("channel")
    found = graph.masked(Mask({"neuron.1": EVERY_OTHER}))
    assert torch.equal(found.indicator().bool(), stays(graph, {"neuron.1": EVERY_OTHER}))


# ------------------------------------------------------------------------------------- the graphs of the pruned models

# What goes leaves every layer with the same widths, so that the model without it is a model of the same family.
UNIFORM: dict[str, dict[str, torch.Tensor]] = {
    "groups of heads": {
        "head_of_0": of("11.."), "kv_head_of_0": of("1."), "head_of_1": of("..11"), "kv_head_of_1": of(".1"),
    },
    "one head of every group": {"head_of_0": of("1..1"), "head_of_1": of(".11.")},
    "neurons": {"neuron_of_0": EVERY_OTHER, "neuron_of_1": ~EVERY_OTHER},
}  # fmt: skip
UNIFORM["everything"] = UNIFORM["groups of heads"] | UNIFORM["neurons"]


def pruned(model: Model, mask: Mask, rung: str) -> Model:
    shape = shape_of(model, mask, rung)
    parameters = {name: shape.parameter(name, model.parameters[name]) for name in model.parameters}
    cut = excised(model.parameters, model.units, mask)
    assert all(torch.equal(parameters[name], cut[name]) for name in cut)
    smaller = Model.from_parameters(shape.config(model.config), parameters)
    assert smaller.n_parameters < model.n_parameters
    return smaller


@pytest.mark.parametrize(
    ("model_type", "which"),
    [
        *(("llama", which) for which in UNIFORM),
        *((kind, "neurons" if kind in FIXED_HEADS else "everything") for kind in MODEL_TYPES[1:]),
    ],
)
def test_what_a_mask_leaves_is_the_graph_of_the_pruned_model(model_type: str, which: str) -> None:
    model = decoder(model_type)
    mask = legal(model, **UNIFORM[which])
    cut = pruned(model, mask, "uniform")
    whole, smaller = export(model), export(cut)
    for level in LEVELS[:2]:
        masked, expected = whole.quotient(level).masked(mask), smaller.quotient(level)
        keep = masked.indicator().bool()
        assert 0 < masked.n_present == expected.n_nodes < masked.n_nodes
        assert masked.n_edges == expected.n_edges
        left = dense(masked)[np.ix_(keep.numpy(), keep.numpy())]
        np.testing.assert_allclose(left, dense(expected), rtol=0 if level == "channel" else 1e-6)
        for name in ("out_strength", "in_strength"):
            torch.testing.assert_close(getattr(masked, name)[keep], getattr(expected, name))


@levels
def test_what_a_mask_leaves_is_the_graph_of_the_pruned_perceptron(level: Level) -> None:
    model = perceptron((6, 10, 8, 4))
    mask = legal(model, neuron_of_0=of("1.1.1.1.1."), neuron_of_1=of("11.....1"))
    masked, smaller = export(model, level=level).masked(mask), export(pruned(model, mask, "excised"), level=level)
    keep = masked.indicator().bool().numpy()
    np.testing.assert_array_equal(dense(masked)[np.ix_(keep, keep)], dense(smaller))
    assert [span.size for span in smaller.nodes.spans] == [6, 5, 3, 4]


# ----------------------------------------------------------------------------------------------- masks add up, as views


def bottom(block: EdgeBlock) -> EdgeBlock:
    """The block under all masks."""
    while isinstance(block, MaskedBlock):
        block = block.whole
    return block


def test_masks_add_up() -> None:
    graph, model = llama_graph("channel"), llama()
    first, second = MASKS["heads of all layers"](model), MASKS["a bit of everything"](model)
    third = torch.rand(graph.n_nodes, generator=torch.Generator().manual_seed(3)) < 0.8
    keep = stays(graph, first.keep) & stays(graph, second.keep) & third
    for masks in ((first, second, third), (third, first, second), (second, third, first, second)):
        found = graph
        for mask in masks:
            found = found.masked(mask)
        check(found, rebuilt(graph, keep), keep)


def test_masks_of_a_graph_from_outside_add_up_in_the_callers_order() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(25, 0.3, seed=5)))
    assert graph.order is not None
    first, second = (torch.rand(25, generator=torch.Generator().manual_seed(seed)) < 0.7 for seed in (1, 2))
    keep = (first & second)[graph.order]
    check(graph.masked(first).masked(second), rebuilt(graph, keep), keep)


@pytest.mark.parametrize("times", [1, 2])
def test_nothing_is_copied_and_the_graph_stays_whole(times: int) -> None:
    graph = export(llama())
    strength, n_edges = graph.out_strength.clone(), graph.n_edges
    found = graph
    for seed in range(times):
        found = found.masked(torch.rand(graph.n_nodes, generator=torch.Generator().manual_seed(seed)) < 0.8)
    assert all(isinstance(block, MaskedBlock) for block in found.blocks)
    for block, original in zip(found.blocks, graph.blocks, strict=True):
        held = bottom(block)
        assert isinstance(held, Block)
        assert isinstance(original, Block)
        for name in ("values", "crow", "col"):
            assert getattr(held, name).data_ptr() == getattr(original, name).data_ptr()
    assert found.out_strength.sum() < strength.sum()
    assert (graph.present, graph.n_present, graph.n_edges) == (None, graph.n_nodes, n_edges)
    assert torch.equal(export(llama()).out_strength, graph.out_strength)


def test_known_strengths_are_forgotten() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(10, 0.5, seed=0)))
    assert graph.strengths is not None
    keep = torch.arange(10) < 5
    assert graph.masked(keep).strengths is None
    assert graph.masked(keep).out_strength.sum() < graph.out_strength.sum()


def test_the_callers_mask_may_change_afterwards() -> None:
    graph = export(perceptron())
    keep = torch.arange(graph.n_nodes) % 2 == 0
    found = graph.masked(keep)
    before = found.to_scipy()
    keep[:] = True
    assert (found.to_scipy() != before).nnz == 0
    assert found.n_present == graph.n_nodes // 2


def test_a_masked_graph_without_weights_counts_the_edges_that_are_left() -> None:
    graph, mask = llama_graph("channel"), MASKS["a bit of everything"](llama())
    expected = rebuilt(graph, stays(graph, mask.keep))
    for found in (graph.masked(mask).unweighted(), graph.unweighted().masked(mask)):
        assert found.weight == "magnitude"
        assert found.n_edges == expected.n_edges
        assert np.array_equal(dense(found) == 1, ~np.isnan(dense(expected)))
        assert float(found.out_strength.sum()) == float(found.in_strength.sum()) == expected.n_edges
        assert torch.equal(found.indicator().bool(), stays(graph, mask.keep))


@levels
def test_a_graph_of_which_nothing_is_left_is_a_graph(level: Level) -> None:
    graph = llama_graph(level)
    found = graph.masked(torch.zeros(graph.n_nodes, dtype=torch.bool))
    assert (found.n_nodes, found.n_present, found.n_edges, found.dtype) == (graph.n_nodes, 0, 0, torch.float32)
    assert not found.out_strength.any()
    assert found.to_scipy().nnz == 0
    assert found.sparsify(share=0.5)[0].n_edges == 0
    coarse = found.quotient("block")
    assert (coarse.n_present, coarse.n_edges) == (0, 0)
    assert coarse.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ what is refused


def refusal(graph: ModelGraph, mask: Any) -> str:
    with unchecked(), pytest.raises(InputError) as caught:
        graph.masked(mask)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(9, dtype=torch.bool),
        torch.ones(11, dtype=torch.bool),
        torch.ones(10, 1, dtype=torch.bool),
        torch.ones(0, dtype=torch.bool),
        torch.tensor(True),
        torch.ones(10),
        torch.arange(10),
    ],
    ids=str,
)
def test_a_mask_that_is_not_one_bool_a_node_is_refused(mask: torch.Tensor) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(10, 0.5, seed=0)))
    message = refusal(graph, mask)
    assert "one bool for each of the 10 nodes" in message
    assert f"not {tuple(mask.shape)} of {mask.dtype}" in message


def test_a_mask_of_another_model_is_refused() -> None:
    mask = Mask(Mask.full(llama().units).keep, model="another")
    assert refusal(llama_graph("channel"), mask) == "the mask belongs to another model than the graph"
    nameless = Mask(mask.keep)  # one that does not say whose it is fits any model with such units
    assert llama_graph("channel").masked(nameless).n_present == llama_graph("channel").n_nodes


@pytest.mark.parametrize(
    ("name", "size"),
    [("neuron.0", 23), ("head.1", 32), ("kv_head.0", 4), ("neuron.2", 24), ("expert.0", 8), ("neuron", 24)],
)
@levels
def test_units_that_the_graph_does_not_have_are_named(level: Level, name: str, size: int) -> None:
    mask = Mask({name: torch.ones(size, dtype=torch.bool)})
    assert refusal(llama_graph(level), mask) == f"the mask's {name} ({size} units) is not in the graph"


def test_a_perceptrons_mask_does_not_fit_a_decoder_of_no_name() -> None:
    mask = Mask(Mask.full(perceptron().units).keep)
    assert "is not in the graph" in refusal(llama_graph("channel"), mask)
    assert "is not in the graph" in refusal(export(perceptron()), Mask(Mask.full(llama().units).keep))


def test_graphs_without_units_take_no_mask_of_units() -> None:
    mask = Mask.full(llama().units)
    outside = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(10, 0.5, seed=0)))
    assert refusal(outside, mask).startswith("a graph from outside has no heads and neurons to mask; give one bool")
    block = llama_graph("block")
    assert refusal(block, mask).startswith("a graph of whole modules has no heads and neurons to mask; give one bool")
    keep = torch.arange(block.n_nodes) != 3  # but one bool a node
    check(block.masked(keep), rebuilt(block, keep), keep)

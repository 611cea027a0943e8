"""Nodes, and graphs of nodes and blocks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from graphprune.core.block import Block, UnweightedBlock
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from tests.families import MODEL_TYPES, decoder
from tests.oracles import graph as graphs

CPU = torch.device("cpu")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_spans_tile_the_nodes_of_every_family(model_type: str) -> None:
    nodes = export(decoder(model_type)).nodes
    position = 0
    for span in nodes.spans:
        start, stop = nodes.range(span.kind, span.layer)
        assert (start, stop) == (position, position + span.size)
        assert nodes.locate(start) == (span.kind, span.layer, 0)
        assert nodes.locate(stop - 1) == (span.kind, span.layer, span.size - 1)
        position = stop
    assert position == nodes.n_nodes


@given(st.lists(st.integers(0, 4), max_size=6))
def test_every_node_lies_in_exactly_one_span(sizes: list[int]) -> None:
    nodes = NodeIndex(tuple(Span("node", layer, size) for layer, size in enumerate(sizes)))
    located = [nodes.locate(node) for node in range(nodes.n_nodes)]
    assert located == [("node", layer, i) for layer, size in enumerate(sizes) for i in range(size)]
    values = torch.arange(nodes.n_nodes)
    parts = [nodes.of(values, "node", layer) for layer in range(len(sizes))]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([*parts, values[:0]]), values)
    assert NodeIndex.from_json(nodes.to_json()) == nodes


def test_nodes_and_spans_that_do_not_exist_are_named() -> None:
    nodes = NodeIndex((Span("resid", 0, 4), Span("neuron", 0, 8)))
    with pytest.raises(KeyError, match=r"no nodes neuron.1; kinds are \['neuron', 'resid'\]"):
        nodes.range("neuron", 1)
    for node in (-1, 12):
        with pytest.raises(IndexError, match=rf"node {node} is outside 0\.\.11"):
            nodes.locate(node)
    assert "neuron.0" in nodes
    assert "neuron.1" not in nodes


def test_a_span_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"span resid\.0 appears twice"):
        NodeIndex((Span("resid", 0, 4), Span("resid", 0, 4)))


@pytest.mark.parametrize(
    ("src", "dst"), [((2, 4), (0, 2)), ((0, 2), (1, 3)), ((0, 2), (0, 2)), ((0, 2), (4, 6)), ((-1, 1), (2, 4))]
)
def test_a_block_that_does_not_lead_forward_is_refused(src: tuple[int, int], dst: tuple[int, int]) -> None:
    nodes = NodeIndex((Span("node", 0, 5),))
    with pytest.raises(ValueError, match="does not lead from earlier to later nodes"):
        ModelGraph(nodes, (Block.full(src, dst, torch.ones(2, 2)),))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_strengths_are_row_and_column_sums(model_type: str) -> None:
    graph = export(decoder(model_type))
    dense = torch.from_numpy(graph.to_scipy().toarray())
    torch.testing.assert_close(graph.out_strength, dense.sum(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph.in_strength, dense.sum(dim=0), rtol=1e-5, atol=1e-5)
    assert not dense.tril().any()


def test_blocks_are_swept_so_that_every_node_is_final_before_it_sends() -> None:
    graph = export(decoder("llama"))
    for blocks, sender, receiver in (
        (graph.forward_blocks, "src", "dst"),
        (graph.backward_blocks, "dst", "src"),
    ):
        sent: set[int] = set()
        for block in blocks:
            receives: tuple[int, int] = getattr(block, receiver)
            assert not sent & set(range(*receives))
            sent |= set(range(*getattr(block, sender)))
        assert len(blocks) == len(graph.blocks)


def test_a_graph_without_blocks_has_a_type_and_a_device() -> None:
    graph: Any = ModelGraph(NodeIndex((Span("node", 0, 3),)), ())
    assert (graph.n_edges, graph.dtype, graph.device) == (0, torch.float64, CPU)
    assert torch.equal(graph.out_strength, torch.zeros(3, dtype=torch.float64))


def test_moving_a_graph_keeps_everything() -> None:
    graph = export(decoder("llama"))
    moved = graph.to("cpu")
    assert (moved.to_scipy() != graph.to_scipy()).nnz == 0
    assert (moved.nodes, moved.level, moved.weight, moved.model) == (
        graph.nodes,
        graph.level,
        graph.weight,
        graph.model,
    )


# ----------------------------------------------------------------------------------------- every edge alike, and masks


def test_an_unweighted_graph_has_the_same_edges_all_of_weight_one() -> None:
    graph = export(decoder("llama"), weight="signed")
    found = graph.unweighted()
    assert (found.nodes, found.n_edges, found.level, found.model) == (
        graph.nodes, graph.n_edges, graph.level, graph.model,
    )  # fmt: skip
    assert (found.weight, found.dtype, found.strengths, found.present) == ("magnitude", graph.dtype, None, None)
    before, after = graph.to_scipy(), found.to_scipy()
    assert (before.indptr.tolist(), before.indices.tolist()) == (after.indptr.tolist(), after.indices.tolist())
    assert set(after.data) == {1}
    for block, original in zip(found.blocks, graph.blocks, strict=True):
        assert isinstance(block, UnweightedBlock)
        assert block.whole is original  # nothing is copied
    n_out, n_in = torch.from_numpy(before.indptr).diff(), torch.bincount(torch.from_numpy(before.indices).long())
    assert torch.equal(found.out_strength, n_out.float())
    assert torch.equal(found.in_strength[: len(n_in)], n_in.float())
    assert graph.weight == "signed"


def test_an_unweighted_graph_from_outside_counts_its_edges_also_those_of_weight_zero() -> None:
    entries = (np.array([2.0, -3.0, 0.0]), (np.array([2, 2, 1]), np.array([1, 0, 0])))
    graph = ModelGraph.from_scipy(sparse.coo_array(entries, shape=(3, 3)))
    assert graph.in_caller_order(graph.out_strength).tolist() == [0, 0, -1]
    found = graph.unweighted()
    assert found.in_caller_order(found.out_strength).tolist() == [0, 1, 2]
    assert found.in_caller_order(found.in_strength).tolist() == [2, 1, 0]
    assert found.to_scipy().toarray().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert torch.equal(found.unweighted().out_strength, found.out_strength)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_node_of_a_graph_is_present_but_those_that_a_mask_has_removed(dtype: torch.dtype) -> None:
    nodes = NodeIndex((Span("node", 0, 5),))
    graph = ModelGraph(nodes, (Block.full((0, 2), (2, 5), torch.ones(3, 2, dtype=dtype)),))
    assert graph.n_present == 5
    assert torch.equal(graph.indicator(), torch.ones(5, dtype=dtype))
    assert graph.indicator().dtype == dtype
    found = replace(graph, present=torch.tensor([True, False, True, True, False]))
    assert (found.n_nodes, found.n_present) == (5, 3)
    assert found.indicator().tolist() == [1, 0, 1, 1, 0]
    assert found.indicator().dtype == dtype


def test_moving_a_graph_takes_its_order_its_strengths_and_its_mask_along() -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(12, 0.4, seed=2)))
    present = torch.arange(12) % 2 == 0
    moved = replace(graph, present=present).to("cpu")
    assert moved.order is not None
    assert graph.order is not None
    assert torch.equal(moved.order, graph.order)
    assert moved.strengths is not None
    assert torch.equal(moved.out_strength, graph.out_strength)
    assert torch.equal(moved.in_strength, graph.in_strength)
    assert moved.present is not None
    assert torch.equal(moved.present, present)


def test_known_strengths_are_not_summed_again() -> None:
    nodes = NodeIndex((Span("node", 0, 3),))
    block = Block.full((0, 1), (1, 3), torch.ones(2, 1))
    known = (torch.tensor([7.0, 0, 0]), torch.tensor([0.0, 3, 4]))
    graph = ModelGraph(nodes, (block,), strengths=known)
    assert (graph.out_strength is known[0], graph.in_strength is known[1]) == (True, True)
    assert replace(graph, strengths=None).out_strength.tolist() == [2, 0, 0]


def test_blocks_of_any_kind_have_to_lead_forward() -> None:
    whole = export(decoder("llama"))
    removed = torch.zeros(whole.n_nodes, dtype=torch.bool)
    small = ModelGraph(NodeIndex((Span("node", 0, 20),)), ())
    for graph in (whole, whole.unweighted(), whole.masked(removed)):
        assert ModelGraph(whole.nodes, graph.blocks[:1]).n_edges == graph.blocks[0].n_edges
        with pytest.raises(ValueError, match="does not lead from earlier to later nodes"):
            replace(small, blocks=graph.blocks[:1])

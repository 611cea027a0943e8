"""Nodes, blocks, and graphs of both."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.graph import Block, ModelGraph, full_pattern
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from tests.families import MODEL_TYPES, decoder

CPU = torch.device("cpu")


def sparse_block(src: tuple[int, int], dst: tuple[int, int], dense: torch.Tensor) -> Block:
    """A block of the entries that aren't zero."""
    rows, columns = dense.nonzero(as_tuple=True)
    crow = torch.cat([torch.zeros(1), torch.bincount(rows, minlength=len(dense)).cumsum(0)]).int()
    return Block(src, dst, dense[rows, columns], crow, columns.int())


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


@pytest.mark.parametrize("vectors", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_push_and_pull_are_adjoint(vectors: tuple[int, ...], dtype: torch.dtype, density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(7, 5, generator=generator, dtype=dtype)
    dense *= torch.rand(7, 5, generator=generator) < density
    x, y = (torch.randn(n, *vectors, generator=generator, dtype=dtype) for n in (5, 7))
    block = sparse_block((2, 7), (9, 16), dense)
    assert block.is_full == (density == 1)
    pushed, pulled = block.push(x), block.pull(y)
    assert pushed.dtype == pulled.dtype == dtype
    torch.testing.assert_close(pushed, dense @ x)
    torch.testing.assert_close(pulled, dense.T @ y)
    torch.testing.assert_close((pushed * y).sum(), (x * pulled).sum())
    torch.testing.assert_close(block.csr.to_dense(), dense)


@given(st.lists(st.integers(-3, 3), min_size=12, max_size=12), st.lists(st.integers(-3, 3), min_size=7, max_size=7))
def test_push_and_pull_are_adjoint_for_every_pattern_of_zeros(entries: list[int], vectors: list[int]) -> None:
    dense = torch.tensor(entries, dtype=torch.float64).view(4, 3)
    x, y = torch.tensor(vectors[:3], dtype=torch.float64), torch.tensor(vectors[3:], dtype=torch.float64)
    block = sparse_block((0, 3), (3, 7), dense)
    assert float(block.push(x) @ y) == float(x @ block.pull(y))
    assert torch.equal(block.push(x), dense @ x)
    assert block.rows().tolist() == dense.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_blocks_without_rows_or_columns_carry_nothing(shape: tuple[int, int]) -> None:
    block = Block.full((0, shape[1]), (5, 5 + shape[0]), torch.ones(shape))
    assert torch.equal(block.push(torch.ones(shape[1], 2)), torch.zeros(shape[0], 2))
    assert torch.equal(block.pull(torch.ones(shape[0], 2)), torch.zeros(shape[1], 2))


def test_full_blocks_keep_zeros_and_share_their_index_arrays() -> None:
    weights = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    block = Block.full((0, 2), (2, 5), weights)
    assert (block.n_edges, block.is_full, block.shape) == (6, True, (3, 2))
    assert torch.equal(block.csr.to_dense(), weights)
    crow, col = full_pattern(3, 2, CPU)
    assert block.crow is crow
    assert block.col is col
    assert crow.dtype == col.dtype == torch.int32


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

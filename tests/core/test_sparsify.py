"""The strongest edges of a graph against brute force on its dense matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphprune.core import sparsify
from graphprune.core.block import Block, MaskedBlock, Run, StoredBlock
from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.graph import Dropped, ModelGraph
from graphprune.core.graph_store import GraphWriter, load_graph, save_graph
from graphprune.core.io import write_temporary
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from tests.core.test_block import sparse_block
from tests.families import decoder
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

N = 10  # nodes of the small graphs
Weights = NDArray[Any]
Truth = NDArray[np.bool_]

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@dataclass(frozen=True)
class Dense:
    """A graph's adjacency ``[src, dst]``, and which entries of it are edges: an edge may weigh nothing."""

    weights: Weights
    edges: Truth

    @property
    def strength(self) -> Weights:
        return np.abs(self.weights)

    def total(self) -> float:
        return float(self.strength[self.edges].sum(dtype=np.float64))


def dense(graph: ModelGraph) -> Dense:
    """Read off the blocks, in topological order; no edge may be there twice."""
    weights = np.zeros((graph.n_nodes, graph.n_nodes), dtype=np.float32 if graph.dtype == torch.float32 else np.float64)
    edges = np.zeros(weights.shape, dtype=np.bool_)
    for block in (held.load() for held in graph.blocks):
        src, dst = block.col.numpy() + block.src[0], block.rows().numpy() + block.dst[0]
        assert not edges[src, dst].any()
        weights[src, dst], edges[src, dst] = block.values.numpy(), True
    return Dense(weights, edges)


# ------------------------------------------------------------------------------------------------------- brute force


def strongest_incoming(graph: Dense, k: int) -> Truth:
    keep = np.zeros_like(graph.edges)
    for node in range(len(keep)):
        sources = np.flatnonzero(graph.edges[:, node])
        ranked = sources[np.lexsort((sources, -graph.strength[sources, node]))]
        keep[ranked[:k], node] = True
    return keep


def holding(graph: Dense, share: float) -> Truth:
    """Sorted and added up exactly until the share is held, but for a millionth of a millionth; ties stay together."""
    ranked = sorted(map(Fraction, graph.strength[graph.edges].tolist()), reverse=True)
    wanted = Fraction(share) * sum(ranked) * (1 - Fraction(1, 10**12))
    held, weakest = Fraction(0), Fraction(0)
    for weight in ranked:
        if held >= wanted:
            break
        held, weakest = held + weight, weight
    if weakest == 0:  # nothing need be kept to hold a share of nothing
        return np.zeros_like(graph.edges)
    return graph.edges & (graph.strength >= float(weakest))


def check(graph: ModelGraph, result: tuple[ModelGraph, Dropped], keep: Truth) -> None:
    """The result has exactly the edges to keep, with their weights, and says truly what is missing."""
    found, dropped = result
    before, after = dense(graph), dense(found)
    assert np.array_equal(after.edges, keep)
    assert np.array_equal(after.weights, np.where(keep, before.weights, 0))
    assert found.n_edges == keep.sum()
    assert (found.nodes, found.level, found.weight, found.model, found.dtype) == (
        graph.nodes, graph.level, graph.weight, graph.model, graph.dtype,
    )  # fmt: skip
    n_edges, total = int(before.edges.sum()), before.total()
    lost = float(before.strength[before.edges & ~keep].sum(dtype=np.float64))
    assert dropped.edges == n_edges - int(keep.sum())
    assert dropped.edge_share == pytest.approx(dropped.edges / max(n_edges, 1))
    assert dropped.weight_share == pytest.approx(lost / total if total else 0.0, abs=1e-9)
    rounding = total * (1e-6 if graph.dtype == torch.float32 else 1e-14)  # weights of both signs may cancel
    for strength, axis in ((found.out_strength, 1), (found.in_strength, 0)):
        torch.testing.assert_close(strength, torch.from_numpy(after.weights.sum(axis=axis)), rtol=0, atol=rounding)


# ------------------------------------------------------------------------------------------------ graphs of all shapes


def ulps(dtype: torch.dtype, *around: float) -> list[float]:
    """Numbers that differ in their last bits alone."""
    step = torch.finfo(dtype).eps
    return [base * (1 + i * step) for base in around for i in range(4)]


def entries(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Weights that tie, weights that hardly differ, weights of nothing and of either sign, and any others."""
    signed = st.sampled_from([1.0, -1.0])
    close_by = st.tuples(st.sampled_from(ulps(dtype, 1.0, 3.0, 1e-3)), signed).map(lambda pair: pair[0] * pair[1])
    if dtype == torch.float32:
        others = st.floats(0, 1, width=32) | st.floats(2.0**-100, 2.0**100, width=32)
    else:
        others = st.floats(0, 1) | st.floats(2.0**-900, 2.0**900)
    return st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]) | close_by | others


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[Run, Run, bool]]:
    """Runs of sources and destinations, and whether all edges between them are there; no two have an edge in common."""
    chosen: list[tuple[Run, Run, bool]] = []
    cuts = st.tuples(*[st.integers(0, N)] * 4).map(sorted)
    for a, b, c, d in draw(st.lists(cuts, min_size=1, max_size=6)):
        apart = (b <= first[0] or first[1] <= a or d <= second[0] or second[1] <= c for first, second, _ in chosen)
        if all(apart):
            chosen.append(((a, b), (c, d), draw(st.booleans())))
    return chosen


def graph_of(layout: list[tuple[Run, Run, bool]], numbers: Sequence[float], dtype: torch.dtype) -> ModelGraph:
    """The blocks of a layout filled with numbers over and over; every third of those that aren't full are no edges."""
    blocks, at = [], 0
    for src, dst, full in layout:
        shape = (dst[1] - dst[0], src[1] - src[0])
        size = shape[0] * shape[1]
        values = [numbers[(at + i) % len(numbers)] for i in range(size)]
        weights = torch.tensor(values, dtype=dtype).view(shape)
        pattern = torch.tensor([i % 3 != 1 for i in range(size)], dtype=torch.bool).view(shape)
        blocks.append(Block.full(src, dst, weights) if full else sparse_block(src, dst, weights * pattern, pattern))
        at += size
    return ModelGraph(NodeIndex((Span("node", 0, N),)), tuple(blocks), model={"name": "drawn"})


OVERLAPPING: list[tuple[Run, Run, bool]] = [
    ((0, 3), (3, 6), True),
    ((0, 2), (6, 10), False),  # reaches all that the following reach
    ((2, 4), (7, 8), True),
    ((4, 6), (8, 10), True),  # apart from the one before, but not from the one before that
    ((6, 7), (9, 10), False),
]
"""Blocks whose destinations overlap without being the same."""


def drawn(dtype: torch.dtype) -> st.SearchStrategy[tuple[list[tuple[Run, Run, bool]], list[float]]]:
    return st.tuples(st.just(OVERLAPPING) | layouts(), st.lists(entries(dtype), min_size=1, max_size=40))


@every_dtype
@given(data=st.data(), k=st.integers(1, 6))
def test_top_k_keeps_each_nodes_strongest_incoming_edges_ties_by_source(
    dtype: torch.dtype, data: st.DataObject, k: int
) -> None:
    graph = graph_of(*data.draw(drawn(dtype)), dtype)
    check(graph, graph.sparsify(top_k=k), strongest_incoming(dense(graph), k))


@every_dtype
@given(data=st.data())
def test_a_threshold_keeps_edges_at_or_above_it(dtype: torch.dtype, data: st.DataObject) -> None:
    threshold = abs(data.draw(entries(dtype)))
    graph = graph_of(*data.draw(drawn(dtype)), dtype)
    before = dense(graph)
    check(graph, graph.sparsify(threshold=threshold), before.edges & (before.strength >= threshold))


@every_dtype
@settings(max_examples=80)
@given(data=st.data(), share=st.floats(1e-6, 1, exclude_max=True) | st.sampled_from([i / 8 for i in range(1, 8)]))
def test_a_share_keeps_the_fewest_strongest_edges_that_hold_it(
    dtype: torch.dtype, data: st.DataObject, share: float
) -> None:
    graph = graph_of(*data.draw(drawn(dtype)), dtype)
    before = dense(graph)
    assume(before.total() == 0 or share * before.total() > 1e-300)  # less is no longer a normal number
    check(graph, graph.sparsify(share=share), holding(before, share))


@every_dtype
def test_the_whole_share_keeps_every_edge_that_weighs_anything(dtype: torch.dtype) -> None:
    weights = torch.tensor([[1.0, 0.0, 1e-13], [1e-20, -1.0, 1e-6]], dtype=dtype)
    graph = ModelGraph(NodeIndex((Span("node", 0, 5),)), (Block.full((0, 3), (3, 5), weights),))
    check(graph, graph.sparsify(share=1.0), dense(graph).weights != 0)


# ----------------------------------------------------------------------------------------------------- larger, by hand


def layered(
    width: int, depth: int, dtype: torch.dtype, weights: Callable[[torch.Generator], torch.Tensor]
) -> ModelGraph:
    generator = torch.Generator().manual_seed(0)
    nodes = NodeIndex(tuple(Span("node", layer, width) for layer in range(depth + 1)))
    runs = [nodes.range("node", layer) for layer in range(depth + 1)]
    blocks = (Block.full(runs[i], runs[i + 1], weights(generator).to(dtype)) for i in range(depth))
    return ModelGraph(nodes, tuple(blocks))


def unlike(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(100, 100, generator=generator, dtype=torch.float64)


def alike(generator: torch.Generator) -> torch.Tensor:
    """They differ in their last twelve bits in float64, and hardly at all in float32."""
    return 1 + torch.randint(1 << 12, (100, 100), generator=generator) * torch.finfo(torch.float64).eps


def lengthy(generator: torch.Generator) -> torch.Tensor:
    """Of all magnitudes."""
    return torch.exp(8 * torch.randn(100, 100, generator=generator, dtype=torch.float64))


@every_dtype
@pytest.mark.parametrize("weights", [unlike, alike, lengthy])
@pytest.mark.parametrize("share", [1e-4, 0.1, 0.5, 0.9, 0.9999])
def test_a_share_of_many_edges_is_what_sorting_them_all_gives(
    dtype: torch.dtype, weights: Callable[[torch.Generator], torch.Tensor], share: float
) -> None:
    graph = layered(100, 3, dtype, weights)
    ranked = np.sort(np.concatenate([block.load().values.abs().double().numpy() for block in graph.blocks]))[::-1]
    held = np.cumsum(ranked.astype(np.longdouble))
    least = ranked[np.searchsorted(held, share * held[-1] * (1 - np.longdouble(1e-12)))]
    found, _ = graph.sparsify(share=share)
    assert found.n_edges == int((ranked >= least).sum())
    assert min(float(block.load().values.abs().min()) for block in found.blocks) == least


@every_dtype
@pytest.mark.parametrize(("share", "kept"), [(0.4, 1), (0.41, 2), (0.7, 2), (0.71, 3), (0.9, 3), (0.91, 4), (1.0, 4)])
def test_a_share_that_some_edges_hold_to_the_dot_needs_no_other(dtype: torch.dtype, share: float, kept: int) -> None:
    weights = torch.tensor([[1.0, -3.0, 0.0], [2.0, 0.0, -4.0]], dtype=dtype)
    graph = ModelGraph(NodeIndex((Span("node", 0, 5),)), (Block.full((0, 3), (3, 5), weights),))
    found, dropped = graph.sparsify(share=share)
    assert sorted(np.abs(dense(found).weights[dense(found).edges]).tolist(), reverse=True) == [4, 3, 2, 1][:kept]
    assert dropped.edges == 6 - kept


@every_dtype
@pytest.mark.parametrize(("rule", "kept"), [
    ({"top_k": 1}, [(0, 3), (0, 4)]),
    ({"top_k": 2}, [(0, 3), (0, 4), (1, 3), (1, 4)]),
    ({"top_k": 3}, [(a, b) for a in range(3) for b in (3, 4)]),
    ({"threshold": 0.5}, [(a, b) for a in range(3) for b in (3, 4)]),
    ({"threshold": 0.6}, []),
    ({"share": 0.01}, [(a, b) for a in range(3) for b in (3, 4)]),
])  # fmt: skip
@pytest.mark.parametrize("full", [True, False])
def test_equal_weights_stay_together_except_under_top_k_where_earlier_sources_win(
    dtype: torch.dtype, rule: dict[str, Any], kept: list[tuple[int, int]], full: bool
) -> None:
    weights = torch.full((2, 3), -0.5, dtype=dtype)
    block = Block.full((0, 3), (3, 5), weights) if full else sparse_block((0, 3), (3, 5), weights)
    graph = ModelGraph(NodeIndex((Span("node", 0, 5),)), (replace(block, src=(0, 3)),))
    found, _ = graph.sparsify(**rule)
    assert list(zip(*(axis.tolist() for axis in dense(found).edges.nonzero()), strict=True)) == kept


def test_top_k_compares_sources_across_blocks_and_breaks_ties_across_them() -> None:
    """Node 9 is reached from three blocks whose destinations only overlap; all of its edges tie but one."""
    nodes = NodeIndex((Span("node", 0, N),))
    parts = (
        Block.full((4, 6), (7, 10), torch.ones(3, 2)),
        sparse_block((0, 2), (8, 10), torch.ones(2, 2)),
        Block.full((2, 3), (9, 10), torch.full((1, 1), 2.0)),
    )
    for blocks in (parts, parts[::-1]):
        found, _ = ModelGraph(nodes, blocks).sparsify(top_k=3)
        assert np.flatnonzero(dense(found).edges[:, 9]).tolist() == [0, 1, 2]
        assert np.flatnonzero(dense(found).edges[:, 8]).tolist() == [0, 1, 4]
        assert np.flatnonzero(dense(found).edges[:, 7]).tolist() == [4, 5]


# ---------------------------------------------------------------------------------------------- where graphs come from

RULES: dict[str, tuple[dict[str, Any], Callable[[Dense], Truth]]] = {
    "top_k": ({"top_k": 2}, lambda graph: strongest_incoming(graph, 2)),
    "threshold": ({"threshold": 0.3}, lambda graph: graph.edges & (graph.strength >= 0.3)),
    "share": ({"share": 0.6}, lambda graph: holding(graph, 0.6)),
}
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def model_graph() -> ModelGraph:
    return export(decoder("llama"), weight="signed")


@every_rule
def test_a_models_graph_is_sparsified_like_any_other(rule: str, model_graph: ModelGraph) -> None:
    options, expected = RULES[rule]
    keep = expected(dense(model_graph))
    assert 0 < keep.sum() < model_graph.n_edges
    check(model_graph, model_graph.sparsify(**options), keep)


@every_rule
@pytest.mark.parametrize("shards", ["one shard", "many shards"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_graph_on_disk_becomes_a_graph_on_disk_with_the_same_edges(
    rule: str, shards: str, stream: bool, model_graph: ModelGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shards == "many shards":
        monkeypatch.setattr(sparsify, "EDGES_A_SHARD", 100)
    save_graph(model_graph, tmp_path / "whole")
    whole = load_graph(tmp_path / "whole", stream=stream)
    assert {type(block) for block in whole.blocks} == {StoredBlock if stream else Block}
    options, expected = RULES[rule]
    keep = expected(dense(model_graph))
    result = whole.sparsify(**options, folder=tmp_path / "part")
    check(model_graph, result, keep)
    n_shards = len(list((tmp_path / "part").glob("blocks-*")))
    assert n_shards > 3 if shards == "many shards" else n_shards == 1
    assert result[0].strengths is not None
    held, dropped = whole.sparsify(**options)
    assert dropped == result[1]
    for again in (load_graph(tmp_path / "part"), load_graph(tmp_path / "part", stream=True)):
        assert (again.nodes, again.level, again.weight) == (held.nodes, held.level, held.weight)
        assert again.model == held.model
        assert len(again.blocks) == len(held.blocks)
        for a, b in zip(again.blocks, held.blocks, strict=True):
            one, other = a.load(), b.load()
            assert (one.src, one.dst) == (other.src, other.dst)
            for name in ("values", "crow", "col"):
                assert torch.equal(getattr(one, name), getattr(other, name))
    check(model_graph, whole.sparsify(**options), keep)  # the graph that was read is still whole


@every_rule
@every_dtype
def test_a_graph_on_disk_keeps_its_type(rule: str, dtype: torch.dtype, tmp_path: Path) -> None:
    graph = layered(20, 3, dtype, lambda generator: torch.randn(20, 20, generator=generator, dtype=torch.float64))
    options, expected = RULES[rule]
    check(graph, graph.sparsify(**options, folder=tmp_path), expected(dense(graph)))


@every_rule
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_masked_graph_stays_masked(rule: str, where: str, model_graph: ModelGraph, tmp_path: Path) -> None:
    keep = torch.rand(model_graph.n_nodes, generator=torch.Generator().manual_seed(0)) < 0.8
    graph = model_graph.masked(keep)
    options, expected = RULES[rule]
    found, dropped = graph.sparsify(**options, folder=tmp_path if where == "folder" else None)
    check(graph, (found, dropped), expected(dense(graph)))
    assert found.present is not None
    assert torch.equal(found.present, keep)


@every_rule
def test_an_unweighted_graph_has_ties_alone(rule: str, model_graph: ModelGraph) -> None:
    graph = model_graph.unweighted()
    options, expected = RULES[rule]
    check(graph, graph.sparsify(**options), expected(dense(graph)))


@every_rule
def test_a_graph_from_outside_keeps_the_callers_order_and_labels(rule: str) -> None:
    matrix = graphs.random_dag(12, 0.5, seed=3)
    graph = ModelGraph.from_networkx(graphs.digraph(matrix))
    options, expected = RULES[rule]
    found, _ = graph.sparsify(**options)
    assert (found.order is graph.order, found.labels) == (True, graph.labels)
    assert np.array_equal(dense(found).edges, expected(dense(graph)))
    kept = found.to_scipy().toarray()
    assert np.array_equal(kept, np.where(kept != 0, matrix, 0))
    assert 0 < np.count_nonzero(kept) < np.count_nonzero(matrix)


# ------------------------------------------------------------------------------------------------- nothing to keep


@pytest.mark.parametrize("rule", [{"top_k": 1}, {"threshold": 0.5}, {"share": 0.5}])
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_without_edges_stays_as_it_is(rule: dict[str, Any], n: int, dtype: type) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(np.zeros((n, n)), dtype))
    found, dropped = graph.sparsify(**rule)
    assert (found.n_nodes, found.n_edges, found.dtype) == (n, 0, graph.dtype)
    assert (dropped.edges, dropped.edge_share, dropped.weight_share) == (0, 0.0, 0.0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_graph_that_loses_every_edge_keeps_its_nodes_and_its_type(
    stream: bool, where: str, model_graph: ModelGraph, tmp_path: Path
) -> None:
    save_graph(model_graph, tmp_path / "whole")
    graph = load_graph(tmp_path / "whole", stream=stream)
    folder = tmp_path / "part" if where == "folder" else None
    found, dropped = graph.sparsify(threshold=1e9, folder=folder)
    assert (found.n_nodes, found.n_edges) == (graph.n_nodes, 0)
    assert dropped == Dropped(graph.n_edges, 1.0, 1.0)
    assert found.dtype == graph.dtype
    assert found.out_strength.dtype == graph.dtype


# ---------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "exactly one"),
        ({"top_k": 3, "share": 0.5}, "exactly one"),
        ({"top_k": 3, "threshold": 0.0, "share": 0.5}, "exactly one"),
        ({"top_k": 0}, "at least 1, not 0"),
        ({"top_k": -2}, "at least 1, not -2"),
        ({"share": 0.0}, "not 0.0"),
        ({"share": -0.5}, "not -0.5"),
        ({"share": 1.5}, "not 1.5"),
        ({"share": float("nan")}, "not nan"),
        ({"threshold": -1.0}, "not -1.0"),
        ({"threshold": float("nan")}, "not nan"),
    ],
)
def test_rules_that_mean_nothing_are_refused_before_anything_is_written(
    rules: dict[str, Any], message: str, model_graph: ModelGraph, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model_graph.sparsify(**rules, folder=tmp_path / "part")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "part").exists()


def test_a_graph_from_outside_is_not_written(tmp_path: Path) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(5, 0.5, seed=0)))
    with pytest.raises(InputError, match="only graphs of models are stored") as caught:
        graph.sparsify(share=0.5, folder=tmp_path / "part")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "part").exists()


class BrokenError(Exception):
    """What the failing steps below fail with."""


def fail_while_adding(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    add = GraphWriter.add

    def fails(self: GraphWriter, blocks: Any) -> None:
        if len(self.shards) == 3:
            raise BrokenError
        add(self, blocks)

    monkeypatch.setattr(GraphWriter, "add", fails)
    return BrokenError


def fail_while_selecting(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    select = Block.selected
    seen: list[Block] = []

    def fails(block: Block, keep: torch.Tensor) -> Block:
        seen.append(block)
        if len(seen) == 9:
            raise BrokenError
        return select(block, keep)

    monkeypatch.setattr(Block, "selected", fails)
    return BrokenError


def fail_while_writing(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    written: list[Path] = []

    def fails(path: Path, tensors: Any) -> None:
        written.append(path)
        write_temporary(path, tensors)
        if len(written) == 3:
            raise GraphpruneError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("graphprune.core.graph_store.write_temporary", fails)
    return GraphpruneError


def fail_at_the_manifest(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def fails(*_: object) -> None:
        raise BrokenError

    monkeypatch.setattr("graphprune.core.graph_store.write_json", fails)
    return BrokenError


@pytest.mark.parametrize("fail", [fail_while_adding, fail_while_selecting, fail_while_writing, fail_at_the_manifest])
@pytest.mark.parametrize("before", ["nothing", "a graph"])
def test_a_failure_leaves_what_was_there(
    fail: Callable[[pytest.MonkeyPatch], type[Exception]],
    before: str,
    model_graph: ModelGraph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if before == "a graph":
        save_graph(export(decoder("llama", seed=1)), tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(sparsify, "EDGES_A_SHARD", 100)
    with monkeypatch.context() as patch, pytest.raises(fail(patch)):
        model_graph.sparsify(threshold=0.3, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    found, _ = model_graph.sparsify(threshold=0.3, folder=tmp_path)  # what failed does not stand in the way
    assert found.n_edges == int((dense(model_graph).strength >= np.float32(0.3)).sum())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_graph_may_take_the_place_of_the_one_it_is_made_of(
    stream: bool, masked: bool, model_graph: ModelGraph, tmp_path: Path
) -> None:
    save_graph(model_graph, tmp_path)
    keep = torch.rand(model_graph.n_nodes, generator=torch.Generator().manual_seed(0)) < (0.8 if masked else 2)
    expected = model_graph.masked(keep)
    with unchecked():  # the checker counts the edges of every block, which then need not be counted any more
        graph = load_graph(tmp_path, stream=stream).masked(keep)
        result = graph.sparsify(share=0.5, folder=tmp_path)
    assert any(isinstance(block, MaskedBlock) for block in graph.blocks) == masked
    check(expected, result, holding(dense(expected), 0.5))
    assert (load_graph(tmp_path).to_scipy() != expected.sparsify(share=0.5)[0].to_scipy()).nnz == 0
    assert len(list(tmp_path.iterdir())) == 3  # a shard, the strengths, the manifest

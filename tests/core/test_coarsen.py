"""Quotients against the dense formula, sparsified graphs against brute force."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.core.coarsen import Quotient
from graphprune.core.errors import InputError
from graphprune.core.graph import Block, ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from tests.families import MODEL_TYPES, decoder, perceptron
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

families = pytest.mark.parametrize("model_type", MODEL_TYPES)

# Which unit and which module each channel belongs to, written down independently of the package.
UNIT = {"query": ("head", 8), "key": ("kv_head", 8), "value": ("kv_head", 8), "pattern": ("head", 1),
        "attn": ("head", 8), "gate": ("neuron", 1), "up": ("neuron", 1), "neuron": ("neuron", 1),
        "resid": ("resid", 1)}  # fmt: skip
MODULE = {"head": "attn", "kv_head": "attn", "neuron": "mlp", "resid": "resid"}


def name_at(level: str, kind: str, layer: int, position: int) -> tuple[str, int, int]:
    unit, width = UNIT[kind]
    if level == "unit":
        return unit, layer, position // width
    return MODULE[unit], layer, 0


@families
@pytest.mark.parametrize("level", ["unit", "block"])
@pytest.mark.parametrize("weight", ["magnitude", "signed"])
def test_a_quotient_is_the_dense_formula(model_type: str, level: Any, weight: Any) -> None:
    fine = export(decoder(model_type), weight=weight)
    coarse = fine.quotient(level)
    number = {coarse.nodes.locate(i): i for i in range(coarse.n_nodes)}
    image = np.array([number[name_at(level, *fine.nodes.locate(i))] for i in range(fine.n_nodes)])
    expected = graphs.quotient(fine.to_scipy().toarray().astype(np.float64), image, coarse.n_nodes)
    found = coarse.to_scipy().toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.tril(found).any()
    assert set(image) == set(range(coarse.n_nodes))
    assert (coarse.level, coarse.weight, coarse.model) == (level, "magnitude", fine.model)  # a norm has no sign


@families
@pytest.mark.parametrize("level", ["unit", "block"])
def test_exporting_at_a_level_is_the_quotient_of_the_channel_graph(model_type: str, level: Any) -> None:
    model = decoder(model_type)
    direct, quotient = export(model, level=level), export(model).quotient(level)
    assert direct.nodes == quotient.nodes
    np.testing.assert_allclose(direct.to_scipy().toarray(), quotient.to_scipy().toarray(), rtol=1e-6)


@families
def test_the_quotient_of_a_quotient_is_the_quotient(model_type: str) -> None:
    fine = export(decoder(model_type))
    direct, stepwise = fine.quotient("block"), fine.quotient("unit").quotient("block")
    assert [s.name for s in direct.nodes.spans] == [s.name for s in stepwise.nodes.spans]
    np.testing.assert_allclose(stepwise.to_scipy().toarray(), direct.to_scipy().toarray(), rtol=1e-5)


def test_the_norm_is_an_option() -> None:
    fine = export(decoder("llama"))
    heads = fine.to_scipy().toarray()[slice(*fine.nodes.range("attn", 0)), slice(*fine.nodes.range("resid", 1))]
    for norm in (1, 2, 3):
        coarse = fine.quotient("unit", norm=norm)
        found = coarse.to_scipy().toarray()
        found = found[slice(*coarse.nodes.range("head", 0)), slice(*coarse.nodes.range("resid", 1))]
        expected = (np.abs(heads).reshape(4, 8, 16) ** norm).sum(axis=1) ** (1 / norm)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_perceptron_has_layers_for_modules() -> None:
    fine = export(perceptron((6, 10, 8, 4)))
    coarse = fine.quotient("block")
    assert [span.name for span in coarse.nodes.spans] == ["input.0", "neuron.0", "neuron.1", "output.2"]
    dense = fine.to_scipy().toarray()
    bounds = (0, 6, 16, 24, 28)
    for i in range(3):
        part = dense[bounds[i] : bounds[i + 1], bounds[i + 1] : bounds[i + 2]]
        assert coarse.to_scipy()[i, i + 1] == pytest.approx(float(np.linalg.norm(part)), rel=1e-6)
    assert coarse.n_edges == 3


def test_finer_levels_and_outside_graphs_are_refused() -> None:
    fine = export(decoder("llama"))
    assert fine.quotient("channel") is fine
    with pytest.raises(InputError, match="a unit graph has no channel level"):
        fine.quotient("unit").quotient("channel")
    with unchecked(), pytest.raises(InputError, match="no atom level"):
        fine.quotient("atom")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="from outside has no levels"):
        ModelGraph.from_scipy(graphs.csr(graphs.random_dag(5, 0.5, seed=0))).quotient("unit")
    with pytest.raises(InputError, match="from outside has no levels"):
        Quotient(NodeIndex((Span("node", 0, 3),)), "unit")


def small_graph(entries: Sequence[float], dtype: torch.dtype = torch.float64) -> ModelGraph:
    """Three layers of 3, 2 and 3 nodes, all later ones reached, in blocks that share destinations; zeros are edges."""
    first, second, third = (torch.tensor(part, dtype=dtype) for part in (entries[:6], entries[6:15], entries[15:]))
    nodes = NodeIndex((Span("node", 0, 3), Span("node", 1, 2), Span("node", 2, 3)))
    return ModelGraph(
        nodes,
        (
            Block.full((0, 3), (3, 5), first.view(2, 3)),
            Block.full((0, 3), (5, 8), second.view(3, 3)),
            Block.full((3, 5), (5, 8), third.view(3, 2)),
        ),
    )


def edges_of(graph: ModelGraph) -> dict[tuple[int, int], float]:
    return {
        (c + b.src[0], r + b.dst[0]): v
        for b in graph.blocks
        for r, c, v in zip(b.rows().tolist(), b.col.tolist(), b.values.tolist(), strict=True)
    }


weights = st.lists(st.integers(-4, 4), min_size=21, max_size=21)
close_weights = st.lists(  # some of them so close that their leading bits agree
    st.sampled_from([0.0, 1.0, -1.0, 3.0, 1.001, 1.002, -1.003, 1.004]), min_size=21, max_size=21
)


@settings(max_examples=20)
@given(weights, st.integers(1, 6), st.booleans())
def test_top_k_keeps_each_nodes_strongest_incoming_edges_ties_by_source(
    entries: list[int], k: int, without_zeros: bool
) -> None:
    graph = small_graph(entries)
    if without_zeros:
        graph = graph.sparsify(threshold=1.0)[0]
    every = edges_of(graph)
    expected: dict[tuple[int, int], float] = {}
    for node in range(8):
        incoming = sorted((-abs(w), a) for (a, b), w in every.items() if b == node)[:k]
        expected |= {(a, node): every[a, node] for _, a in incoming}
    found, dropped = graph.sparsify(top_k=k)
    assert edges_of(found) == expected
    check_dropped(graph, found, dropped)


@given(weights, st.floats(0, 5))
def test_a_threshold_keeps_edges_at_or_above_it(entries: list[int], threshold: float) -> None:
    graph = small_graph(entries)
    found, dropped = graph.sparsify(threshold=threshold)
    assert edges_of(found) == {edge: w for edge, w in edges_of(graph).items() if abs(w) >= threshold}
    check_dropped(graph, found, dropped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=20)
@given(entries=close_weights, share=st.floats(0.01, 1))
def test_a_share_keeps_the_fewest_strongest_edges_that_hold_it(
    dtype: torch.dtype, entries: list[float], share: float
) -> None:
    graph = small_graph(entries, dtype)
    every = edges_of(graph)
    total = sum(map(abs, every.values()))
    found, dropped = graph.sparsify(share=share)
    kept = edges_of(found)
    check_dropped(graph, found, dropped)
    held = sum(map(abs, kept.values()))
    assert held >= share * total * (1 - 1e-9)
    if total == 0:
        assert not kept  # no edge is needed to hold a share of nothing
        return
    weakest = min(map(abs, kept.values()))
    assert kept == {edge: w for edge, w in every.items() if abs(w) >= weakest}  # ties stay together
    without_weakest = sum(abs(w) for w in kept.values() if abs(w) > weakest)
    assert without_weakest < share * total or (share == 1 and without_weakest == total)


def check_dropped(graph: ModelGraph, found: ModelGraph, dropped: Any) -> None:
    every, kept = edges_of(graph), edges_of(found)
    assert dropped.edges == len(every) - len(kept)
    assert dropped.edge_share == pytest.approx(dropped.edges / max(len(every), 1))
    total = sum(map(abs, every.values()))
    lost = sum(abs(w) for edge, w in every.items() if edge not in kept)
    assert dropped.weight_share == pytest.approx(lost / total if total else 0.0, abs=1e-9)
    assert (found.n_nodes, found.dtype) == (graph.n_nodes, graph.dtype)
    dense = graph.to_scipy().toarray()
    expected = np.zeros_like(dense)
    for a, b in kept:
        expected[a, b] = dense[a, b]
    assert np.array_equal(found.to_scipy().toarray(), expected)
    torch.testing.assert_close(
        found.out_strength.double(),
        torch.from_numpy(expected).double().sum(dim=1),
        rtol=1e-6,
        atol=1e-5 if graph.dtype == torch.float32 else 1e-12,  # weights of both signs cancel
    )


@pytest.mark.parametrize("rule", [{"top_k": 1}, {"threshold": 0.5}, {"share": 0.5}])
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_without_edges_stays_as_it_is(rule: dict[str, Any], n: int, dtype: type) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(np.zeros((n, n)), dtype))
    found, dropped = graph.sparsify(**rule)
    assert (found.n_nodes, found.n_edges, found.dtype) == (n, 0, graph.dtype)
    assert (dropped.edges, dropped.edge_share, dropped.weight_share) == (0, 0.0, 0.0)


def test_sparsifying_a_model_recomputes_its_strengths(tmp_path: Any) -> None:
    stored = export(decoder("llama"), folder=tmp_path)
    assert stored.strengths is not None
    found, dropped = stored.sparsify(share=0.5)
    assert 0 < found.n_edges < stored.n_edges
    assert dropped.weight_share == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(found.in_strength.double().sum(), stored.in_strength.double().sum() * (
        1 - dropped.weight_share
    ), rtol=1e-5, atol=0.0)  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "exactly one"),
        ({"top_k": 3, "share": 0.5}, "exactly one"),
        ({"top_k": 0}, "at least 1, not 0"),
        ({"share": 0.0}, "not 0.0"),
        ({"share": 1.5}, "not 1.5"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_graph([1] * 21).sparsify(**rules)

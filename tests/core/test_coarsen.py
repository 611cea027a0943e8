"""Quotients against the dense formula."""

from typing import Any

import numpy as np
import pytest
import torch

from graphprune.core.block import Block
from graphprune.core.coarsen import Quotient
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from tests.core.test_block import sparse_block
from tests.families import MODEL_TYPES, UNGATED, decoder, perceptron
from tests.oracles import graph as graphs
from tests.unchecked import unchecked

families = pytest.mark.parametrize("model_type", MODEL_TYPES)

# Which unit and which module each channel belongs to, written down independently of the package.
UNIT = {"query": "head", "key": "kv_head", "value": "kv_head", "pattern": "head", "attn": "head", "gate": "neuron",
        "up": "neuron", "neuron": "neuron", "resid": "resid"}  # fmt: skip
MODULE = {"head": "attn", "kv_head": "attn", "neuron": "mlp", "resid": "resid"}


def name_at(level: str, kind: str, layer: int, position: int, d_head: int) -> tuple[str, int, int]:
    unit, width = UNIT[kind], d_head if kind in {"query", "key", "value", "attn"} else 1
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
    d_head = 4 if model_type in UNGATED else 8
    image = np.array([number[name_at(level, *fine.nodes.locate(i), d_head)] for i in range(fine.n_nodes)])
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


@pytest.mark.parametrize("first", [0, 1])
def test_blocks_that_are_full_and_blocks_that_are_not_may_fall_together(first: int) -> None:
    nodes = NodeIndex((Span("resid", 0, 3), Span("query", 0, 2), Span("key", 0, 2), Span("resid", 1, 3)))
    weights = torch.arange(1.0, 7.0).view(2, 3)
    blocks = [
        Block.full((0, 3), (3, 5), weights),
        sparse_block((0, 3), (5, 7), weights * torch.eye(2, 3)),
        sparse_block((0, 3), (7, 10), torch.eye(3)),
    ]
    fine = ModelGraph(nodes, tuple(blocks[first:] + blocks[:first]))
    coarse = fine.quotient("block")
    assert [span.name for span in coarse.nodes.spans] == ["resid.0", "attn.0", "resid.1"]
    image = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    expected = graphs.quotient(fine.to_scipy().toarray().astype(np.float64), image, 3)
    np.testing.assert_allclose(coarse.to_scipy().toarray(), expected, rtol=1e-6)
    assert coarse.n_edges == 2


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

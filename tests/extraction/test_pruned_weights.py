"""The graph of a model without many of its single weights: no edge for what is gone, and every measure still works."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, export, prune
from graphprune.centrality import centrality
from graphprune.core.block import Block
from graphprune.core.errors import InputError
from graphprune.core.graph import Level
from graphprune.core.graph_store import load_graph
from tests.families import decoder, token_ids


@pytest.fixture(scope="module")
def pruned() -> Any:
    return prune(decoder("llama"), "sparsegpt", 0.7, calibration=token_ids(8, 16))


def zeros(model: Model) -> int:
    return sum(int((model.parameters[name] == 0).sum()) for name in model.shapes if "_proj.weight" in name)


def test_a_removed_weight_is_no_edge(pruned: Any) -> None:
    graph = export(pruned.model)
    assert pruned.model.architecture.n_edges - graph.n_edges == zeros(pruned.model) > 0


@pytest.mark.parametrize("level", ["channel", "unit", "block"])
def test_the_graph_on_disk_is_the_one_in_memory(pruned: Any, tmp_path: Path, level: Level) -> None:
    stored, graph = export(pruned.model, folder=tmp_path, level=level), export(pruned.model, level=level)
    assert stored.n_edges == graph.n_edges == load_graph(tmp_path).n_edges
    for there, here in zip(stored.blocks, graph.blocks, strict=True):
        assert torch.equal(there.load().csr.to_dense(), here.load().csr.to_dense())


@pytest.mark.parametrize("name", ["pagerank", "katz", "path_mass", "in_strength", "out_strength"])
def test_sums_over_edges_are_those_of_the_matrix_with_its_zeros(pruned: Any, name: str) -> None:
    graph = export(pruned.model)
    full = [Block.full(block.src, block.dst, block.load().csr.to_dense()) for block in graph.blocks]
    with_zeros = replace(graph, blocks=tuple(full))
    assert with_zeros.n_edges > graph.n_edges
    torch.testing.assert_close(centrality(name)(graph).scores, centrality(name)(with_zeros).scores)


def test_pruning_changes_the_ranks(pruned: Any) -> None:
    before, after = (centrality("pagerank")(export(model)).scores for model in (decoder("llama"), pruned.model))
    assert not torch.allclose(before, after)


def test_a_mask_of_single_weights_says_what_to_do(pruned: Any) -> None:
    with pytest.raises(InputError, match="export the pruned checkpoint"):
        export(decoder("llama")).masked(pruned.mask)

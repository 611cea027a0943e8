"""Graphs on disk: the same as in memory, whole or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphprune.core import graph_store
from graphprune.core.block import Block
from graphprune.core.errors import FormatError, GraphpruneError, InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import GraphWriter, load_graph, save_graph
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from graphprune.models.model import Model
from tests.core.shards import shards, with_tensors
from tests.families import MODEL_TYPES, decoder, perceptron
from tests.oracles import graph as graphs


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "perceptron"])
@pytest.mark.parametrize("level", ["channel", "unit", "block"])
def test_what_is_saved_is_loaded(model_type: str, level: Any, tmp_path: Path) -> None:
    graph = export(perceptron() if model_type == "perceptron" else decoder(model_type), level=level, weight="signed")
    save_graph(graph, tmp_path, inputs="abc")
    found = load_graph(tmp_path)
    assert (found.nodes, found.level, found.weight) == (graph.nodes, graph.level, graph.weight)
    assert found.model == json.loads(json.dumps(graph.model))
    assert len(found.blocks) == len(graph.blocks)
    for a, b in zip(found.blocks, graph.blocks, strict=True):
        assert (a.src, a.dst) == (b.src, b.dst)
        for name in ("values", "crow", "col"):
            assert torch.equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype
    assert found.strengths is not None
    torch.testing.assert_close(found.strengths[0], graph.out_strength)
    torch.testing.assert_close(found.strengths[1], graph.in_strength)
    assert json.loads((tmp_path / "manifest.json").read_text())["inputs"] == "abc"


def test_full_blocks_are_stored_as_values_only_and_one_shard_a_decoder_block(tmp_path: Path) -> None:
    model = decoder("llama")
    export(model, folder=tmp_path)
    paths = shards(tmp_path)
    assert len(paths) == 2
    stored = load_file(paths[0])
    assert sum(name.endswith(".values") for name in stored) == 9
    assert sum(name.endswith(".col") for name in stored) == 5
    n_values = sum(t.numel() for path in paths for name, t in load_file(path).items() if name.endswith(".values"))
    assert n_values == model.architecture.n_edges


def test_a_loaded_graph_is_memory_mapped(tmp_path: Path) -> None:
    """Its values are the pages of the file: what is written into the file shows in the graph."""
    export(perceptron((6, 10, 4)), folder=tmp_path)
    block = load_graph(tmp_path, stream=False).blocks[0]
    assert isinstance(block, Block)
    before = block.values[0].item()
    shard = shards(tmp_path)[0]
    header = int.from_bytes(shard.read_bytes()[:8], "little")
    with shard.open("r+b") as file:
        file.seek(8 + header)
        file.write(torch.tensor([before + 1]).numpy().tobytes())
    assert block.values[0].item() == pytest.approx(before + 1)


def test_exporting_again_leaves_no_shards_of_the_old_graph(tmp_path: Path) -> None:
    export(decoder("llama"), folder=tmp_path)
    old = {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
    again = export(decoder("llama", num_hidden_layers=1), folder=tmp_path)
    new = {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
    assert not old & new
    assert len(new) == 2  # one shard and the strengths
    assert again.n_edges == decoder("llama", num_hidden_layers=1).architecture.n_edges


class BrokenError(Exception):
    """What the failing writer below fails with."""


def test_a_writer_that_fails_half_way_leaves_the_old_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("llama")
    expected = export(model, folder=tmp_path).to_scipy()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    add = GraphWriter.add

    def fails(self: GraphWriter, blocks: Any) -> None:
        if self.shards:
            raise BrokenError
        add(self, blocks)

    monkeypatch.setattr(GraphWriter, "add", fails)
    with pytest.raises(BrokenError):
        export(decoder("llama", seed=1), folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (load_graph(tmp_path).to_scipy() != expected).nnz == 0


def test_a_writer_that_dies_before_its_manifest_leaves_the_old_graph_and_is_swept_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder("llama")
    expected = export(model, folder=tmp_path).to_scipy()

    def dies(*_: object) -> None:
        raise BrokenError

    with monkeypatch.context() as patch:
        patch.setattr(graph_store, "write_json", dies)
        with pytest.raises(BrokenError):
            export(decoder("llama", seed=1), folder=tmp_path)
    assert (load_graph(tmp_path).to_scipy() != expected).nnz == 0
    assert (export(model, folder=tmp_path).to_scipy() != expected).nnz == 0
    assert len(list(tmp_path.iterdir())) == 4  # two shards, the strengths, the manifest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_is_stored_in_its_own_type(dtype: torch.dtype, tmp_path: Path) -> None:
    nodes = NodeIndex((Span("node", 0, 2), Span("node", 1, 3)))
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=dtype)
    graph = ModelGraph(nodes, (Block.full((0, 2), (2, 5), weights),))
    save_graph(graph, tmp_path)
    found = load_graph(tmp_path)
    assert found.dtype == found.out_strength.dtype == dtype
    assert torch.equal(found.blocks[0].load().matrix, weights)
    torch.testing.assert_close(found.in_strength, torch.cat([torch.zeros(2, dtype=dtype), weights.sum(dim=1)]))


@pytest.mark.parametrize("how", ["views of one array", "views that overlap", "the same weights", "the same pattern"])
def test_blocks_that_share_memory_are_stored(how: str, tmp_path: Path) -> None:
    """A file has no room for that."""
    nodes = NodeIndex(tuple(Span("node", layer, 2) for layer in range(3)))
    weights = torch.arange(1.0, 9.0)
    first, second = {
        "views that overlap": (weights[:4], weights[2:6]),
        "the same weights": (weights[:4].clone(),) * 2,
    }.get(how, (weights[:4], weights[4:]))
    crow, col = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32)
    other_crow, other_col = (crow, col) if how == "the same pattern" else (crow.clone(), 1 - col)
    blocks = (
        Block.full((0, 2), (2, 4), first.view(2, 2)),
        Block.full((2, 4), (4, 6), second.view(2, 2)),
        Block((0, 2), (4, 6), torch.ones(2), crow, col),
        Block((0, 2), (4, 6), torch.ones(2), other_crow, other_col),
    )
    graph = ModelGraph(nodes, blocks)
    save_graph(graph, tmp_path)
    assert (load_graph(tmp_path).to_scipy() != graph.to_scipy()).nnz == 0


def test_a_mask_is_stored_with_its_graph(model: Model, tmp_path: Path) -> None:
    graph = export(model)
    save_graph(graph, tmp_path)
    assert load_graph(tmp_path).present is None
    keep = torch.arange(graph.n_nodes) % 4 != 0
    save_graph(graph.masked(keep), tmp_path)
    found = load_graph(tmp_path)
    assert found.present is not None
    assert torch.equal(found.present, keep)
    assert found.n_edges == graph.masked(keep).n_edges < graph.n_edges
    assert (found.to_scipy() != graph.masked(keep).to_scipy()).nnz == 0
    assert not found.out_strength[~keep].any()


def test_an_unweighted_graph_is_stored_with_its_ones(model: Model, tmp_path: Path) -> None:
    graph = export(model, weight="signed").unweighted()
    save_graph(graph, tmp_path)
    found = load_graph(tmp_path)
    assert found.weight == "magnitude"
    assert (found.to_scipy() != graph.to_scipy()).nnz == 0
    assert torch.equal(found.out_strength, graph.out_strength)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def drop_a_tensor(folder: Path) -> None:
    with_tensors(lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]})(shards(folder)[0])


def shorten_a_tensor(folder: Path) -> None:
    first = "000000.values"
    with_tensors(lambda tensors: tensors | {first: tensors[first][:-1].clone()})(shards(folder)[0])


def poison_the_strengths(folder: Path) -> None:
    (path,) = folder.glob("strengths-*")
    with_tensors(lambda tensors: tensors | {"out": tensors["out"].index_fill(0, torch.tensor([0]), torch.nan)})(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated shard": lambda folder: shards(folder)[0].write_bytes(shards(folder)[0].read_bytes()[:-100]),
    "overwritten shard": lambda folder: shards(folder)[0].write_bytes(b"no graph"),
    "missing shard": lambda folder: shards(folder)[0].unlink(),
    "missing strengths": lambda folder: next(folder.glob("strengths-*")).unlink(),
    "tensor missing from a shard": drop_a_tensor,
    "tensor too short": shorten_a_tensor,
    "a weight that is NaN": poison_the_strengths,
    "manifest cut off": lambda folder: (folder / "manifest.json").write_text('{"format": "graphprune.graph", '),
    "manifest of something else": edit(lambda m: m.update(format="graphprune.run")),
    "newer version": edit(lambda m: m.update(version=2)),
    "version that is no number": edit(lambda m: m.update(version="one")),
    "unknown level": edit(lambda m: m.update(level="atom")),
    "unknown weight": edit(lambda m: m.update(weight="length")),
    "no blocks": edit(lambda m: m.pop("blocks")),
    "no count of edges": edit(lambda m: m.pop("n_edges")),
    "another count of edges": edit(lambda m: m.update(n_edges=7)),
    "another count of nodes": edit(lambda m: m.update(n_nodes=7)),
    "a block that leads backwards": edit(lambda m: m["blocks"][0].update(dst=[0, 16])),
    "a block beyond the nodes": edit(lambda m: m["blocks"][-1].update(dst=[10**6, 10**6 + 16])),
    "a shard that isn't listed": edit(lambda m: m["blocks"][-1].update(shard=9)),
    "nodes that are no spans": edit(lambda m: m.update(nodes=[["resid"]])),
    "a span twice": edit(lambda m: m["nodes"].append(m["nodes"][0])),
}


@pytest.mark.parametrize("which", DAMAGE)
@pytest.mark.parametrize("stream", [False, True, None])
def test_damage_is_refused_with_the_place(which: str, stream: bool | None, folder: Path) -> None:
    DAMAGE[which](folder)
    with pytest.raises(FormatError, match=str(folder)):
        load_graph(folder, stream=stream)


def test_a_newer_version_says_what_is_read(folder: Path) -> None:
    DAMAGE["newer version"](folder)
    with pytest.raises(FormatError, match=r"manifest.json has format version 2; this program reads up to 1"):
        load_graph(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    path = shards(folder)[0]
    path.unlink()
    with pytest.raises(FormatError, match=f"is incomplete: .*{path.name} is not there"):
        load_graph(folder)


def test_a_folder_without_a_graph_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} holds no graph; make one with `graphprune export`"):
        load_graph(tmp_path)


def test_a_graph_from_outside_is_not_stored(tmp_path: Path) -> None:
    graph = ModelGraph.from_scipy(graphs.csr(graphs.random_dag(5, 0.5, seed=0)))
    with pytest.raises(GraphpruneError, match="graphs of models"):
        save_graph(graph, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()

"""Graphs that are read from disk block by block: the same answers, little memory, and damage that comes later."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graphprune.centrality import CENTRALITIES
from graphprune.core import graph_store
from graphprune.core.block import Block, MaskedBlock, StoredBlock, UnweightedBlock
from graphprune.core.errors import FormatError, GraphpruneError, InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import GraphWriter, load_graph, save_graph
from graphprune.core.mask import Mask
from graphprune.core.nodes import NodeIndex, Span
from graphprune.extraction.export import export
from graphprune.models.model import Model
from tests.core.shards import shards, with_tensors
from tests.core.test_block import sparse_block
from tests.families import MODEL_TYPES, decoder, perceptron
from tests.unchecked import unchecked

PARTS = ("values", "crow", "col")


def assert_same_edges(found: ModelGraph, expected: ModelGraph) -> None:
    assert (found.nodes, found.level, found.weight) == (expected.nodes, expected.level, expected.weight)
    assert json.dumps(found.model, sort_keys=True) == json.dumps(expected.model, sort_keys=True)
    assert (found.n_edges, found.dtype, found.device) == (expected.n_edges, expected.dtype, expected.device)
    assert len(found.blocks) == len(expected.blocks)
    for held, other in zip(found.blocks, expected.blocks, strict=True):
        assert (held.src, held.dst, held.shape, held.n_edges) == (other.src, other.dst, other.shape, other.n_edges)
        one, two = held.load(), other.load()
        for name in PARTS:
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert getattr(one, name).dtype == getattr(two, name).dtype


# ---------------------------------------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "perceptron"])
@pytest.mark.parametrize("level", ["channel", "unit", "block"])
def test_a_streamed_graph_has_the_edges_of_the_mapped_one(model_type: str, level: Any, tmp_path: Path) -> None:
    model = perceptron() if model_type == "perceptron" else decoder(model_type)
    held = export(model, level=level, weight="signed")
    export(model, level=level, weight="signed", folder=tmp_path)
    streamed, mapped = load_graph(tmp_path, stream=True), load_graph(tmp_path, stream=False)
    assert {type(block) for block in streamed.blocks} == {StoredBlock}
    assert {type(block) for block in mapped.blocks} == {Block}
    for graph in (streamed, mapped):
        assert_same_edges(graph, held)
        torch.testing.assert_close(graph.out_strength, held.out_strength)
        torch.testing.assert_close(graph.in_strength, held.in_strength)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_every_kind_and_type_are_streamed(dtype: torch.dtype, tmp_path: Path) -> None:
    """Full, sparse, empty, of no rows; also full but for one edge, and many of them, so that their order shows."""
    generator = torch.Generator().manual_seed(0)
    nodes = NodeIndex((Span("node", 0, 3), Span("node", 1, 0), Span("node", 2, 4), Span("node", 3, 2)))
    weights = torch.randn(4, 3, generator=generator, dtype=dtype)
    but_one = torch.ones(4, 3, dtype=torch.bool)
    but_one[2, 1] = False
    blocks = [
        Block.full((0, 3), (3, 7), weights),
        sparse_block((0, 3), (3, 7), weights, but_one),
        sparse_block((0, 3), (3, 7), weights, torch.zeros(4, 3, dtype=torch.bool)),
        Block.full((0, 3), (3, 3), weights[:0]),
        *(Block.full((i % 3, i % 3 + 1), (7, 9), torch.full((2, 1), float(i), dtype=dtype)) for i in range(20)),
    ]
    graph = ModelGraph(nodes, tuple(blocks), model={"name": "made up"})
    save_graph(graph, tmp_path)
    streamed = load_graph(tmp_path, stream=True)
    assert_same_edges(streamed, graph)
    assert streamed.dtype == dtype
    torch.testing.assert_close(streamed.out_strength, graph.out_strength)


RANKINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("in_degree", {}),
    ("out_strength", {}),
    ("katz", {"alpha": 0.1}),
    ("closeness", {"distance": "inverse"}),
)


@pytest.mark.parametrize(("name", "options"), RANKINGS)
def test_a_streamed_graph_is_ranked_as_the_mapped_one(name: str, options: dict[str, Any], folder: Path) -> None:
    one, other = (CENTRALITIES[name](load_graph(folder, stream=stream), **options).scores for stream in (True, False))
    assert torch.equal(one, other)
    assert len(set(one.tolist())) > 1


CHANGES: dict[str, Callable[[ModelGraph], ModelGraph]] = {
    "masked by nodes": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0),
    "masked by units": lambda graph: graph.masked(Mask({"neuron.1": torch.arange(24) < 7})),
    "masked twice": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0).masked(
        torch.arange(graph.n_nodes) % 5 != 0
    ),
    "unweighted": lambda graph: graph.unweighted(),
    "masked and unweighted": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0).unweighted(),
    "unweighted and masked": lambda graph: graph.unweighted().masked(torch.arange(graph.n_nodes) % 3 != 0),
    "sparsified": lambda graph: graph.sparsify(share=0.5)[0],
    "masked and sparsified": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0).sparsify(top_k=2)[0],
    "units": lambda graph: graph.quotient("unit"),
    "modules": lambda graph: graph.quotient("block"),
    "units of a masked graph": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0).quotient("unit"),
    "moved": lambda graph: graph.to("cpu"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_made_of_a_streamed_graph_is_what_is_made_of_the_one_in_memory(change: str, folder: Path) -> None:
    streamed, mapped = (CHANGES[change](load_graph(folder, stream=stream)) for stream in (True, False))
    assert_same_edges(streamed, mapped)
    torch.testing.assert_close(streamed.out_strength, mapped.out_strength)
    torch.testing.assert_close(streamed.in_strength, mapped.in_strength)
    assert (streamed.present is None) == (mapped.present is None)
    assert torch.equal(streamed.indicator(), mapped.indicator())
    assert (streamed.to_scipy() != mapped.to_scipy()).nnz == 0
    assert streamed.n_edges > 0


def test_views_of_a_streamed_graph_are_streamed(folder: Path) -> None:
    graph = load_graph(folder, stream=True)
    keep = torch.arange(graph.n_nodes) % 3 != 0
    for view, kind in ((graph.masked(keep), MaskedBlock), (graph.unweighted(), UnweightedBlock)):
        for block, original in zip(view.blocks, graph.blocks, strict=True):
            assert isinstance(block, MaskedBlock | UnweightedBlock)
            assert type(block) is kind
            assert block.whole is original
    assert all(isinstance(block, StoredBlock) for block in graph.to("cpu").blocks)


@pytest.mark.parametrize("stream", [True, False])
def test_a_masked_graph_is_saved_and_loaded_with_what_is_left(stream: bool, folder: Path, tmp_path: Path) -> None:
    graph = load_graph(folder, stream=stream).masked(torch.arange(424) % 3 != 0)
    save_graph(graph, tmp_path / "left")
    for again in (load_graph(tmp_path / "left", stream=True), load_graph(tmp_path / "left", stream=False)):
        assert_same_edges(again, graph)
        assert again.present is not None
        assert graph.present is not None
        assert torch.equal(again.present, graph.present)
        torch.testing.assert_close(again.in_strength, graph.in_strength)


# ------------------------------------------------------------------------------------------------------- when, and how


def test_a_graph_is_streamed_by_default_if_it_is_larger_than_a_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds(*, stream: bool | None = None) -> set[type]:
        return {type(block) for block in load_graph(folder, stream=stream).blocks}

    size = sum(path.stat().st_size for path in shards(folder))
    assert size < graph_store.STREAM_ABOVE
    assert kinds() == {Block}
    monkeypatch.setattr(graph_store, "STREAM_ABOVE", size)
    assert kinds() == {Block}
    monkeypatch.setattr(graph_store, "STREAM_ABOVE", size - 1)
    assert kinds() == {StoredBlock}
    assert kinds(stream=False) == {Block}
    monkeypatch.setattr(graph_store, "STREAM_ABOVE", 1 << 40)
    assert kinds(stream=True) == {StoredBlock}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system doesn't say what is mapped")
def test_a_streamed_graph_holds_no_file_between_uses(folder: Path) -> None:
    def mapped() -> set[str]:
        return {name for name in Path("/proc/self/maps").read_text().split() if name.startswith(str(folder / "blocks"))}

    graph = load_graph(folder, stream=True)
    assert mapped() == set()
    block = graph.blocks[0].load()
    assert mapped() == {str(shards(folder)[0])}
    del block
    assert mapped() == set()
    graph.to_scipy()
    CENTRALITIES["katz"](graph, alpha=0.1)
    graph.quotient("unit")
    assert mapped() == set()
    whole = load_graph(folder, stream=False)
    assert mapped() == {str(path) for path in shards(folder)}
    del whole
    assert mapped() == set()


def test_loading_a_streamed_graph_reads_no_edge(folder: Path) -> None:
    """What it knows of them stands in the headers: after them there may be anything, until they are used."""
    strengths = load_graph(folder).out_strength.clone()
    for path in shards(folder):
        size = int.from_bytes(path.read_bytes()[:8], "little")
        data = path.read_bytes()
        path.write_bytes(data[: 8 + size] + b"\xff" * (len(data) - 8 - size))
    graph = load_graph(folder, stream=True)
    assert torch.equal(graph.out_strength, strengths)
    assert bool(graph.blocks[0].load().values.isnan().all())


# --------------------------------------------------------------------------------------------- damage while in use

USES: dict[str, Callable[[ModelGraph], object]] = {
    "ranking": lambda graph: CENTRALITIES["katz"](graph, alpha=0.1),
    "one matrix": lambda graph: graph.to_scipy(),
    "quotient": lambda graph: graph.quotient("unit"),
    "sparsify": lambda graph: graph.sparsify(share=0.5),
    "masked strengths": lambda graph: graph.masked(torch.arange(graph.n_nodes) % 3 != 0).in_strength,
    "unweighted strengths": lambda graph: graph.unweighted().out_strength,
}


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"no graph")


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_another_graph(path: Path) -> None:
    other = path.parent / "other"
    export(decoder("llama", hidden_size=8, head_dim=4), folder=other)
    shards(other)[1].replace(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], type[GraphpruneError], str]] = {
    "truncated": (truncate, FormatError, "is truncated, corrupt or no safetensors file"),
    "empty": (empty, FormatError, "is truncated, corrupt or no safetensors file"),
    "overwritten": (overwrite, FormatError, "is truncated, corrupt or no safetensors file"),
    "a folder": (put_a_folder_there, FormatError, ""),
    "removed": (lambda path: path.unlink(), InputError, "is not there"),
    "another graph's": (replace_by_another_graph, FormatError, "has changed while its graph was in use"),
    "of another type": (
        with_tensors(lambda tensors: {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}),
        FormatError,
        "has changed while its graph was in use",
    ),
    "without its values": (
        with_tensors(lambda tensors: {k: v for k, v in tensors.items() if not k.endswith("values")}),
        FormatError,
        "truncated or corrupt",
    ),
    "without its row pointers": (
        with_tensors(lambda tensors: {k: v for k, v in tensors.items() if not k.endswith("crow")}),
        FormatError,
        "truncated or corrupt",
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_changes_while_its_graph_is_in_use_is_named_in_one_sentence(
    damage: str, use: str, folder: Path
) -> None:
    graph = load_graph(folder, stream=True)
    change, error, message = DAMAGE[damage]
    path = shards(folder)[1]
    with unchecked():  # the checker reads files too, and would find the damage first
        USES[use](graph)
        change(path)
        with pytest.raises(error) as caught:
            USES[use](graph)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_blocks_in_the_other_files_can_still_be_read(folder: Path) -> None:
    graph, before = load_graph(folder, stream=True), load_graph(folder, stream=False)
    shards(folder)[1].unlink()
    n_read = 0
    for block, expected in zip(graph.blocks, before.blocks, strict=True):
        assert isinstance(block, StoredBlock)
        if block.path == shards(folder)[0]:
            assert torch.equal(block.load().values, expected.load().values)
            n_read += 1
    assert n_read == 9


def test_a_graph_that_was_exported_anew_leaves_the_old_one_without_its_files(folder: Path, model: Model) -> None:
    graph = load_graph(folder, stream=True)
    export(model, folder=folder)
    with pytest.raises(InputError, match="is not there"):
        graph.to_scipy()


INDICES: dict[str, Callable[[torch.Tensor, torch.Tensor, str], dict[str, torch.Tensor]]] = {
    "too few row pointers": lambda crow, _, key: {f"{key}.crow": crow[:-1].clone()},
    "too many row pointers": lambda crow, _, key: {f"{key}.crow": crow.repeat(2)},
    "row pointers that end beyond the edges": lambda crow, _, key: {f"{key}.crow": crow + torch.eye(5)[4].int() * 999},
    "row pointers that start after the first edge": lambda crow, _, key: {f"{key}.crow": crow.clamp(min=1)},
    "too few columns": lambda _, col, key: {f"{key}.col": col[:-1].clone()},
}
"""Damage to the first block of a llama's graph that isn't full: query and key to pattern, 4 x 48 with 64 edges."""


def read(graph: ModelGraph) -> None:
    for block in graph.blocks:
        block.load()


@pytest.mark.parametrize("when", ["mapped", "streamed", "streamed, while in use"])
@pytest.mark.parametrize("which", INDICES)
def test_index_arrays_that_do_not_fit_are_refused(which: str, when: str, folder: Path) -> None:
    """Else a product reads beyond them, and gives numbers from nowhere or ends the process."""
    before = load_graph(folder, stream=True)
    path = shards(folder)[0]
    key = min(name for name in load_file(path) if name.endswith(".crow")).removesuffix(".crow")
    with_tensors(lambda tensors: tensors | INDICES[which](tensors[f"{key}.crow"], tensors[f"{key}.col"], key))(path)
    with unchecked(), pytest.raises(FormatError, match=str(folder)) as caught:
        read(before if "in use" in when else load_graph(folder, stream=when == "streamed"))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- memory

WIDTH, DEPTH = 2048, 18  # blocks of 16 MiB
N_BYTES = 4 * WIDTH * WIDTH * DEPTH
RANK = """
import sys
from pathlib import Path

import torch
from graphprune.centrality import CENTRALITIES
from graphprune.core.graph_store import load_graph

torch.set_num_threads(1)


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


katz = CENTRALITIES["katz"]
before = peak()
graph = load_graph(Path(sys.argv[1]), stream=sys.argv[2] == "stream")
scores = katz(graph, alpha=1e-4).scores
print(peak() - before, len(graph.blocks), graph.n_edges, repr(float(scores.double().sum())))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system doesn't say how much memory was used")
def test_ranking_a_streamed_graph_takes_the_memory_of_a_few_blocks(tmp_path: Path) -> None:
    nodes = NodeIndex(tuple(Span("node", layer, WIDTH) for layer in range(DEPTH + 1)))
    generator = torch.Generator().manual_seed(0)
    writer = GraphWriter(tmp_path / "graph", nodes)
    runs = [nodes.range("node", layer) for layer in range(DEPTH + 1)]
    weights = torch.rand(WIDTH, WIDTH, generator=generator)
    for layer in range(DEPTH):
        writer.add([Block.full(runs[layer], runs[layer + 1], weights + layer)])
    writer.finish(level="channel", weight="magnitude", model={}, inputs="", n_edges=DEPTH * WIDTH**2)
    assert sum(path.stat().st_size for path in shards(tmp_path / "graph")) > N_BYTES > 300e6

    growth, answers = {}, {}
    try:
        for how in ("stream", "map"):
            ran = subprocess.run(
                [sys.executable, "-c", RANK, str(tmp_path / "graph"), how], capture_output=True, text=True, check=True
            )
            grown, *answers[how] = ran.stdout.split()
            growth[how] = int(grown)
    finally:
        for path in (tmp_path / "graph").iterdir():
            path.unlink()
    assert answers["stream"] == answers["map"]
    assert answers["map"][:2] == [str(DEPTH), str(DEPTH * WIDTH**2)]
    assert np.isfinite(float(answers["map"][2]))
    assert growth["map"] > 250e6  # measured: 330e6, the whole graph
    assert growth["stream"] < 100e6  # measured: 45e6, two blocks and the libraries that ranking loads

"""A graph on disk: one memory-mappable safetensors file a shard, and a manifest that makes them a graph.

The manifest is written last and names its shards by an identity of their own, so a folder always holds either the old
graph or the new one. Blocks that store every edge keep their values only: the index arrays follow from the shape.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprune.core.block import Block, EdgeBlock, StoredBlock, check_pointers, misfit
from graphprune.core.errors import FormatError, InputError
from graphprune.core.graph import LEVELS, WEIGHTS, Level, ModelGraph, Weight
from graphprune.core.io import (
    load_tensors,
    opened_tensors,
    read_json,
    save_tensors,
    settle,
    temporary_path,
    write_json,
    write_temporary,
)
from graphprune.core.nodes import NodeIndex

FORMAT = "graphprune.graph"
VERSION = 1
STREAM_ABOVE = 1 << 30


@dataclass
class GraphWriter:
    """Writes a graph shard by shard, so that no more than two shards are ever in memory: one made, one written.

    Node strengths are accumulated on the way and stored with the graph, so that a ranking costs one sweep.
    """

    folder: Path
    nodes: NodeIndex
    dtype: torch.dtype = torch.float32
    present: torch.Tensor | None = None
    identity: str = field(default_factory=lambda: secrets.token_hex(4))
    rows: list[dict[str, Any]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out_strength = torch.zeros(self.nodes.n_nodes, dtype=self.dtype)
        self.in_strength = torch.zeros(self.nodes.n_nodes, dtype=self.dtype)
        self._disk = ThreadPoolExecutor(max_workers=1)
        self._written: Future[None] | None = None

    def add_all(self, shards: Iterable[Iterable[EdgeBlock]]) -> None:
        """Writes one shard after the other; what is written is removed again if one fails."""
        try:
            for shard in shards:
                self.add(shard)
        except BaseException:
            self.abandon()
            raise

    def add(self, blocks: Iterable[EdgeBlock]) -> None:
        """Writes one shard."""
        shard = f"blocks-{self.identity}-{len(self.shards):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for edges in blocks:
            block = edges.load().to("cpu")
            key = f"{len(self.rows):06d}"
            parts = {"values": block.values} if block.is_full else {
                "values": block.values, "crow": block.crow, "col": block.col,
            }  # fmt: skip
            for part, tensor in parts.items():
                tensors[f"{key}.{part}"] = _owned(tensor, tensors.values())
            self.rows.append({"key": key, "src": block.src, "dst": block.dst, "shard": len(self.shards)})
            self.out_strength[slice(*block.src)] += block.sent()
            self.in_strength[slice(*block.dst)] += block.received()
        self._wait()
        self._written = self._disk.submit(write_temporary, temporary_path(self.folder / shard), tensors)
        self.shards.append(shard)

    def _wait(self) -> None:
        """Waits for the shard that is being written, and raises what kept it from being written."""
        if self._written is not None:
            self._written.result()

    def finish(self, *, level: Level, weight: Weight, model: Mapping[str, Any], inputs: str, n_edges: int) -> None:
        """Makes the shards the folder's graph and removes those of the graph that was there before."""
        try:
            self._wait()
            self._disk.shutdown()
            for shard in self.shards:
                settle(temporary_path(self.folder / shard), self.folder / shard)
            strengths = f"strengths-{self.identity}.safetensors"
            sums = {"out": self.out_strength, "in": self.in_strength}
            save_tensors(self.folder / strengths, sums if self.present is None else sums | {"present": self.present})
            write_json(
                self.folder / "manifest.json",
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "level": level,
                    "weight": weight,
                    "model": dict(model),
                    "inputs": inputs,
                    "n_nodes": self.nodes.n_nodes,
                    "n_edges": n_edges,
                    "nodes": self.nodes.to_json(),
                    "shards": self.shards,
                    "strengths": strengths,
                    "blocks": self.rows,
                },
            )
        except BaseException:
            if not self._is_in_place():
                self.abandon()
            raise
        self._remove_all_but(self.identity)

    def abandon(self) -> None:
        """Removes what this writer has written, for a run that failed half-way."""
        self._disk.shutdown()
        for pattern in (f"*-{self.identity}*.safetensors", f".*-{self.identity}*.safetensors"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _is_in_place(self) -> bool:
        """Whether the folder's manifest already is this writer's."""
        path = self.folder / "manifest.json"
        return path.is_file() and read_json(path).get("shards") == self.shards

    def _remove_all_but(self, identity: str) -> None:
        for pattern in ("blocks-*.safetensors", "strengths-*.safetensors"):
            for path in self.folder.glob(pattern):
                if path.name.split("-")[1].removesuffix(".safetensors") != identity:
                    path.unlink()


def _owned(tensor: torch.Tensor, others: Iterable[torch.Tensor]) -> torch.Tensor:
    """The tensor, copied if it shares memory with another or is part of a larger one, which safetensors refuses."""
    storage = tensor.untyped_storage()
    shared = any(other.untyped_storage().data_ptr() == storage.data_ptr() for other in others)
    return tensor.clone() if shared or storage.nbytes() != tensor.nbytes else tensor


def save_graph(graph: ModelGraph, folder: Path, *, inputs: str = "") -> None:
    """Writes a graph as a single shard.

    Raises:
        InputError: the graph is from outside.
    """
    refuse_outside(graph)
    writer = GraphWriter(folder, graph.nodes, dtype=graph.dtype, present=graph.present)
    writer.add_all([graph.blocks])
    writer.finish(level=graph.level, weight=graph.weight, model=graph.model, inputs=inputs, n_edges=graph.n_edges)


def refuse_outside(graph: ModelGraph) -> None:
    """Refuses to store a graph whose nodes have the names and the order of somebody else."""
    if graph.order is not None:
        raise InputError("only graphs of models are stored; a graph from outside already has a file of its own")


def read_graph_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a graph folder.

    Raises:
        InputError: the folder holds no graph.
        FormatError: it is damaged or of a newer version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no graph; make one with `graphprune export`")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise FormatError(f"{path} is not the manifest of a graph")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
        raise FormatError(f"{path} has format version {manifest.get('version')}; this program reads up to {VERSION}")
    return manifest


def load_graph(folder: Path, *, stream: bool | None = None) -> ModelGraph:
    """The graph in a folder; its blocks are memory-mapped and read when they are used.

    Args:
        folder: where `save_graph` or `export` put it.
        stream: let go of each block after its use, so that resident memory holds one block and the node values
            however large the graph; a sweep then takes about twice as long. By default, if the graph is larger
            than `STREAM_ABOVE` bytes.

    Raises:
        InputError: the folder holds no graph.
        FormatError: a file is missing, damaged, incomplete, or of a newer version.
    """
    manifest = read_graph_manifest(folder)
    try:
        nodes = NodeIndex.from_json(manifest["nodes"])
        paths = [folder / name for name in manifest["shards"]]
        if stream is None:
            stream = sum(path.stat().st_size for path in paths if path.is_file()) > STREAM_ABOVE
        blocks = _stored_blocks(manifest["blocks"], paths) if stream else _mapped_blocks(manifest["blocks"], paths)
        sums = load_tensors(folder / manifest["strengths"])[0]
        level, weight = manifest["level"], manifest["weight"]
        if level not in LEVELS or weight not in WEIGHTS:
            raise FormatError(f"{folder / 'manifest.json'} names an unknown level or weight: {level}, {weight}")
        strengths, present = (sums["out"], sums["in"]), sums.get("present")
        facts = {"level": level, "weight": weight, "model": manifest["model"]}
        graph = ModelGraph(nodes, blocks, strengths=strengths, present=present, **facts)
        if (graph.n_edges, graph.n_nodes) != (manifest["n_edges"], manifest["n_nodes"]):
            raise FormatError(f"the graph in {folder} is damaged: its edges don't match its manifest")
    except InputError as error:
        raise FormatError(f"the graph in {folder} is incomplete: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"the graph in {folder} is damaged: {error!r}") from error
    if not all(bool(torch.isfinite(strength).all()) for strength in strengths):  # sums of all the weights
        raise FormatError(f"the graph in {folder} has a weight that is NaN or infinite")
    return graph


def _mapped_blocks(rows: Iterable[Mapping[str, Any]], paths: Sequence[Path]) -> tuple[Block, ...]:
    shards = [load_tensors(path)[0] for path in paths]
    return tuple(_block(row, shards[row["shard"]], paths[row["shard"]]) for row in rows)


def _block(row: Mapping[str, Any], shard: Mapping[str, torch.Tensor], path: Path) -> Block:
    src, dst, key = (row["src"][0], row["src"][1]), (row["dst"][0], row["dst"][1]), row["key"]
    values = shard[f"{key}.values"]
    if f"{key}.crow" in shard:
        crow, col = shard[f"{key}.crow"], shard[f"{key}.col"]
        check_pointers(path, dst[1] - dst[0], values.numel(), crow, col)
        return Block(src, dst, values, crow, col)
    return Block.full(src, dst, values.view(dst[1] - dst[0], src[1] - src[0]))


def _stored_blocks(rows: Iterable[Mapping[str, Any]], paths: Sequence[Path]) -> tuple[StoredBlock, ...]:
    """Blocks that know where they lie; of the files only the headers are read."""
    by_shard: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], {})[row["key"]] = row
    found: dict[str, StoredBlock] = {}
    for shard, members in by_shard.items():
        with opened_tensors(paths[shard]) as file:
            for key, row in members.items():
                values = file.get_slice(f"{key}.values")
                src, dst = (row["src"][0], row["src"][1]), (row["dst"][0], row["dst"][1])
                dtype = {"F32": torch.float32, "F64": torch.float64}[values.get_dtype()]
                found[key] = StoredBlock(src, dst, paths[shard], key, values.get_shape()[0], dtype)
                if f"{key}.crow" in file.keys():  # noqa: SIM118 - no mapping
                    crow, col = (file.get_slice(f"{key}.{part}") for part in ("crow", "col"))
                    if (crow.get_shape(), col.get_shape()) != ([dst[1] - dst[0] + 1], [found[key].n_edges]):
                        raise misfit(paths[shard])
    return tuple(found[key] for key in sorted(found))

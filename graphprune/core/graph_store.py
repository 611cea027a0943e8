"""A graph on disk: one memory-mappable safetensors file a shard, and a manifest that makes them a graph.

The manifest is written last and names its shards by an identity of their own, so a folder always holds either the old
graph or the new one. Blocks that store every edge keep their values only: the index arrays follow from the shape.
"""

import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphprune.core.errors import FormatError, InputError
from graphprune.core.graph import LEVELS, WEIGHTS, Block, Level, ModelGraph, Weight
from graphprune.core.io import (
    load_tensors,
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


@dataclass
class GraphWriter:
    """Writes a graph shard by shard, so that no more than two shards are ever in memory: one made, one written.

    Node strengths are accumulated on the way and stored with the graph, so that a ranking costs one sweep.
    """

    folder: Path
    nodes: NodeIndex
    dtype: torch.dtype = torch.float32
    identity: str = field(default_factory=lambda: secrets.token_hex(4))
    rows: list[dict[str, Any]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out_strength = torch.zeros(self.nodes.n_nodes, dtype=self.dtype)
        self.in_strength = torch.zeros(self.nodes.n_nodes, dtype=self.dtype)
        self._disk = ThreadPoolExecutor(max_workers=1)
        self._written: Future[None] | None = None

    def add(self, blocks: Iterable[Block]) -> None:
        """Writes one shard."""
        shard = f"blocks-{self.identity}-{len(self.shards):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for block in blocks:
            key = f"{len(self.rows):06d}"
            tensors[f"{key}.values"] = block.values
            if not block.is_full:
                tensors[f"{key}.crow"], tensors[f"{key}.col"] = block.crow, block.col
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
            save_tensors(self.folder / strengths, {"out": self.out_strength, "in": self.in_strength})
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


def save_graph(graph: ModelGraph, folder: Path, *, inputs: str = "") -> None:
    """Writes a graph as a single shard."""
    if graph.order is not None:
        raise InputError("only graphs of models are stored; a graph from outside already has a file of its own")
    writer = GraphWriter(folder, graph.nodes, dtype=graph.dtype)
    writer.add(graph.to("cpu").blocks)
    writer.finish(level=graph.level, weight=graph.weight, model=graph.model, inputs=inputs, n_edges=graph.n_edges)


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


def load_graph(folder: Path) -> ModelGraph:
    """The graph in a folder; its blocks are memory-mapped and read when they are used.

    Raises:
        InputError: the folder holds no graph.
        FormatError: a file is missing, damaged, incomplete, or of a newer version.
    """
    manifest = read_graph_manifest(folder)
    try:
        nodes = NodeIndex.from_json(manifest["nodes"])
        shards = [load_tensors(folder / name)[0] for name in manifest["shards"]]
        blocks = tuple(_block(row, shards[row["shard"]]) for row in manifest["blocks"])
        strengths = load_tensors(folder / manifest["strengths"])[0]
        level, weight = manifest["level"], manifest["weight"]
        if level not in LEVELS or weight not in WEIGHTS:
            raise FormatError(f"{folder / 'manifest.json'} names an unknown level or weight: {level}, {weight}")
        graph = ModelGraph(
            nodes,
            blocks,
            level=level,
            weight=weight,
            model=manifest["model"],
            strengths=(strengths["out"], strengths["in"]),
        )
        if (graph.n_edges, graph.n_nodes) != (manifest["n_edges"], manifest["n_nodes"]):
            raise FormatError(f"the graph in {folder} is damaged: its edges don't match its manifest")
    except InputError as error:
        raise FormatError(f"the graph in {folder} is incomplete: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"the graph in {folder} is damaged: {error!r}") from error
    if not all(bool(torch.isfinite(strength).all()) for strength in strengths.values()):  # sums of all the weights
        raise FormatError(f"the graph in {folder} has a weight that is NaN or infinite")
    return graph


def _block(row: Mapping[str, Any], shard: Mapping[str, torch.Tensor]) -> Block:
    src, dst, key = (row["src"][0], row["src"][1]), (row["dst"][0], row["dst"][1]), row["key"]
    values = shard[f"{key}.values"]
    if f"{key}.crow" in shard:
        return Block(src, dst, values, shard[f"{key}.crow"], shard[f"{key}.col"])
    return Block.full(src, dst, values.view(dst[1] - dst[0], src[1] - src[0]))

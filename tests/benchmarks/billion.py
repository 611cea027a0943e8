"""Ranks a graph that is larger than the memory it may use, from its memory-mapped blocks.

python -m tests.benchmarks.billion [--folder DIR] [--d-model 2048] [--layers 24] [--limit-gb 3]

Makes a synthetic decoder-shaped DAG of 1.2 billion edges (4.8 GB; in a temporary folder, removed afterwards), ranks it
with PageRank, Katz centrality and path mass in a process of its own, and reports the peak resident memory of that
process, file pages included. Fails if it is above the limit. What bounds it: reading the blocks, from the page cache if
they fit there, else from the disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from graphprune.centrality import CentralityResult, katz, pagerank, path_mass
from graphprune.core.block import Block
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import GraphWriter, load_graph
from graphprune.core.nodes import NodeIndex, Span
from graphprune.core.progress import progress

MEASURES: dict[str, Callable[[ModelGraph], CentralityResult]] = {
    "PageRank": pagerank,
    "Katz": katz,
    "path mass": path_mass,
}


def spans(d_model: int, n_layers: int) -> Iterator[Span]:
    """Per layer the stream, an attention-like layer twice as wide, the stream again, and an MLP four times as wide."""
    for layer in range(n_layers):
        yield Span("resid", 2 * layer, d_model)
        yield Span("attn", layer, 2 * d_model)
        yield Span("resid", 2 * layer + 1, d_model)
        yield Span("neuron", layer, 4 * d_model)
    yield Span("resid", 2 * n_layers, d_model)


def blocks_of(nodes: NodeIndex, layer: int, generator: torch.Generator) -> Iterator[list[Block]]:
    """The blocks of one layer, sub-block by sub-block: into the wide layer, out of it, and past it."""
    for kind, k in (("attn", 2 * layer), ("neuron", 2 * layer + 1)):
        before, wide, after = nodes.range("resid", k), nodes.range(kind, layer), nodes.range("resid", k + 1)
        n = before[1] - before[0]
        skip = torch.arange(n + 1, dtype=torch.int32)
        yield [
            Block.full(before, wide, _weights(wide, before, generator)),
            Block(before, after, torch.ones(n), skip, skip[:-1]),
            Block.full(wide, after, _weights(after, wide, generator)),
        ]


def _weights(rows: tuple[int, int], columns: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Magnitudes of a Gaussian matrix, scaled as initialised weights are."""
    n_rows, n_columns = rows[1] - rows[0], columns[1] - columns[0]
    return torch.randn(n_rows, n_columns, generator=generator).abs_().div_(n_columns**0.5)


def make(folder: Path, d_model: int, n_layers: int) -> None:
    nodes = NodeIndex(tuple(spans(d_model, n_layers)))
    generator = torch.Generator().manual_seed(0)
    writer = GraphWriter(folder, nodes)
    for layer in progress(range(n_layers), "making", unit="layer"):
        for blocks in blocks_of(nodes, layer, generator):
            writer.add(blocks)
    n_edges = sum(2 * 2 * d_model**2 + 2 * 4 * d_model**2 + 2 * d_model for _ in range(n_layers))
    writer.finish(level="channel", weight="magnitude", model={}, inputs="", n_edges=n_edges)


def resident(name: str) -> int:
    """Megabytes of resident memory, anonymous and file pages: `VmHWM` for the peak, `VmRSS` for now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("the kernel doesn't say how much memory is resident")


def rank(folder: Path) -> None:
    """Ranks the stored graph in this process and prints what it took."""
    before = resident("VmRSS")
    graph = load_graph(folder)
    rows = []
    for name, measure in MEASURES.items():
        start = time.perf_counter()
        result = measure(graph)
        seconds = time.perf_counter() - start
        rows.append([name, seconds, result.residual, resident("VmHWM")])
    print(json.dumps({"edges": graph.n_edges, "nodes": graph.n_nodes, "before": before, "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to make it (default: the system's temporary folder)")
    parser.add_argument("--d-model", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--limit-gb", type=float, default=3.0)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        rank(args.rank)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        make(folder, args.d_model, args.layers)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"made in {time.perf_counter() - start:.0f} s: {size / 1e9:.2f} GB on disk")
        command = [sys.executable, "-m", "tests.benchmarks.billion", "--rank", str(folder)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{found['nodes']:,} nodes, {found['edges']:,} edges; the process held {found['before']:,} MB to begin with")
    print("| measure | seconds | residual | peak resident memory |\n|---|---:|---:|---:|")
    for name, seconds, residual, peak in found["rows"]:
        print(f"| {name} | {seconds:.1f} | {residual:.1e} | {peak:,} MB |")
    peak = max(row[3] for row in found["rows"])
    if peak > args.limit_gb * 1024:
        sys.exit(f"{peak:,} MB are more than {args.limit_gb:g} GB")


if __name__ == "__main__":
    main()

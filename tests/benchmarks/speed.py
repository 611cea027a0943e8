"""Speed and memory of export, ranking and scoring, as ratios within one run.

python -m tests.benchmarks.speed --model smollm2-135m

What bounds them: a sweep reads every edge weight once (memory bandwidth); export reads the weights and writes the graph
(disk and memory bandwidth); scoring reads the weights (memory bandwidth).
"""

import argparse
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from graphprune import CalibrationStats, ModelGraph, calibrate, export, load_model, score
from graphprune.centrality import pagerank
from graphprune.core.io import flush
from graphprune.extraction.export import n_bytes
from graphprune.models.model import Model
from graphprune.scorers import SCORERS


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sum_arrays(graph: ModelGraph) -> float:
    """The sum of the graph's own value and index arrays."""
    total = 0.0
    for block in (edges.load() for edges in graph.blocks):
        total += float(block.values.sum()) + int(block.col.sum()) + int(block.crow.sum())
    return total


def sum_values(graph: ModelGraph) -> float:
    return sum(float(block.load().values.sum()) for block in graph.blocks)


def read_and_write(model: Model, graph: ModelGraph, folder: Path) -> None:
    """Reads all weights, and writes the bytes of the graph's edges to a file that is flushed."""
    total = sum(float(model.parameters[key].sum()) for key in model.parameters)
    path = folder / "bytes"
    with path.open("wb") as file:
        for block in graph.blocks:
            file.write(block.load().values.numpy().data)
    flush(path)
    path.unlink()
    if not math.isfinite(total):
        raise ValueError(model.name)


def export_peak(name: str, folder: Path) -> int:
    """Peak resident bytes of an export in a process of its own, the interpreter and torch included."""
    code = (
        "import resource, sys; from pathlib import Path; from graphprune import export, load_model\n"
        "export(load_model(sys.argv[1]), folder=Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-c", code, name, str(folder)], capture_output=True, text=True, check=True)
    return int(out.stdout) * 1024


def statistics_of(name: str) -> CalibrationStats:
    model = load_model(name)
    vocabulary = model.shapes["model.embed_tokens.weight"][0]
    rows = torch.randint(vocabulary, (2, 128), generator=torch.Generator().manual_seed(0))
    return calibrate(model, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    repeats = args.repeats
    with tempfile.TemporaryDirectory() as scratch:
        model, folder = load_model(args.model), Path(scratch) / "graph"
        peak = export_peak(args.model, folder)
        graph = export(model, folder=folder)
        size = n_bytes(folder)
        pairs = [  # alternately, since the disk's speed drifts
            (
                median_seconds(lambda: export(model, folder=Path(scratch) / "again"), 1),
                median_seconds(lambda: read_and_write(model, graph, Path(scratch)), 1),
            )
            for _ in range(repeats)
        ]
        seconds, reference = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{model.name}: {graph.n_nodes:,} nodes, {graph.n_edges:,} edges, {size / 1e6:,.0f} MB on disk")
        print(f"export: {seconds:.2f} s, {seconds / reference:.2f} x reading the weights and writing the bytes")
        print(f"peak memory of export: {peak / 1e6:,.0f} MB, {peak / size:.2f} x the graph on disk")
        arrays, values = (median_seconds(partial(f, graph), repeats) for f in (sum_arrays, sum_values))
        print(f"summing value and index arrays: {1e3 * arrays:.0f} ms; the values alone: {1e3 * values:.0f} ms")
        for direction in ("forward", "backward"):
            sweep = median_seconds(partial(sweep_once, graph, direction), repeats)
            print(
                f"PageRank sweep {direction}: {1e3 * sweep:.0f} ms, {sweep / arrays:.2f} x summing all arrays, "
                f"{sweep / values:.2f} x summing the values, {4e-9 * graph.n_edges / sweep:.1f} GB/s of weights"
            )
        whole = median_seconds(lambda: pagerank(graph, direction="backward"), repeats)
        print(f"pagerank(): {1e3 * whole:.0f} ms")
        stats = statistics_of(args.model)
        for scorer in SCORERS:
            print(f"score {scorer}: {median_seconds(partial(score, model, scorer, stats=stats), 3):.2f} s")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


def sweep_once(graph: ModelGraph, direction: str) -> torch.Tensor:
    """One triangular sweep, as PageRank does it."""
    from graphprune.centrality.sweep import solve

    backward = direction == "backward"
    strength = graph.in_strength if backward else graph.out_strength
    rhs = torch.full((graph.n_nodes,), 1 / graph.n_nodes)
    return solve(graph, rhs, sender=0.85 / strength.clamp_min(1e-30), backward=backward)


if __name__ == "__main__":
    main()

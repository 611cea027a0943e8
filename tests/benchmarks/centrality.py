"""PageRank beside networkx, igraph, SciPy and scikit-network on weighted DAGs of up to 10^8 edges, in one run.

python -m tests.benchmarks.centrality --plot docs/centrality.png

It reads nothing: the graphs are random (`tests.benchmarks.dags`). It needs scikit-network, matplotlib for a plot, Linux
for the peak memory, and for 10^8 edges about 6 GB of memory and 2 GB of temporary files. Every tool gets the same
SciPy CSR matrix ``[src, dst]``, memory-mapped and read once beforehand, in a process of its own that has already ranked
a graph of three nodes; imports and loading are not timed.

- build: from the matrix to whatever the tool ranks, after one that isn't timed, since memory that a process touches for
  the first time costs more than the work; solve: one ranking, the first and the median of the next ones.
- peak memory: the most that one build and one solve hold at a time above what was resident before them.
- L1 error: against the float64 scores of graphprune, whose residual SciPy measures here from the equation; a residual
  of 10^-12 or more ends the run. A residual of r bounds the error by ``r / (1 - alpha)``, which is what their row says.
- read: summing all value and index arrays of our graph with torch, alternately with the solves.

What bounds them: ours reads every edge once, in one product a topological generation (memory bandwidth; below 10^5
edges the number of generations). networkx turns its dictionaries into a SciPy matrix at every call (Python objects),
then iterates until the change is below 10^-6 a node. igraph copies its edges and a list of Python floats and sorts them
by strongly connected component at every call (random access); prpack then solves one component after another, on a DAG
as exactly as we do. SciPy's power iteration reads the matrix about a hundred times (memory bandwidth of one core).
scikit-network scales and transposes the matrix at every call, then makes ten power iterations whatever the error
(memory bandwidth of one core). It lets the surfer jump to dangling nodes more often, where the others let it jump from
them, so on any acyclic graph its scores are different ones, however exactly `bicgstab` solves its system.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import igraph
import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphprune.centrality import pagerank
from graphprune.core.graph import ModelGraph
from graphprune.core.io import flush
from tests.benchmarks.dags import FAMILIES, Matrix

ALPHA = 0.85
MIDDLE = 5 * 10**6
SIZES = (10**4, 10**5, 10**6, MIDDLE, 2 * 10**7, 10**8)
VECTORS = (1, 4, 16, 64)
LINEAR_FROM = 10**5  # below it a solve is bound by the number of generations
PATIENCE = 60.0  # seconds after which nothing is repeated
EXACT, SINGLE = "graphprune float64", "graphprune float32"
NETWORKX, IGRAPH, SKNETWORK = "networkx", "igraph prpack", "scikit-network"
ARRAYS = ("data", "indices", "indptr")
T = TypeVar("T")
Vector = NDArray[np.float64]
Way: TypeAlias = tuple[str, str]  # a family, a tool


@dataclass(frozen=True)
class Tool:
    """Something that ranks: the structure it makes of a matrix, the scores it makes of that."""

    build: Callable[[Matrix], Any]
    solve: Callable[[Any], Any]
    max_edges: float = math.inf
    dtype: str = "float64"
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """What one tool took for one graph: seconds, bytes, and the L1 error of its scores."""

    family: str
    size: int
    n_edges: int
    tool: str
    build: float
    first: float
    solve: float
    memory: int
    device_memory: int
    read: float | None
    error: float = math.nan


# The tools


def ours(dtype: str, device: str = "cpu") -> Tool:
    def build(matrix: Matrix) -> ModelGraph:
        graph = ModelGraph.from_scipy(matrix)
        return graph if device == "cpu" else finished(graph.to(device))

    def solve(graph: ModelGraph) -> torch.Tensor:
        return finished(pagerank(graph, ALPHA).scores)

    def finished(result: T) -> T:
        if device != "cpu":
            torch.accelerator.synchronize()
        return result

    return Tool(build, solve, dtype=dtype, device=device)


def networkx_graph(matrix: Matrix) -> "nx.DiGraph[Any]":
    return nx.from_scipy_sparse_array(matrix, create_using=nx.DiGraph)


def igraph_graph(matrix: Matrix) -> igraph.Graph:
    src = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    graph = igraph.Graph(n=matrix.shape[0], edges=np.stack([src, matrix.indices], axis=1), directed=True)
    graph.es["weight"] = matrix.data.tolist()
    return graph


def transition(matrix: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
    """The transposed transition matrix as CSR, and which nodes dangle."""
    strength = matrix.sum(axis=1)
    dangles = strength == 0
    scale = sparse.diags_array(1 / np.where(dangles, 1, strength))
    return (scale @ matrix).T.tocsr(), dangles


def power_iteration(built: tuple[Matrix, NDArray[np.bool_]]) -> Vector:
    """``x = alpha (P^T x + m p) + (1 - alpha) p`` until x changes by less than 10^-10."""
    steps, dangles = built
    n_nodes = len(dangles)
    x, change = np.full(n_nodes, 1 / n_nodes), math.inf
    while change >= 1e-10:
        after = ALPHA * (steps @ x + x[dangles].sum() / n_nodes) + (1 - ALPHA) / n_nodes
        x, change = after, np.abs(after - x).sum()
    return x


def sknetwork(**options: Any) -> Tool:
    def solve(matrix: sparse.csr_matrix) -> Vector:
        ranking = importlib.import_module("sknetwork.ranking").PageRank(damping_factor=ALPHA, **options)
        scores: Vector = ranking.fit_predict(matrix)
        return scores

    return Tool(sparse.csr_matrix, solve)


def all_tools(device: str) -> dict[str, Tool]:
    tools = {EXACT: ours("float64"), SINGLE: ours("float32")}
    if device != "cpu":
        tools |= {f"{name}, {device}": ours(tool.dtype, device) for name, tool in tools.items()}
    return tools | {
        NETWORKX: Tool(networkx_graph, lambda graph: nx.pagerank(graph, ALPHA), max_edges=10**6),
        IGRAPH: Tool(igraph_graph, lambda graph: graph.pagerank(damping=ALPHA, weights="weight"), max_edges=10**7),
        "SciPy power iteration": Tool(transition, power_iteration, max_edges=2 * 10**7),
        SKNETWORK: replace(sknetwork(), max_edges=2 * 10**7),
        f"{SKNETWORK} bicgstab": replace(sknetwork(solver="bicgstab", tol=1e-12), max_edges=MIDDLE),
    }


# One tool, in a process of its own


def measure(name: str, folder: Path, repeats: int, device: str) -> dict[str, Any]:
    """Times and memory of one tool; its scores become a file in the folder."""
    tool = all_tools(device)[name]
    matrix = load(folder).astype(tool.dtype, copy=False)
    tool.solve(tool.build(three_nodes().astype(tool.dtype)))  # first calls start thread pools and load code
    baseline = forget_peak(tool.device)
    built = tool.build(matrix)
    first, scores = timed(partial(tool.solve, built))
    memory = resident("VmHWM") - baseline
    device_memory = torch.accelerator.max_memory_allocated() if tool.device != "cpu" else 0
    np.save(folder / f"{name}.npy", as_array(scores))
    reading = [partial(sum_arrays, built)] if isinstance(built, ModelGraph) else []
    solve, *read = medians([partial(tool.solve, built), *reading], repeats)
    del built, scores, reading
    return {
        "build": medians([partial(tool.build, matrix)], repeats)[0],
        "first": first,
        "solve": solve,
        "memory": max(0, memory),
        "device_memory": device_memory,
        "read": read[0] if read else None,
    }


def measure_vectors(name: str, folder: Path, repeats: int, device: str) -> dict[str, float]:
    """Median seconds to rank for k personalisation vectors at once, by k."""
    tool = all_tools(device)[name]
    graph = tool.build(load(folder).astype(tool.dtype, copy=False))
    jumps = torch.rand(graph.n_nodes, max(VECTORS), generator=torch.Generator().manual_seed(0), dtype=graph.dtype)
    jumps = jumps.to(graph.device)

    def rank(k: int) -> torch.Tensor:
        scores = pagerank(graph, ALPHA, jumps[:, :k]).scores
        if tool.device != "cpu":
            torch.accelerator.synchronize()
        return scores

    together, alone = rank(max(VECTORS))[:, -1], pagerank(graph, ALPHA, jumps[:, -1]).scores
    torch.testing.assert_close(together, alone)
    return {str(k): medians([partial(rank, k)], repeats)[0] for k in VECTORS}


def load(folder: Path) -> Matrix:
    """The matrix, memory-mapped (what a tool writes stays its own) and resident."""
    data, indices, indptr = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ARRAYS)
    for array in (data, indices, indptr):
        array.sum()
    return sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(indptr) - 1))


def three_nodes() -> Matrix:
    return sparse.csr_array(np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def forget_peak(device: str) -> int:
    """Resets the peaks of memory; the bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if device != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    return resident("VmRSS")


def resident(field: str) -> int:
    """A field of the kernel's status of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def medians(calls: Iterable[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of calls that take turns, as many times as asked or until patience runs out."""
    start = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < repeats and (not rounds or time.perf_counter() - start < PATIENCE):
        rounds.append([timed(call)[0] for call in calls])
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def sum_arrays(graph: ModelGraph) -> float:
    """The sum of all value and index arrays of the blocks."""
    blocks = (block.load() for block in graph.blocks)
    sums = [array.sum() for block in blocks for array in (block.values, block.crow, block.col)]
    return sum(float(total) for total in sums)


def as_array(scores: Any) -> Vector:
    """A tool's scores, whatever it calls a vector, in the order of the matrix."""
    if isinstance(scores, torch.Tensor):
        return np.asarray(scores.cpu().double())
    return np.asarray(list(scores.values()) if isinstance(scores, dict) else scores, dtype=np.float64)


# The comparison


def compare(family: str, size: int, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A row for every tool that can take a graph of this size, our float64 row first."""
    save(FAMILIES[family](size, size), folder)
    matrix = load(folder)
    exact = None
    for name, tool in all_tools(options.device).items():
        if size > tool.max_edges:
            continue
        found = in_child("tool", name, folder, options)
        scores = np.load(folder / f"{name}.npy")
        if exact is None:
            exact, error = scores, residual(matrix, scores) / (1 - ALPHA)
        else:
            error = float(np.abs(scores - exact).sum())
        row = Row(family, size, matrix.nnz, name, **found, error=error)
        print(json.dumps(asdict(row)), file=sys.stderr, flush=True)
        yield row


def save(matrix: Matrix, folder: Path) -> None:
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        path.unlink(missing_ok=True)
        np.save(path, getattr(matrix, name))
        flush(path)  # or the disk would be busy while tools are timed


def in_child(what: str, name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own prints about one tool."""
    command = [sys.executable, "-m", "tests.benchmarks.centrality", "--child", what, name, str(folder)]
    command += ["--repeats", str(options.repeats), "--device", options.device]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def residual(matrix: Matrix, x: Vector) -> float:
    """``sum |x - alpha (P^T x + m p) - (1 - alpha) p|`` with SciPy alone, p uniform.

    Raises:
        ArithmeticError: it isn't below 10^-12.
    """
    strength = matrix.sum(axis=1)
    sent = np.divide(x, strength, out=np.zeros_like(x), where=strength > 0)
    arrives = matrix.T @ sent + x[strength == 0].sum() / len(x)
    gap = float(np.abs(x - ALPHA * arrives - (1 - ALPHA) / len(x)).sum())
    if not gap < 1e-12:
        raise ArithmeticError(f"our float64 scores have a residual of {gap:.1e}")
    return gap


# What is printed


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown, the first two columns to the left and numbers to the right."""
    titles = list(head)
    rule = ["---"] * 2 + ["---:"] * (len(titles) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [titles, rule, *rows])


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{0 if seconds >= 0.1 else 2}f}"


def megabytes(row: Row) -> str:
    device = f" + {row.device_memory / 1e6:,.0f} on the device" if row.device_memory else ""
    return f"{row.memory / 1e6:,.0f}{device}"


def measurements(rows: list[Row]) -> str:
    head = ("graph, edges", "tool", "build, ms", "first solve, ms", "solve, ms", "peak memory, MB", "L1 error")
    return table(
        head,
        (
            (
                f"{row.family}, {row.n_edges:,}",
                row.tool,
                *(milliseconds(seconds) for seconds in (row.build, row.first, row.solve)),
                megabytes(row),
                f"{'≤ ' if row.tool == EXACT else ''}{row.error:.0e}",
            )
            for row in rows
        ),
    )


def readings(rows: list[Row]) -> str:
    """Our solves beside reading the arrays once."""
    head = ("graph, edges", "tool", "read, ms", "solve, ms", "solve / read")
    return table(
        head,
        (
            (
                f"{row.family}, {row.n_edges:,}",
                row.tool,
                milliseconds(row.read),
                milliseconds(row.solve),
                f"{row.solve / row.read:.2f}",
            )
            for row in rows
            if row.read is not None
        ),
    )


def targets(rows: list[Row]) -> str:
    """One line a target, one column a family and a way of ours to rank it."""
    ways = [(family, name) for family in FAMILIES for name in unique(row.tool for row in rows if row.read is not None)]
    lines: list[tuple[str, str, Callable[[Way], float]]] = [
        ("igraph's solve / ours at 5e6 edges", "≥ 20", lambda way: ratio(rows, way, IGRAPH, "solve", MIDDLE)),
        ("networkx's solve / ours at 1e6", "≥ 1,000", lambda way: ratio(rows, way, NETWORKX, "solve", 10**6)),
        ("scikit-network's solve / ours at 5e6", "≥ 5", lambda way: ratio(rows, way, SKNETWORK, "solve", MIDDLE)),
        ("our build / igraph's at 5e6", "≤ 1", lambda way: 1 / ratio(rows, way, IGRAPH, "build", MIDDLE)),
        ("slope of log solve over log edges from 1e5", "1.0 ± 0.1", lambda way: slope(rows, way)),
        ("solve / read at the largest", "≤ 2", lambda way: solve_over_read(rows, way)),
    ]
    head = ("what", "target", *(f"{family}, {name.removeprefix('graphprune ')}" for family, name in ways))
    return table(head, ((what, target, *(or_not_run(found(way)) for way in ways)) for what, target, found in lines))


def or_not_run(value: float) -> str:
    return "not run" if math.isnan(value) else f"{value:,.2f}"


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def of(rows: list[Row], way: Way) -> dict[int, Row]:
    """A tool's rows of one family by size."""
    return {row.size: row for row in rows if (row.family, row.tool) == way}


def ratio(rows: list[Row], way: Way, peer: str, what: str, size: int) -> float:
    """The peer's time over ours; NaN where the run didn't go as far."""
    here, there = of(rows, way), of(rows, (way[0], peer))
    return float(getattr(there[size], what) / getattr(here[size], what)) if size in here else math.nan


def slope(rows: list[Row], way: Way) -> float:
    large = [row for size, row in of(rows, way).items() if size >= LINEAR_FROM]
    if len(large) < 2:
        return math.nan
    edges, seconds = [math.log(row.n_edges) for row in large], [math.log(row.solve) for row in large]
    return statistics.linear_regression(edges, seconds).slope


def solve_over_read(rows: list[Row], way: Way) -> float:
    here = of(rows, way)
    largest = here[max(here)]
    return largest.solve / (largest.read or math.nan)


def several_vectors(found: Mapping[str, Mapping[str, float]], n_edges: int) -> str:
    head = (
        f"model-shaped, {n_edges:,} edges",
        "vectors at once",
        "solve, ms",
        "a vector, ms",
        "times faster than one by one",
    )
    return table(
        head,
        (
            (name, k, milliseconds(seconds), milliseconds(seconds / int(k)), f"{times['1'] * int(k) / seconds:.2f}")
            for name, times in found.items()
            for k, seconds in times.items()
        ),
    )


def plot(rows: list[Row], path: Path) -> None:
    """Seconds to solve over edges, a panel a family and a line a tool."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(FAMILIES), sharex=True, sharey=True)
    names = unique(row.tool for row in rows)
    for family, axes in zip(FAMILIES, panels, strict=True):
        for name in names:
            points = [(row.n_edges, row.solve) for row in of(rows, (family, name)).values()]
            axes.loglog(*zip(*points, strict=True), label=name, **style(name, names))
        here = list(of(rows, (family, EXACT)).values())
        guide = [0.2 * here[-1].solve * row.n_edges / here[-1].n_edges for row in here]
        axes.loglog([row.n_edges for row in here], guide, color="0.5", lw=1, ls=":", label="proportional to edges")
        axes.set_title(f"{family} graphs", fontsize=9)
        axes.set_xlabel("edges")
        axes.grid(visible=True, color="0.92")
    panels[0].set_ylabel("time to solve, seconds")
    figure.suptitle("PageRank on weighted acyclic graphs: one solve of a graph that is built", fontsize=11)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def style(name: str, names: list[str]) -> dict[str, Any]:
    """Ours thick, dashed in float32, a colour a device; every other tool a colour of its own."""
    if name.startswith("graphprune"):
        dashes = "--" if name.startswith(SINGLE) else "-"
        return {"color": "C3" if "," in name else "black", "ls": dashes, "lw": 2, "marker": "o", "ms": 3.5}
    peers = [peer for peer in names if not peer.startswith("graphprune")]
    return {"color": ("C0", "C1", "C2", "C4", "C5")[peers.index(name)], "lw": 1.1, "marker": "s", "ms": 2.5}


def machine() -> str:
    tools = ("torch", "numpy", "scipy", "networkx", "igraph", "scikit-network")
    version = importlib.import_module("importlib.metadata").version
    versions = ", ".join(f"{name} {version(name)}" for name in tools)
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch; {versions}"


def main() -> None:
    options = arguments()
    if options.child:
        what, name, folder = options.child
        call = {"tool": measure, "vectors": measure_vectors}[what]
        print(json.dumps(call(name, Path(folder), options.repeats, options.device)))
        return
    also = "no accelerator" if options.device == "cpu" else f"also on {options.device}"
    print(machine(), also, "", sep="\n", flush=True)
    sizes = [size for size in SIZES if size <= options.max_edges]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [row for size in sizes for family in FAMILIES for row in compare(family, size, options, folder)]
        rows.sort(key=lambda row: list(FAMILIES).index(row.family))
        print(measurements(rows), readings(rows), targets(rows), sep="\n\n", end="\n\n", flush=True)
        if options.plot:
            plot(rows, options.plot)
        matrix = FAMILIES["model-shaped"](min(MIDDLE, sizes[-1]), 0)
        save(matrix, folder)
        names = unique(row.tool for row in rows if row.read is not None)
        vectors = {name: in_child("vectors", name, folder, options) for name in names}
        print(several_vectors(vectors, matrix.nnz))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-edges", type=float, default=1e8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="a PNG file")
    found = torch.accelerator.current_accelerator(check_available=True)
    parser.add_argument("--device", default=str(found or "cpu"), help="also rank on this accelerator")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.max_edges < SIZES[0] or options.repeats < 1:
        parser.error(f"--max-edges is at least {SIZES[0]} and --repeats at least 1")
    return options


if __name__ == "__main__":
    main()

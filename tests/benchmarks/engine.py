"""What the sequential engine costs: seconds by what they went on, and memory, SlimGPT beside random without repair.

python -m tests.benchmarks.engine --calibration VALID [--model MODEL] [--methods sparsegpt sparsellm --sparsity 0.7]

They run alternately, each in a process of its own, with the machine to themselves; medians. Memory is the most that was
resident and not mapped from a file (the checkpoint is), looked at two hundred times a second, over what it was before
the engine began; beside it what has to be there: one block's parameters, the hidden states and what the two projections
of a block read, the largest Hessian with its inverse, and what has been changed so far, since nothing is written down.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphprune import load_model
from graphprune.methods import Recipe
from graphprune.pruning import Evidence, apply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--methods", nargs="+", default=["random", "slimgpt", "graphslim"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", help="run this method once and print what it cost")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(once(args)))
        return
    found: dict[str, list[dict[str, float]]] = {method: [] for method in args.methods}
    for _ in range(args.repeat):
        for method in args.methods:
            command = [sys.executable, "-m", "tests.benchmarks.engine", *sys.argv[1:], "--one", method]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[method].append(json.loads(done.stdout.splitlines()[-1]))
    keys = ("forward", "statistics", "solver", "engine", "all", "MB")
    print(f"{args.model}, {args.sparsity:.0%}, {args.n_samples} x {args.seq_len} tokens; medians of {args.repeat}\n")
    print("| | forward passes | Hessians | solver | engine | all | ratio | peak MB | must be there, MB |")
    print("|---" * 9 + "|")
    base = 0.0
    for method, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in keys}
        base = base or middle["all"]
        seconds = " | ".join(f"{middle[key]:.1f} s" for key in keys[:5])
        print(f"| {method} | {seconds} | {middle['all'] / base:.2f} | {middle['MB']:.0f} | {runs[0]['needed']:.0f} |")


def once(args: argparse.Namespace) -> dict[str, float]:
    """Seconds and megabytes of one run."""
    model = load_model(args.model)
    evidence = Evidence.of_text(model, args.calibration, n_samples=args.n_samples, seq_len=args.seq_len)
    tokens = evidence.rows.numel()
    start = time.perf_counter()
    with watched() as memory:
        cutting = apply(Recipe.of(args.one), args.sparsity, evidence)
    seconds = time.perf_counter() - start
    if cutting.operated is None:
        raise AssertionError("the engine ran")
    decoder = model.decoder
    block = decoder.block_parameters(model.shapes) / decoder.n_layers
    read = decoder.n_heads * decoder.d_head + decoder.d_mlp
    width = max(decoder.d_mlp, decoder.n_heads * decoder.d_head)
    size = 2 if model.preferred_dtype().itemsize == 2 else 4
    changed = size * sum(tensor.numel() for tensor in cutting.operated.parameters.values())
    needed = size * block + size * tokens * (decoder.d_model + read) + width**2 * (4 + 8 + 8) + changed
    facts = dict(cutting.operated.seconds)
    return facts | {"engine": sum(facts.values()), "all": seconds, "MB": memory[-1] - memory[0], "needed": needed / 1e6}


@contextmanager
def watched() -> Iterator[list[float]]:
    """Megabytes that are resident and not mapped from a file: at first, and at most."""
    found, done = [resident()] * 2, threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            found[-1] = max(found[-1], resident())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def resident() -> float:
    """Megabytes that are resident now and not mapped from a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


if __name__ == "__main__":
    main()

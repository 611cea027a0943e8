"""SparseLLM against SparseGPT on a real model: error of the MLPs and perplexity, over calibration seeds.

python -m tests.benchmarks.sparsellm --calibration VALID --text TEST -o RESULTS.jsonl [--model gemma3-270m] [...]

Every run is one line of RESULTS, so that a run that was stopped goes on where it was; the table is of all lines there.
The MLP error is the mean over pruned blocks of ``|Y - Y'|^2 / |Y|^2`` on the calibration text, ``Y`` what the dense MLP
gives for what it reads behind the pruned blocks. ``first_half`` is the paper's protocol: only the first half of the
blocks is pruned. Blocks are pruned one after the other, so those are the first half of what pruning all of them gives,
and no run of their own. Nothing is chosen by the evaluation text.
"""

import argparse
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from graphprune import Model, load_model
from graphprune.calibration.text import read_text, spread, windows
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Recipe, layers_of
from graphprune.models.model import build_causal_lm
from graphprune.pruning import Evidence, apply
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.mlp import MLP_ERROR
from graphprune.solvers.sequential import Overlaid
from tests.benchmarks.engine import watched
from tests.benchmarks.results import Results

METHODS: dict[str, dict[str, Any]] = {
    "sparsegpt": {"method": "sparsellm", "joint": JointOptions(iterations=1)},  # the local step alone, errors noted
    "sparsellm": {"method": "sparsellm"},
    "published": {"method": "sparsellm", "joint": JointOptions(variant="published")},
    "reconstruct": {"method": "sparsegpt", "compensation": "reconstruct"},
    "wanda": {"method": "wanda", "compensation": "sparsellm", "joint": JointOptions(iterations=1)},
    "wanda, sparsellm": {"method": "wanda", "compensation": "sparsellm"},
}
BLOCKS = ("all", "first_half")
SHOWN = (("perplexity", "", 1), ("mlp_error", ", error of the MLPs", 3))
AMOUNTS = ("0.5", "0.6", "0.7", "0.8", "0.9", "2:4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS")
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=24)
    parser.add_argument("--amounts", nargs="+", default=AMOUNTS, help="sparsities and patterns")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["sparsegpt", "sparsellm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    sizes = {"n_samples": args.n_samples, "seq_len": args.seq_len}
    results = Results.read(args.output, {"model": args.model, **sizes, "windows": args.max_windows})
    model = load_model(args.model)
    rows = spread(windows(model.tokenizer, read_text(args.text), args.seq_len), args.max_windows)
    found = []
    for amount, seed, method in product(args.amounts, args.seeds, args.methods):
        key = {"amount": amount, "seed": seed, "method": method}
        evidence = Evidence.of_text(model, args.calibration, seed=seed, **sizes)
        found.append(results.of(key, partial(measured, model, evidence, rows, amount, METHODS[method])))
    _show(found, args)


def measured(
    model: Model, evidence: Evidence, rows: torch.Tensor, amount: str, choices: dict[str, Any]
) -> dict[str, Any]:
    """Perplexity and the mean error of the MLPs, of all blocks pruned and of the first half; seconds and memory."""
    recipe = Recipe.of(**{**choices, "pattern": amount if ":" in amount else "unstructured"})
    start = time.perf_counter()
    with watched() as memory:
        cutting = apply(recipe, recipe.sparsity(None if ":" in amount else float(amount)), evidence)
    seconds = time.perf_counter() - start
    operated = cutting.operated
    if operated is None:
        raise AssertionError("the engine ran")
    result: dict[str, Any] = {}
    for blocks in BLOCKS:
        layers = layers_of(blocks, model.architecture.n_layers)
        changed = {k: W for k, W in operated.parameters.items() if model.architecture.layer_of(k) in layers}
        network: Any = build_causal_lm(model.config, Overlaid(model.parameters, changed), None, model.preferred_dtype())
        errors = [float(operated.notes[f"{MLP_ERROR}.{layer}"][-1]) for layer in layers]
        result[blocks] = {"perplexity": perplexity(network.eval(), rows), "mlp_error": statistics.mean(errors)}
    solver = operated.seconds["solver"]
    return result | {"seconds": seconds, "solver": solver, "megabytes": round(memory[-1] - memory[0])}


def _show(lines: list[dict[str, Any]], args: argparse.Namespace) -> None:
    for blocks in BLOCKS:
        print(f"\n| {blocks} | " + " | ".join(args.amounts) + " |")
        print("|---" * (len(args.amounts) + 1) + "|")
        for (what, label, digits), method in product(SHOWN, args.methods):
            own = [line for line in lines if line["method"] == method]
            cells = [_cell([line[blocks][what] for line in own if line["amount"] == a], digits) for a in args.amounts]
            print(f"| {method}{label} | " + " | ".join(cells) + " |")


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return ""
    spread_ = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):,.{digits}f}{spread_}"


if __name__ == "__main__":
    main()

"""Every scorer on a real model: perplexity after removing MLP neurons, the same share of every layer, no compensation.

python -m tests.benchmarks.scorers --model smollm2-135m --calibration VALID --text TEST

The calibration text chooses nothing here and the evaluation text is only reported on.
"""

import argparse
from pathlib import Path
from typing import Any

from graphprune import calibrate, load_model, score
from graphprune.calibration.text import read_text, spread, windows
from graphprune.core.mask import Mask
from graphprune.evaluation.masked import perplexity_of_masks
from graphprune.methods import Cut
from graphprune.pruning import cut

METHODS: list[tuple[str, str, dict[str, Any]]] = [
    ("random", "random", {}),
    ("magnitude, L1", "magnitude", {"norm": 1}),
    ("magnitude, L2", "magnitude", {"norm": 2}),
    ("magnitude, L1 of the rows of gate and up", "magnitude", {"norm": 1, "part": "incoming"}),
    ("activation", "activation", {}),
    ("Wanda, summed over a unit", "wanda", {}),
    ("LLM-Rank, weighted PageRank, chained", "llmrank", {}),
    ("LLM-Rank, weighted PageRank, isolated", "llmrank", {"blocks": "isolated"}),
    ("LLM-Rank, γ = 0 (the published default: activation norm of `up`)", "llmrank", {"gamma": 0.0}),
    ("LLM-Rank, modified PageRank, chained", "llmrank", {"rank": "mpr"}),
    ("LLM-Rank, modified PageRank, isolated", "llmrank", {"rank": "mpr", "blocks": "isolated"}),
    ("MLPRank, weighted PageRank, sees gate and product", "mlprank", {"mlp": "gated"}),
    ("MLPRank, modified PageRank, sees gate and product", "mlprank", {"rank": "mpr", "mlp": "gated"}),
    ("GraphRank", "graphrank", {}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=24)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.4])
    args = parser.parse_args()
    model = load_model(args.model)
    stats = calibrate(model, args.calibration, n_samples=args.n_samples, seq_len=args.seq_len)
    rows = spread(windows(model.tokenizer, read_text(args.text), args.seq_len), args.max_windows)
    masks = [Mask.full(model.units)]
    for _, scorer, options in METHODS:
        scores = score(model, scorer, stats=stats, **options)
        masks += [cut(model, scores, sparsity, Cut(units="neuron")) for sparsity in args.sparsity]
    values = perplexity_of_masks(model, masks, rows)
    print(f"{model.name}, dense {next(values):.2f}; {len(rows)} windows of {args.seq_len}, "
          f"calibrated on {args.n_samples} x {args.seq_len} tokens\n")  # fmt: skip
    print("| scorer | " + " | ".join(f"{sparsity:.0%}" for sparsity in args.sparsity) + " |")
    print("|---" * (1 + len(args.sparsity)) + "|")
    for label, *_ in METHODS:
        print(f"| {label} | " + " | ".join(f"{next(values):,.1f}" for _ in args.sparsity) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How GraphRank's options were chosen: perplexity on calibration text that the statistics haven't seen.

python -m tests.benchmarks.graphrank_ablation --model smollm2-135m --calibration VALID

No evaluation text is read. The default is the row with the lowest perplexity at 20 % of the neurons.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch

from graphprune import calibrate, load_model, score
from graphprune.calibration.text import read_text, sampled, spread, windows
from graphprune.evaluation.masked import perplexity_of_masks
from graphprune.methods import Cut
from graphprune.pruning import cut

START = {"backward": "outputs", "forward": "inputs", "both": "uniform"}


def configurations() -> list[tuple[str, dict[str, Any]]]:
    rows: list[tuple[str, dict[str, Any]]] = [("activation", {}), ("wanda", {})]
    for weight, direction in product(("activation", "magnitude"), START):
        rows.append(
            ("graphrank", {"weight": weight, "direction": direction, "alpha": 0.9, "personalization": START[direction]})
        )
    for alpha, start in ((1.0, "outputs"), (0.7, "outputs"), (0.85, "uniform"), (0.5, "uniform")):
        rows.append(
            ("graphrank", {"weight": "activation", "direction": "backward", "alpha": alpha, "personalization": start})
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=12)
    args = parser.parse_args()
    model = load_model(args.model)
    everything = windows(model.tokenizer, read_text(args.calibration), args.seq_len)
    seen = sampled(everything, args.n_samples, 0)
    unseen = torch.stack([row for row in everything if not bool((seen == row).all(dim=1).any())])
    rows = spread(unseen, args.max_windows)
    stats = calibrate(model, seen)
    settings = [("neuron", 0.2), ("neuron", 0.4), ("head", 0.2)]
    all_scores = [score(model, scorer, stats=stats, **options) for scorer, options in configurations()]
    masks = [cut(model, scores, sparsity, Cut(units=units)) for scores in all_scores for units, sparsity in settings]  # type: ignore[arg-type]
    values = perplexity_of_masks(model, masks, rows)
    print(
        "| scorer | edges | direction | alpha | starts at | " + " | ".join(f"{u}s {s:.0%}" for u, s in settings) + " |"
    )
    print("|---" * (5 + len(settings)) + "|")
    for scorer, options in configurations():
        cells = [str(options.get(key, "")) for key in ("weight", "direction", "alpha", "personalization")]
        cells += [f"{next(values):,.2f}" for _ in settings]
        print(f"| {scorer} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

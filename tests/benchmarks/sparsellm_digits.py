"""What pruning a perceptron as one chain gains over pruning it layer by layer: accuracy on digits that weren't seen.

Run as ``python -m tests.benchmarks.sparsellm_digits``; it prints Markdown tables and writes nothing. The perceptrons
and data are those of `tests.benchmarks.mlprank_digits`; single weights go, calibrated on the images that trained them.
"""

import argparse
from statistics import fmean, stdev
from typing import Any

from graphprune import Model, prune
from graphprune.solvers.joint import JointOptions
from tests.benchmarks.mlprank_digits import ARCHITECTURES, Digits, trained

METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"by": "magnitude", "pattern": "unstructured"},
    "sparsegpt: every layer on its own": {"by": "sparsegpt"},
    "sparsellm: one chain, 4 rounds": {"by": "sparsellm"},
    "sparsellm: one chain, 12 rounds": {"by": "sparsellm", "joint": JointOptions(iterations=12, tolerance=0.0)},
    "sparsellm as published, 4 rounds": {"by": "sparsellm", "joint": JointOptions(variant="published")},
    "reconstruct: 20 passes": {"by": "sparsegpt", "compensation": "reconstruct", "joint": JointOptions(iterations=20)},
}
SPARSITIES = (0.7, 0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    found: dict[tuple[str, str, float], list[float]] = {}
    dense: dict[str, list[float]] = {}
    for label, sizes in ARCHITECTURES.items():
        for seed in args.seeds:
            digits = Digits.split(seed)
            model = Model.from_module(trained(sizes, digits, seed))
            dense.setdefault(label, []).append(accuracy(model, digits))
            for method, choices in METHODS.items():
                if "published" in method and len(sizes) != 3:  # it is for two layers
                    continue
                for sparsity in SPARSITIES:
                    pruned = prune(model, sparsity=sparsity, calibration=digits.train[0], **choices)
                    found.setdefault((label, method, sparsity), []).append(accuracy(pruned.model, digits))
    for label in ARCHITECTURES:
        print(f"\n| {label}, dense {_cell(dense[label])} | " + " | ".join(f"{s:.0%}" for s in SPARSITIES) + " |")
        print("|---" * (1 + len(SPARSITIES)) + "|")
        for method in METHODS:
            if (label, method, SPARSITIES[0]) in found:
                cells = [_cell(found[label, method, sparsity]) for sparsity in SPARSITIES]
                print(f"| {method} | " + " | ".join(cells) + " |")


def accuracy(model: Model, digits: Digits) -> float:
    images, labels = digits.test
    return float((model.module()(images).argmax(dim=1) == labels).float().mean())


def _cell(values: list[float]) -> str:
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}" if len(values) > 1 else f"{100 * values[0]:.1f}"


if __name__ == "__main__":
    main()

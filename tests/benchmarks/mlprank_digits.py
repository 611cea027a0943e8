"""MLPRank against random, L1 and activation on perceptrons that read digits.

Run as ``python -m tests.benchmarks.mlprank_digits``; it prints a Markdown table and writes nothing.

Setup, after Hoffmann et al. 2024 (arXiv 2410.13299): ReLU perceptrons with 2, 3 and 6 layers; the same share of every
hidden layer's neurons is removed, outputs stay; statistics from 64 training images; no fine-tuning. Their networks read
MNIST, FashionMNIST and CIFAR-10; these read scikit-learn's digits (1797 images of 8 x 8), a third of them held out.
Retention is accuracy of the pruned network over that of the dense one, on the held-out third. Nothing is tuned on it:
method options are the published defaults.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from graphprune import Model, Scores, calibrate, prune, score

ARCHITECTURES = {
    "two layers": (64, 256, 10),
    "three layers": (64, 256, 256, 10),
    "six layers": (64, 256, 256, 128, 128, 64, 10),
}
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
BASELINES = ("random", "L1", "activation")
RANKS = ("MLPRank wpr", "MLPRank mpr")
METHODS = (*BASELINES, *RANKS)
N_CALIBRATION, N_RANDOM_DRAWS, EPOCHS, BATCH = 64, 5, 40, 64


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1] and labels, split by a seed into two thirds to train and one to test."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def split(cls, seed: int) -> "Digits":
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels, dtype=torch.long)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        first = order[: 2 * len(x) // 3]
        rest = order[2 * len(x) // 3 :]
        return cls((x[first], y[first]), (x[rest], y[rest]))


def trained(sizes: Sequence[int], digits: Digits, seed: int) -> nn.Sequential:
    """A ReLU perceptron trained with Adam at its default rate, from a seed of its own."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            for tensor in (linear.weight, linear.bias):
                tensor.uniform_(-(n_in**-0.5), n_in**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = digits.train
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            optimiser.zero_grad()
            loss: Any = nn.functional.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            optimiser.step()
    return network.eval()


def scores_of(model: Model, inputs: torch.Tensor, seed: int) -> dict[str, list[Scores]]:
    """What each method says of the neurons; random is drawn several times."""
    stats = calibrate(model, inputs)
    return {
        "random": [score(model, "random", seed=N_RANDOM_DRAWS * seed + draw) for draw in range(N_RANDOM_DRAWS)],
        "L1": [score(model, "magnitude", norm=1, part="incoming")],
        "activation": [score(model, "activation", stats=stats)],
        "MLPRank wpr": [score(model, "mlprank", stats=stats, rank="wpr")],
        "MLPRank mpr": [score(model, "mlprank", stats=stats, rank="mpr")],
    }


def accuracy(network: nn.Module, examples: tuple[torch.Tensor, torch.Tensor]) -> float:
    with torch.inference_mode():
        return float((network(examples[0]).argmax(dim=1) == examples[1]).double().mean())


def retention(sizes: Sequence[int], seed: int) -> tuple[float, dict[tuple[str, float], float]]:
    """The dense accuracy, and the retention in percent by method and sparsity."""
    digits = Digits.split(seed)
    network = trained(sizes, digits, seed)
    dense = accuracy(network, digits.test)
    model = Model.from_module(network)
    result = {}
    for method, draws in scores_of(model, digits.train[0][:N_CALIBRATION], seed).items():
        for sparsity in SPARSITIES:
            kept = [accuracy(prune(model, draw, sparsity).model.module(), digits.test) for draw in draws]
            result[method, sparsity] = 100 * fmean(kept) / dense
    return dense, result


def advantages(result: dict[tuple[str, float], float], rank: str, baselines: Sequence[str]) -> float:
    """Mean over sparsities and baselines of what a rank retains more, in percentage points."""
    return fmean(result[rank, s] - result[baseline, s] for s in SPARSITIES for baseline in baselines)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description="MLPRank on digits, as a Markdown table.")
    parser.add_argument("--seeds", type=int, default=10)
    n_seeds = parser.parse_args().seeds
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    results = {name: [retention(sizes, seed) for seed in range(n_seeds)] for name, sizes in ARCHITECTURES.items()}

    print(f"Accuracy retention in percent, mean ± standard deviation over {n_seeds} seeds.\n")
    row("network (dense accuracy)", "removed", *METHODS)
    row("---", *(["---:"] * (len(METHODS) + 1)))
    for name, runs in results.items():
        title = f"{name} ({100 * fmean(dense for dense, _ in runs):.1f} %)"
        for sparsity in SPARSITIES:
            values = [[result[method, sparsity] for _, result in runs] for method in METHODS]
            row(title, f"{sparsity:.0%}", *(f"{fmean(v):.1f} ± {stdev(v):.1f}" for v in values))

    print("\nAdvantage in percentage points, mean over sparsities ± standard deviation over seeds.\n")
    row("network", "score", *(f"over {baseline}" for baseline in BASELINES), "over the three")
    row("---", "---", *(["---:"] * (len(BASELINES) + 1)))
    everything = {**results, "all": [run for runs in zip(*results.values(), strict=True) for run in runs]}
    for name, runs in everything.items():
        for rank in RANKS:
            cells = []
            for baselines in (*((baseline,) for baseline in BASELINES), BASELINES):
                gains = [advantages(result, rank, baselines) for _, result in runs]
                if name == "all":  # a seed's mean over the networks, so that the spread is that over seeds
                    size = len(results)
                    gains = [fmean(gains[k : k + size]) for k in range(0, len(gains), size)]
                cells.append(f"{fmean(gains):+.2f} ± {stdev(gains):.2f}")
            row(name, rank, *cells)


if __name__ == "__main__":
    main()

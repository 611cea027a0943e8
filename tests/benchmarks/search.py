"""The accuracy predictor and the search on a real model: what it finds, what it costs, whether it holds.

python -m tests.benchmarks.search --model smollm2-135m --calibration VALID --text TEST -o RUN [--seeds 0 1 2]

Statistics and candidates see the calibration text alone, different windows of it; the test text is only reported on,
after everything has been chosen. For each seed: a search, then the searched, uniform, logarithmic and graph
allocations, that by error curves, with which the search begins, and the best of random search at the same number of
evaluations, all pruned by the final recipe and read on the test text. Then the predictor on pairs that meet no
budget: held-out agreement of every kind, the coverage of its intervals, a learning curve, and 12 unseen candidates,
predicted, then measured. What was measured is kept in the run folder, so that the same command goes on after a kill.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune import Model, load_model
from graphprune.calibration.text import read_text, spread, windows
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Cut, Recipe
from graphprune.models.model import build_causal_lm
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.data import Data
from graphprune.prediction.executors import Executor
from graphprune.prediction.predictor import learn
from graphprune.prediction.report import agreement, compared, coverage, learning_curve
from graphprune.prediction.sampling import sampled
from graphprune.prediction.search import STRATEGIES, Found, Options, Task, check_installed, random_search
from graphprune.pruning import apply
from graphprune.steps.pipeline import Calibration, open_run
from graphprune.steps.searching import Bench, Goal, Judged, default_recipe
from graphprune.surgery.cut import zeroed

UNSEEN = 12


class Setting:
    """What all searches share."""

    def __init__(self, model: Model, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        choice = Cut(head_mode=args.head_mode)
        recipe = default_recipe(args.method, cut=choice)
        self.final = Recipe.of(args.final, cut=choice)
        goal = Goal(args.sparsity, recipe, self.final, tuple(args.protect), margin=args.margin)
        goal.check()
        calibration = Calibration(args.calibration, n_samples=args.n_samples, seq_len=args.seq_len)
        judged = Judged(max_windows=args.max_windows)
        judged.check(calibration)
        self.bench = Bench.of(
            model, open_run(args.output, model), goal, calibration, judged, Executor(workers=args.workers)
        )
        self.test = spread(windows(model.tokenizer, read_text(args.text), args.seq_len), args.test_windows)
        self.known: dict[str, float] = {}

    def reported(self, architecture: Architecture) -> float:
        """Perplexity on the test text after pruning by the final recipe; nothing is chosen by it."""
        if architecture.key not in self.known:
            cutting = apply(self.final, self.args.sparsity, self.bench.evidence, remove=architecture.remove)
            parameters = zeroed(cutting.model.parameters, cutting.model.units, cutting.mask)
            network: Any = build_causal_lm(cutting.model.config, parameters, None, self.model.preferred_dtype()).eval()
            self.known[architecture.key] = perplexity(network, self.test)
        return self.known[architecture.key]

    def task(self, seed: int) -> Task:
        args = self.args
        options = Options(args.evaluations, args.pairs, args.rounds, args.design, args.predictor, seed=seed)
        starts = [self.bench.allocation(name) for name in args.starts]
        return Task(self.bench.space, args.sparsity, self.bench.measure, options, starts)


def main() -> None:
    args = _arguments()
    check_installed(args.strategy)
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    start = time.perf_counter()
    setting = Setting(model, args)
    print(f"{model.name}, dense {perplexity(model.module(), setting.test):.2f} on {len(setting.test)} windows of "
          f"{args.seq_len} tokens of {args.text.name}; {args.sparsity:.0%} of the block parameters removed; candidates "
          f"by {setting.bench.goal.recipe.scorer} with {setting.bench.goal.recipe.compensation}, judged on "
          f"{args.max_windows} windows of {args.calibration.name}; pruned in the end by {args.final}; statistics took "
          f"{time.perf_counter() - start:.0f} s\n")  # fmt: skip
    _searches(setting)
    _predictor(setting)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the test text: only reported on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder: where measured pairs are kept")
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--method", help="of the candidates (default wanda with repair, no pass)")
    parser.add_argument("--final", default="slimgpt", help="how all allocations are pruned for the report")
    parser.add_argument("--head-mode", default="balanced")
    parser.add_argument("--protect", type=int, nargs="*", default=[])
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--strategy", choices=STRATEGIES, default="surrogate")
    parser.add_argument("--evaluations", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--design", default="paper")
    parser.add_argument("--predictor", default="both")
    parser.add_argument("--starts", nargs="*", default=["uniform", "log", "curves"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: the predictor alone")
    parser.add_argument("--learn", type=int, default=80, help="pairs of the predictor's own report; 0 for none")
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=12)
    parser.add_argument("--test-windows", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _searches(setting: Setting) -> None:
    """The table of allocations, by seed, and what each search cost."""
    args, bench = setting.args, setting.bench
    if not args.seeds:
        return
    named = ["uniform", "log", "graph", "curves"]
    fixed = {name: setting.reported(bench.allocation(name)) for name in named}
    print(f"| seed | {args.strategy} | random | " + " | ".join(named)
          + " | against uniform | evaluations | stopped early | minutes |")  # fmt: skip
    print("|---" * (7 + len(named)) + "|", flush=True)
    gains = []
    for seed in args.seeds:
        task, start = setting.task(seed), time.perf_counter()
        found = STRATEGIES[args.strategy](task)
        minutes = (time.perf_counter() - start) / 60
        drawn = random_search(task)
        best, other = setting.reported(found.best.architecture), setting.reported(drawn.best.architecture)
        gains.append(best / fixed["uniform"] - 1)
        stopped = sum(pair.stopped for pair in found.pairs)
        print(f"| {seed} | {best:.2f} | {other:.2f} | " + " | ".join(f"{fixed[name]:.2f}" for name in named)
              + f" | {gains[-1]:+.2%} | {found.evaluations} | {stopped} | {minutes:.1f} |", flush=True)  # fmt: skip
        _chosen(setting, found)
    print(f"\nagainst uniform: mean {np.mean(gains):+.2%} over {len(gains)} seeds, worst {max(gains):+.2%}\n")


def _chosen(setting: Setting, found: Found) -> None:
    """What a search takes least and most from, as a comment below the row."""
    vector = setting.bench.space.vector(found.best.architecture)
    order = vector.argsort()
    groups = setting.bench.space.groups
    names = [f"{groups[at]} {vector[at]:.2f}" for at in (*order[:4], *order[-4:])]
    print(f"<!-- least and most sparse: {', '.join(names)} -->", flush=True)


def _predictor(setting: Setting) -> None:
    """How good the predictor is on pairs that meet no budget, and 12 unseen ones."""
    args, bench = setting.args, setting.bench
    if not args.learn:
        return
    plain = replace(bench, job=replace(bench.job, stop=None))
    drawn = sampled(bench.space, args.learn + UNSEEN, design=args.design, seed=1000)
    order = np.random.default_rng(0).permutation(len(drawn))  # the design's first are tied, its last are not
    made = [drawn[at] for at in order]
    pairs = plain.measure(made)
    data = Data.of(bench.space, pairs[: args.learn])
    predictor = learn(data, kind=args.predictor)
    print(f"| predictor, {len(data)} pairs | Spearman | Kendall | R² | MAE, nats |\n|---|---|---|---|---|")
    for kind, held in compared(data).items():
        print(f"| {kind} | {held.spearman:.3f} | {held.kendall:.3f} | {held.r2:.3f} | {held.mae:.4f} |")
    for name, held in agreement(predictor).items():
        print(f"\n{args.predictor}, {name}: Spearman {held.spearman:.3f}; 90 % intervals hold "
              f"{coverage(data, kind=args.predictor):.0%} of held-out pairs\n")  # fmt: skip
    print("| pairs | Spearman on those left out | deviation |\n|---|---|---|")
    for n, (mean, deviation) in learning_curve(data, kind=args.predictor).items():
        print(f"| {n} | {mean:.3f} | {deviation:.3f} |")
    unseen = bench.space.vectors(made[args.learn :])
    middle, (low, high) = predictor.predict(unseen)[:, 0], predictor.intervals(unseen)
    print("\n| unseen candidate | sparsity | predicted | 90 % interval | measured |\n|---|---|---|---|---|")
    for i, pair in enumerate(pairs[args.learn :]):
        measured = next(iter(pair.quality.values()), float("nan"))
        print(f"| {i + 1} | {bench.space.sparsity(pair.architecture):.1%} | {middle[i]:.2f} | {low[i, 0]:.2f} to "
              f"{high[i, 0]:.2f} | {measured:.2f} |")  # fmt: skip
    importance = sorted(predictor.importance().items(), key=lambda each: -each[1][0])
    print("\nmost important: " + ", ".join(f"{name} {mean:.2g}" for name, (mean, _) in importance[:8]))
    print("least: " + ", ".join(name for name, _ in importance[-8:]))


if __name__ == "__main__":
    main()

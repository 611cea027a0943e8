"""Every method on a real model: perplexity against what is removed, what it cost, and a plot.

python -m tests.benchmarks.methods --model smollm2-135m --calibration VALID --text TEST -o RESULTS.jsonl [--plot FILE]

Structured methods at equal shares of the decoder blocks' linear parameters (methods that rank neurons alone take more
of these); single weights at equal shares of the same. Nothing is chosen here: the calibration text calibrates, the
evaluation text is only reported on. A method that needs no calibration cuts at once; the others go through the
sequential engine. Statistics, gradients and credit of the dense model are measured once for all sparsities, so that the
median seconds are without them; `tests.benchmarks.engine` has them. Every run is a line of RESULTS, so that a run that
was stopped goes on where it was. With `--times FILE` the seconds are taken from another file of results, made with the
machine to itself.
"""

import argparse
import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphprune import Model, load_model
from graphprune.calibration.text import read_text, spread, windows
from graphprune.core.errors import GraphpruneError
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Cut, Recipe
from graphprune.models.model import build_causal_lm
from graphprune.pruning import Evidence, apply
from graphprune.surgery.cut import zeroed
from graphprune.surgery.removed import removed
from tests.benchmarks.results import Results

NEURONS = Cut(units="neuron")
STRUCTURED: list[tuple[str, str, dict[str, Any]]] = [
    ("graphslim", "graphslim", {}),
    ("graphslim, repaired by least squares", "graphslim", {"compensation": "obs"}),
    ("slimgpt", "slimgpt", {}),
    ("wanda", "wanda", {}),
    ("activation", "activation", {}),
    ("taylor", "taylor", {}),
    ("flap", "flap", {}),
    ("graphrank", "graphrank", {}),
    ("credit", "credit", {}),
    ("random", "random", {}),
    ("magnitude", "magnitude", {}),
    ("llmrank (neurons)", "llmrank", {}),
    ("mlprank (neurons)", "mlprank", {}),
    ("slimgpt, neurons alone", "slimgpt", {"cut": NEURONS}),
]
SINGLE = ("magnitude", "wanda", "sparsegpt")
PATTERNS = ("2:4", "4:8", "1:4")  # N of every M weights of a row stay


@dataclass(frozen=True)
class Setting:
    """What all methods share."""

    model: Model
    evidence: Evidence
    rows: torch.Tensor
    results: Results

    def of(self, label: str, recipe: Recipe, sparsity: float | None) -> dict[str, Any]:
        """Perplexity, the share of the blocks' linear parameters removed, and the seconds of pruning."""
        amount = recipe.pattern if sparsity is None else sparsity
        key = {"method": label, "of": "weights" if recipe.of_weights else "units", "amount": amount}
        return self.results.of(key, lambda: self._measured(recipe, sparsity))

    def _measured(self, recipe: Recipe, sparsity: float | None) -> dict[str, Any]:
        needs = recipe.scorer == "obs" or recipe.compensation != "none" or recipe.cut.allocation in {"graph", "curves"}
        evidence = self.evidence if needs or not _alone(recipe) else Evidence(self.model)
        start = time.perf_counter()
        amount = recipe.sparsity(None) if sparsity is None else sparsity * share_of(self.model, recipe)
        cutting = apply(recipe, amount, evidence)
        seconds = time.perf_counter() - start
        parameters = zeroed(cutting.model.parameters, cutting.model.units, cutting.mask)
        network: Any = build_causal_lm(cutting.model.config, parameters, None, self.model.preferred_dtype()).eval()
        facts = removed(self.model, cutting.mask, (HEAD, KV_HEAD, NEURON))
        return {
            "perplexity": perplexity(network, self.rows),
            "removed": facts["prunable_params_removed"],
            "seconds": round(seconds, 1),
        }


def _alone(recipe: Recipe) -> bool:
    """Whether a recipe needs no text."""
    try:
        recipe.check_without_text()
    except GraphpruneError:
        return False
    return True


def share_of(model: Model, recipe: Recipe) -> float:
    """The blocks' linear parameters over those of the kinds that a recipe prunes."""
    neurons_only = recipe.cut.units == "neuron" or recipe.scorer in {"llmrank", "mlprank"}
    everything = model.units.prunable_parameters(HEAD, KV_HEAD, NEURON)
    return everything / model.units.prunable_parameters(NEURON) if neurons_only else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS")
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=24)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--single", type=float, nargs="*", default=[0.5, 0.7])
    parser.add_argument("--only", nargs="*", help="these structured methods alone")
    parser.add_argument("--times", type=Path, metavar="RESULTS", help="seconds are from there")
    parser.add_argument("--plot", type=Path, help="where to draw the structured methods")
    args = parser.parse_args()
    model = load_model(args.model)
    evidence = Evidence.of_text(model, args.calibration, n_samples=args.n_samples, seq_len=args.seq_len)
    rows = spread(windows(model.tokenizer, read_text(args.text), args.seq_len), args.max_windows)
    sizes = {"model": args.model, "samples": args.n_samples, "seq_len": args.seq_len, "windows": args.max_windows}
    setting = Setting(model, evidence, rows, Results.read(args.output, sizes))
    dense = setting.results.of({"method": "dense"}, lambda: {"perplexity": perplexity(model.module(), rows)})[
        "perplexity"
    ]
    structured = [row for row in STRUCTURED if args.only is None or row[0] in args.only]
    curves = {label: [setting.of(label, Recipe.of(method, **choices), s) for s in args.sparsity]
              for label, method, choices in structured}  # fmt: skip
    single = {method: _single(setting, method, args.single) for method in SINGLE if args.single}
    share = model.units.prunable_parameters(HEAD, KV_HEAD, NEURON) / model.n_parameters
    print(f"{model.name}, dense {dense:.2f}; {len(rows)} windows of {args.seq_len}, calibrated on "
          f"{args.n_samples} x {args.seq_len} tokens; block parameters are {share:.1%} of all\n")  # fmt: skip
    times = Results.read(args.times or args.output, sizes)
    _show("method", [f"{s:.0%}" for s in args.sparsity], curves, times)
    print("| parameters kept, of all | " + " | ".join(f"{1 - s * share:.1%}" for s in args.sparsity) + " | |")
    missed = max(
        abs(line["removed"] - s) for found in curves.values() for line, s in zip(found, args.sparsity, strict=True)
    )
    print(f"\nEvery mask removes what is asked of it to within {missed:.3%} of the block parameters.")
    if single:
        print()
        _show("single weights", [*(f"{s:.0%}" for s in args.single), *PATTERNS], single, times)
    if args.plot is not None:
        draw({label: [line["perplexity"] for line in found] for label, found in curves.items()}, args.sparsity, dense,
             args.plot)  # fmt: skip


def _single(setting: "Setting", method: str, sparsities: list[float]) -> list[dict[str, Any]]:
    found = [setting.of(method, Recipe.of(method, pattern="unstructured"), s) for s in sparsities]
    return [*found, *(setting.of(method, Recipe.of(method, pattern=pattern), None) for pattern in PATTERNS)]


def _show(what: str, columns: list[str], found: dict[str, list[dict[str, Any]]], times: Results) -> None:
    print(f"| {what} | " + " | ".join(columns) + " | seconds |")
    print("|---" * (2 + len(columns)) + "|")
    for label, lines in found.items():
        seconds = sorted(line["seconds"] for line in times.lines if _alike(line, lines[0]))
        median = f"{seconds[len(seconds) // 2]:.0f}" if seconds else ""
        print(f"| {label} | " + " | ".join(_number(line["perplexity"]) for line in lines) + f" | {median} |")


def _alike(line: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are of one method."""
    return all(line.get(name) == other[name] for name in ("method", "of"))


def _number(perplexity: float) -> str:
    return f"{perplexity:,.1f}" if perplexity < 1000 else f"{perplexity:,.0f}"


def draw(curves: dict[str, list[float]], sparsities: list[float], dense: float, path: Path) -> None:
    """Perplexity over sparsity, on a logarithmic scale; what explodes leaves the picture."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 5), dpi=150, layout="constrained")
    ticker = importlib.import_module("matplotlib.ticker")
    axes = figure.subplots()
    markers = "osv^D<>pXP*hd8"
    for index, (label, values) in enumerate(sorted(curves.items(), key=lambda item: item[1][-1])):
        best, again = label == "graphslim", index >= 10  # there are ten colours
        axes.plot([0, *sparsities], [dense, *values], marker=markers[index % len(markers)], markersize=5,
                  linewidth=2.5 if best else 1.2, linestyle="--" if again else "-", label=label,
                  zorder=3 if best else 2)  # fmt: skip
    axes.set(yscale="log", ylim=(dense * 0.95, 400), xlabel="block parameters removed",
             ylabel="perplexity, WikiText-2 test (log scale)")  # fmt: skip
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_locator(ticker.FixedLocator([30, 40, 50, 70, 100, 150, 200, 300, 400]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


if __name__ == "__main__":
    main()

"""Every scorer on one graph: where they agree, which are what they say, and what their masks cost.

python -m tests.benchmarks.arena --model smollm2-135m --calibration VALID --text TEST -o RUN [--figures FOLDER]

Neurons go, a scorer's lowest first, at every sparsity, by every allocation, with and without repair; heads stay, since
LLM-Rank scores none. A predictor takes part that has learned from random architectures, judged on windows of the
calibration text that calibration leaves. Nothing is chosen here: the evaluation text is only reported on. What has
been measured lies in the run folder, and a line a mask in RUN/arena.jsonl with its seconds: a study that was stopped
goes on where it was.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from graphprune import Comparison, Scores, load_model
from graphprune.comparison.consequence import Consequence, Consequences, Series
from graphprune.core.io import digest
from graphprune.core.run import Run
from graphprune.methods import Cut
from graphprune.models.model import Model
from graphprune.plots import (
    agreement_matrix,
    block_agreement,
    overlap_curves,
    percolation_curves,
    predictive,
    robustness_curves,
)
from graphprune.plots.image import image
from graphprune.prediction.search import Options
from graphprune.steps.auditing import audit_step
from graphprune.steps.comparing import compare_step
from graphprune.steps.consequences import Laboratory, Measured, told
from graphprune.steps.pipeline import Calibration, export_step, open_run, rank_step, score_step
from graphprune.steps.searching import Goal, Judged, default_recipe, predictor_of, search_step
from tests.benchmarks.results import Results

SCORERS: list[tuple[str, str, dict[str, Any]]] = [
    ("random", "random", {}),
    ("magnitude", "magnitude", {}),
    ("activation", "activation", {}),
    ("wanda", "wanda", {}),
    ("taylor", "taylor", {}),
    ("flap", "flap", {}),
    ("obs", "obs", {}),
    ("sparsellm", "sparsellm", {}),
    ("llmrank", "llmrank", {}),
    ("llmrank-0", "llmrank", {"gamma": 0.0}),
    ("mlprank", "mlprank", {"rank": "mpr", "mlp": "gated"}),
    ("graphrank", "graphrank", {}),
    ("credit", "credit", {}),
]
CENTRALITIES: list[tuple[str, str, dict[str, Any]]] = [
    ("pagerank", "pagerank", {"direction": "backward", "personalization": "outputs"}),
    ("path-mass", "path_mass", {}),
]
ALLOCATIONS, COMPENSATIONS = ("uniform", "graph"), ("none", "obs")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=12)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--seeds", type=int, default=2, help="of the calibration, for stability")
    parser.add_argument("--pairs", type=int, default=64, help="architectures that the predictor learns from")
    parser.add_argument("--figures", type=Path)
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    model = load_model(args.model)
    run = open_run(args.output, model)
    texts = [
        Calibration(args.calibration, n_samples=args.n_samples, seq_len=args.seq_len, seed=seed)
        for seed in range(args.seeds)
    ]
    export_step(model, run, calibration=texts[0])
    files = []
    for label, scorer, options in SCORERS:
        once = scorer in {"random", "magnitude", "sparsellm"}  # the first two see no text, the last takes minutes
        names = [label if seed == 0 else f"{label}-seed{seed}" for seed in range(1 if once else args.seeds)]
        for name, calibration in zip(names, texts, strict=False):
            score_step(model, run, scorer=scorer, calibration=calibration, name=name, **options)
        files.append(",".join(names))
    for label, centrality, options in CENTRALITIES:
        rank_step(run, centrality=centrality, name=label, **options)
        files.append(label)
    scored = time.perf_counter()
    _predict(model, run, texts[0], args.pairs)
    predicted = time.perf_counter()
    files.append("predictor")
    labels = [file.split(",")[0] for file in files]
    agreement = compare_step(run, files, name="arena", kinds=["neuron"])
    measured = Measured(args.text, args.seq_len, args.max_windows)
    audit = audit_step(run, files, sparsity=args.sparsity[0], measured=measured, name="arena")
    found = _measured(Laboratory(run, model, texts[0], measured), labels, args.sparsity)
    found.save(run.folder / "comparisons" / "arena-consequences.json")
    end = time.perf_counter()
    _print(found, agreement, audit, args.sparsity)
    if args.figures is not None:
        _draw(args.figures, Comparison.load(Path(agreement["comparison"])), found)
    seconds = {"scores": scored - start, "predictor": predicted - scored, "masks and the rest": end - predicted}
    told_apart = ", ".join(f"{name} {each:,.0f}" for name, each in seconds.items())
    print(f"\n{end - start:,.0f} s ({told_apart}), without what was found again")


def _predict(model: Model, run: Run, calibration: Calibration, pairs: int) -> None:
    """The scores of a predictor that has seen so many random architectures, in one way of pruning."""
    goal = Goal(0.3, default_recipe(cut=Cut(units="neuron")))
    judged, options = Judged(max_windows=4), Options(evaluations=pairs)
    drawn = search_step(
        model, run, goal=goal, calibration=calibration, judged=judged, options=options, strategy="random", starts=()
    )  # fmt: skip
    chosen_by = Scores.load(run.scores_path(goal.recipe.scorer))
    predictor_of(Path(drawn["pairs"]), model).scores(chosen_by).save(run.scores_path("predictor"))


def _measured(laboratory: Laboratory, labels: list[str], sparsities: list[float]) -> Consequences:
    calibration, measured = laboratory.calibration.key(), laboratory.measured.key()
    setting = {"model": laboratory.model.name, "key": digest([laboratory.model.identity, calibration, measured])}
    results = Results.read(laboratory.run.folder / "arena.jsonl", setting)
    rows = []
    for label, allocation, compensation, sparsity in product(labels, ALLOCATIONS, COMPENSATIONS, sparsities):
        series = Series(label, allocation, compensation)

        def measure(series: Series = series, sparsity: float = sparsity) -> dict[str, Any]:
            start = time.perf_counter()
            row = laboratory.of(series, sparsity, series.scorer, "neuron")
            return {"graph": dict(row.graph), "quality": dict(row.quality), "seconds": time.perf_counter() - start}

        line = results.of({**vars(series), "sparsity": sparsity}, measure)
        rows.append(Consequence(series, sparsity, line["graph"], line["quality"]))
    settings = {"units": "neuron", "calibration": calibration, "measured": measured}
    return Consequences(tuple(rows), laboratory.dense(), laboratory.model.identity, settings)


def _print(found: Consequences, agreement: dict[str, Any], audit: dict[str, Any], sparsities: list[float]) -> None:
    """The README's tables."""
    print(f"\ndense: perplexity {found.dense['perplexity']:.2f}\n")
    ways = list(product(ALLOCATIONS, COMPENSATIONS, sparsities))
    print("| scorer | " + " | ".join(f"{a}{' + obs' if c == 'obs' else ''}, {s:.0%}" for a, c, s in ways) + " |")
    print("|---" * (1 + len(ways)) + "|")
    for label in dict.fromkeys(series.scorer for series in found.series):
        cells = [found.curve(Series(label, a, c), "perplexity")[s] for a, c, s in ways]
        print(f"| {label} | " + " | ".join(f"{value:,.1f}" for value in cells) + " |")
    print("\n| scorer | log perplexity | nats a token | with repair |\n|---|---|---|---|")
    for label in dict.fromkeys(series.scorer for series in found.series):
        areas = [found.area(Series(label), "perplexity"), found.area(Series(label), "kl")]
        areas.append(found.area(Series(label, compensation="obs"), "kl"))
        print(f"| {label} | " + " | ".join("-" if x is None else f"{x:.3f}" for x in areas) + " |")
    print("\n| quantity of the graph | perplexity | divergence |\n|---|---|---|")
    for row in told(found)["predicts"]:
        told_by = ["-" if row[name] is None else f"{row[name]:.2f}" for name in ("perplexity", "kl")]
        print(f"| {row['quantity']} | {' | '.join(told_by)} |")
    print("\nclusters: " + "; ".join(" = ".join(cluster) for cluster in agreement["clusters"]))
    for verdict in audit["verdicts"]:
        if verdict["flagged"]:
            print(f"{verdict['scorer']} {verdict['text']}")


def _draw(folder: Path, comparison: Comparison, found: Consequences) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    uniform = [series for series in found.series if series.allocation == "uniform"]
    figures = {
        "agreement": agreement_matrix(comparison),
        "overlap": overlap_curves(comparison, "wanda"),
        "blocks": block_agreement(comparison, "wanda"),
        "percolation": percolation_curves(found, "path_mass"),
        "robustness": robustness_curves(found, "kl", series=uniform),
        "predictive": predictive(found),
    }
    for name, figure in figures.items():
        figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
        (folder / f"{name}.png").write_bytes(image(figure, "png", 1000, None))


if __name__ == "__main__":
    main()

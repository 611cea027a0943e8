"""Where the run's scorers agree, what audits say of them, and what their masks cost."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from graphprune import plots
from graphprune.comparison.consequence import FORMAT as CONSEQUENCES
from graphprune.comparison.consequence import QUALITIES, Consequences
from graphprune.comparison.result import Comparison
from graphprune.core.io import read_json
from graphprune.reporting.source import FILE, STEP, Source

WORDS = {"kl": "KL divergence"}


def add_comparisons(source: Source) -> None:
    """Adds comparisons, audits, and the consequences of masks."""
    files = source.files("comparisons", "*.safetensors")
    for path in files:
        _comparison(source, path)
    if not files:
        source.lacks("a comparison of the scorers", "compare RUN")
    audits = source.files("audits", "*.json")
    for path in audits:
        caption = (
            "Is each scorer what it says it is? `flagged` is true where something is wrong, and empty where it could "
            "not be checked; `number` is what the verdict rests on."
        )
        rows = [verdict | _from(source, path) for verdict in read_json(path).get("verdicts", [])]
        source.table(f"audit-{path.stem}", f"Audit: {path.stem}", caption, rows)
    if not audits:
        source.lacks("an audit of the scorers", "audit RUN")
    for path in source.files("comparisons", "*.json"):
        if read_json(path).get("format") == CONSEQUENCES:
            _consequences(source, path)


def _from(source: Source, path: Path) -> dict[str, str]:
    return {FILE: source.place(path), STEP: source.step_of(path)}


def _comparison(source: Source, path: Path) -> None:
    found, name = Comparison.load(path), f"comparison-{path.stem}"
    labels = [found.labels[i] for i in found.order]
    title = f"Comparison: {path.stem}"
    notes = "".join(f" Note: {note}." for note in found.notes)
    caption = (
        "Spearman's rank correlation of what the scorers say of the same units: 1 for the same order, 0 for unrelated "
        f"orders, -1 for the opposite. Similar scorers stand beside each other.{notes}"
    )
    source.figure(name, title, caption, [path], partial(plots.agreement_matrix, found, title=title))
    central = found.clusters()[0][0]
    title = f"Do they remove what {central} removes?"
    caption = (
        f"Of the units that {central} or another scorer would remove, the share that both would (the Jaccard index), "
        "over how many go. The dotted line is what chance gives."
    )
    source.figure(f"{name}-overlap", title, caption, [path], partial(plots.overlap_curves, found, central, title=title))
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    rows = [{"scores": a, "with": b, **_agreed(found, a, b), **_from(source, path)} for a, b in pairs]
    caption = "Every two scorers, by three statistics; `low` and `high` bound the interval over calibration seeds."
    source.table(name, "The same in numbers", caption, rows)


def _agreed(found: Comparison, a: str, b: str) -> Mapping[str, float | None]:
    by_rank = found.agreed(a, b)
    return {
        "spearman": by_rank.value, "low": by_rank.low, "high": by_rank.high,
        "kendall": found.agreed(a, b, "kendall").value, "rbo": found.agreed(a, b, "rbo").value,
    }  # fmt: skip


def _consequences(source: Source, path: Path) -> None:
    found, name = Consequences.load(path), f"consequences-{path.stem}"
    rows: list[dict[str, Any]] = [
        {
            "masks": row.series.name,
            "sparsity": row.sparsity,
            **row.quality,
            **row.graph,
            FILE: source.place(path),
            STEP: "compare",
        }
        for row in found.rows
    ]
    for quantity in sorted(found.quantities, key=lambda each: each not in QUALITIES):
        is_quality = quantity in QUALITIES
        words = WORDS.get(quantity, quantity.replace("_", " "))
        title = f"What pruning costs the model: {words}" if is_quality else f"What is left of the graph: {words}"
        caption = "A line is a way of making masks, a point a mask, over the share of the parameters that it removes."
        draw = plots.robustness_curves if is_quality else plots.percolation_curves
        source.figure(f"{name}-{quantity}", title, caption, [path], partial(draw, found, quantity, title=title))
    caption = "Every mask: its quality in the model, and what it leaves of the graph."
    source.table(name, f"Consequences of masks: {path.stem}", caption, rows)

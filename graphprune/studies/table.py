"""The table of a study: means and deviations over seeds, as Markdown for people, CSV and JSON for programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import fmean, median, stdev
from typing import Any

from graphprune.studies.store import Result
from graphprune.studies.study import DENSE, Cell, Draw

FORMAT, VERSION = "graphprune.study", 1
PERPLEXITY, ACCURACY, RETENTION = "perplexity.", "acc", "retention"
TITLES = {"acc": "accuracy", "acc_norm": "accuracy a character", "retention": "accuracy retained",
          "retention_norm": "accuracy a character retained"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way of pruning one model by one share, over all seeds.

    Attributes:
        model: its name.
        method: what the way is called, or `dense`.
        draw: the calibration, but for the seed; None where nothing sees it.
        sparsity: the fraction removed, as it was asked for.
        seeds: how many results that differ in their seed there are; one where nothing depends on it.
        means: of each quality; infinite where one is.
        deviations: of a sample, where there are several results, all of them finite.
        removed: the share of the blocks' linear parameters that is gone, and of all parameters.
        params_removed: likewise, of all parameters.
        seconds: of pruning, the median.
        refused: why there is no result.
    """

    model: str
    method: str
    draw: Draw | None
    sparsity: float
    seeds: int
    means: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    removed: float = 0.0
    params_removed: float = 0.0
    seconds: float = 0.0
    refused: str = ""

    def facts(self) -> dict[str, Any]:
        """The row for programs; None stands for infinity."""
        drawn = {} if self.draw is None or self.draw.text is None else {**vars(self.draw), "text": self.draw.text.name}
        facts: dict[str, Any] = {"model": self.model, "method": self.method, "sparsity": self.sparsity, **drawn}
        facts |= {name: getattr(self, name) for name in ("seeds", "removed", "params_removed", "seconds")}
        for name, mean in self.means.items():
            facts[name] = mean if isfinite(mean) else None
            if name in self.deviations:
                facts[f"{name}.sd"] = self.deviations[name]
        return facts | ({"refused": self.refused} if self.refused else {})


@dataclass(frozen=True)
class Table:
    """What came of a study.

    Attributes:
        title: of the study.
        rows: dense models first, in the order of the study.
    """

    title: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, title: str, found: Iterable[tuple[Cell, Result]]) -> "Table":
        """From the results of all cells that there are."""
        pairs = list(found)
        dense = {cell.model: result.quality for cell, result in pairs if cell.recipe is None}
        rows: dict[tuple[Any, ...], list[tuple[Cell, Result]]] = {}
        for cell, result in pairs:
            rows.setdefault((cell.model, cell.method, cell.draw, cell.sparsity), []).append((cell, result))
        return cls(title, tuple(_row(cells, dense.get(cells[0][0].model, {})) for cells in rows.values()))

    @property
    def qualities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.means))

    @property
    def sparsities(self) -> tuple[float, ...]:
        return tuple(sorted({row.sparsity for row in self.rows if row.method != DENSE}))

    def dense(self, model: str) -> Row | None:
        return next((row for row in self.rows if (row.model, row.method) == (model, DENSE)), None)

    def series(self) -> dict[str, tuple[Row, ...]]:
        """The rows of each way of pruning, by a name that says no more than what differs between them."""
        ways: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            if row.method != DENSE:
                ways.setdefault((row.model, row.method, row.draw), []).append(row)
        models = {model for model, *_ in ways}
        draws = {draw for *_, draw in ways if draw is not None}
        named = {}
        for (model, method, draw), rows in ways.items():
            parts = [model] if len(models) > 1 else []
            parts += [method, *([] if draw is None else _differing(draw, draws))]
            named[", ".join(parts)] = tuple(sorted(rows, key=lambda row: row.sparsity))
        return named

    def markdown(self) -> str:
        """A table for each quality: a line a way of pruning, a column a sparsity; at 0 the dense model."""
        parts = [f"# {self.title}", *(self._of_quality(name) for name in self.qualities)]
        if refused := [row for row in self.rows if row.refused]:
            parts.append("\n".join(f"- {row.method} at {row.sparsity:g}: {row.refused}" for row in refused))
        return "\n\n".join(parts) + "\n"

    def _of_quality(self, name: str) -> str:
        lines = [[title(name), "0", *(f"{sparsity:.3g}" for sparsity in self.sparsities), "seconds"]]
        lines.append(["---"] * len(lines[0]))
        for label, rows in self.series().items():
            at = {row.sparsity: row for row in rows}
            seconds = f"{median(row.seconds for row in rows):.3g}"
            cells = (cell(row, name) for row in (self.dense(rows[0].model), *map(at.get, self.sparsities)))
            lines.append([label, *cells, seconds])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self) -> str:
        """A line a row of the study; nothing stands for infinity."""
        rows = [row.facts() for row in self.rows]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def facts(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "title": self.title, "rows": [row.facts() for row in self.rows]}


def title(quality: str) -> str:
    """What a quality is called in a heading."""
    kind, _, of = quality.partition(".")
    return ", ".join([TITLES.get(kind, kind), *([of] if of else [])])


def cell(row: Row | None, name: str) -> str:
    """A mean and its deviation, as precisely as one reads them."""
    if row is None or name not in row.means:
        return "-"
    number = _perplexity if name.startswith(PERPLEXITY) else "{:.1%}".format
    mean = number(row.means[name])
    return f"{mean} ± {number(row.deviations[name])}" if name in row.deviations else mean


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _row(cells: Sequence[tuple[Cell, Result]], dense: Mapping[str, float]) -> Row:
    first, results = cells[0][0], list({result.key: result for _, result in cells}.values())
    place = (first.model, first.method, first.draw, first.sparsity, len(results))
    if refused := next((result.refused for result in results if result.refused), ""):
        return Row(*place, refused=refused)
    qualities = [{**result.quality, **_retained(result.quality, dense)} for result in results]
    values = {name: [quality[name] for quality in qualities] for name in qualities[0]}
    means = {name: fmean(each) if all(map(isfinite, each)) else inf for name, each in values.items()}
    several = {name: stdev(each) for name, each in values.items() if len(each) > 1 and isfinite(means[name])}
    removed, of_all = (fmean(getattr(result, name) for result in results) for name in ("removed", "params_removed"))
    return Row(*place, means, several, removed, of_all, median(result.seconds for result in results))


def _retained(quality: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
    """Accuracies divided by the dense model's, and their mean over tasks if there are several."""
    found = {
        name.replace(ACCURACY, RETENTION, 1): value / dense[name]
        for name, value in quality.items() if name.startswith(ACCURACY) and dense.get(name)
    }  # fmt: skip
    tasks = [value for name, value in found.items() if name.startswith(f"{RETENTION}.")]
    return found | ({RETENTION: fmean(tasks)} if len(tasks) > 1 else {})


def _differing(draw: Draw, draws: set[Draw]) -> list[str]:
    """What of a calibration isn't the same in all of them."""
    parts = []
    if len({each.text for each in draws}) > 1 and draw.text is not None:
        parts.append(draw.text.stem)
    if len({each.n_samples for each in draws}) > 1:
        parts.append(f"{draw.n_samples} samples")
    if len({each.seq_len for each in draws}) > 1:
        parts.append(f"{draw.seq_len} tokens")
    return parts

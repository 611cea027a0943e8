"""What masks do to the graph and to the model, over sparsity, and which of the one tells of the other beforehand."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.comparison.percolation import QUANTITIES
from graphprune.comparison.ranks import spearman
from graphprune.comparison.result import Agreed
from graphprune.core.errors import FormatError
from graphprune.core.io import read_json, write_json

FORMAT, VERSION = "graphprune.consequences", 1
PERPLEXITY, KL = "perplexity", "kl"
QUALITIES = (PERPLEXITY, KL)
FEWEST = 3  # masks for a correlation


@dataclass(frozen=True)
class Series:
    """How masks of one curve are made.

    Attributes:
        scorer: a label.
        allocation: how much goes from which layer.
        compensation: how what stays makes up for it.
    """

    scorer: str
    allocation: str = "uniform"
    compensation: str = "none"

    @property
    def name(self) -> str:
        parts = [self.scorer, *([self.allocation] if self.allocation != "uniform" else [])]
        return ", ".join(parts) + (f" + {self.compensation}" if self.compensation != "none" else "")


@dataclass(frozen=True)
class Consequence:
    """What one mask does.

    Attributes:
        series: how it was made.
        sparsity: the fraction removed.
        graph: what is left of the graph, by quantity (`percolation`); empty if there is none.
        quality: `perplexity` and `kl` of the model; empty if they weren't measured.
    """

    series: Series
    sparsity: float
    graph: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)

    def value(self, quantity: str) -> float | None:
        """A number by name, of the graph or of the model; None if there is none."""
        return {**self.graph, **self.quality}.get(quantity)


@dataclass(frozen=True)
class Consequences:
    """The consequences of many masks of one model.

    Attributes:
        rows: one a mask.
        dense: the quality of the dense model, and what its graph has of each quantity.
        model: hash of its checkpoint.
        settings: text, windows and calibration.
        inputs: hash of everything they depend on.
    """

    rows: tuple[Consequence, ...]
    dense: Mapping[str, float]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = ""

    @property
    def series(self) -> tuple[Series, ...]:
        return tuple(dict.fromkeys(row.series for row in self.rows))

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is known of every mask."""
        return tuple(
            name for name in (*QUANTITIES, *QUALITIES) if all(row.value(name) is not None for row in self.rows)
        )

    def curve(self, series: Series, quantity: str) -> dict[float, float]:
        """A quantity over sparsity, from the dense model on, where that is known."""
        found = {0.0: self.dense[quantity]} if quantity in self.dense else {}
        for row in self.rows:
            if row.series == series and (value := row.value(quantity)) is not None:
                found[row.sparsity] = value
        return dict(sorted(found.items()))

    def area(self, series: Series, quantity: str) -> float | None:
        """The mean of a quantity over sparsity, by trapezoids: the area under its curve over the width of that.

        Perplexity counts by its logarithm, so that the area is in nats. None with fewer than two points.
        """
        points = [
            (sparsity, log(value) if quantity == PERPLEXITY else value)
            for sparsity, value in self.curve(series, quantity).items()
            if quantity != PERPLEXITY or (isfinite(value) and value > 0)
        ]
        if len(points) < 2:
            return None
        x, y = (np.array(column) for column in zip(*points, strict=True))
        return float(np.trapezoid(y, x) / (x[-1] - x[0]))

    def predicted_by(self, quantity: str, quality: str = PERPLEXITY, *, compensation: str = "none") -> Agreed:
        """How well what is left of the graph tells what pruning costs: Spearman over the masks of one sparsity.

        The mean over sparsities, weighted by their masks: over all masks at once every quantity would do well, since
        all fall with sparsity. Negative where more is left of what predicts less damage.
        """
        total, masks = 0.0, 0
        for sparsity in sorted({row.sparsity for row in self.rows}):
            here = [row for row in self.rows if row.sparsity == sparsity and row.series.compensation == compensation]
            known = [(row.value(quantity), row.value(quality)) for row in here]
            pairs = [(a, b) for a, b in known if a is not None and b is not None]
            if len(pairs) < FEWEST:
                continue
            value = spearman(np.array(pairs).T)[0, 1]
            if not np.isnan(value):
                total, masks = total + float(value) * len(pairs), masks + len(pairs)
        if not masks:
            why = (
                f"{quantity} and {quality} are known of fewer than {FEWEST} masks of a sparsity, or are the same there"
            )
            return Agreed(None, why=why)
        return Agreed(total / masks)

    def save(self, path: Path) -> None:
        """Writes them as JSON; numbers that are not finite become null."""
        rows = [asdict(row) | {"quality": _finite(row.quality)} for row in self.rows]
        facts = {"dense": dict(self.dense), "model": self.model, "settings": dict(self.settings), "inputs": self.inputs}
        write_json(path, {"format": FORMAT, "version": VERSION, "rows": rows, **facts})

    @classmethod
    def load(cls, path: Path) -> "Consequences":
        """Reads consequences.

        Raises:
            InputError: there is no such file.
            FormatError: it is something else, of a newer version, or damaged.
        """
        facts = read_json(path)
        if facts.get("format") != FORMAT:
            raise FormatError(f"{path} is no {FORMAT} file")
        if not isinstance(facts.get("version"), int) or facts["version"] > VERSION:
            raise FormatError(f"{path} has format version {facts.get('version')}; this program reads up to {VERSION}")
        try:
            rows = tuple(
                Consequence(
                    Series(**row["series"]), float(row["sparsity"]), _numbers(row["graph"]), _numbers(row["quality"])
                )
                for row in facts["rows"]
            )
            return cls(rows, _numbers(facts["dense"]), facts["model"], facts["settings"], facts["inputs"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{path} is damaged: {error!r}") from error


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in numbers.items()}


def _numbers(facts: Mapping[str, float | None]) -> dict[str, float]:
    """Numbers by name; null stands for infinity."""
    return {name: float("inf") if value is None else float(value) for name, value in facts.items()}

"""Results of studies, one JSON line a cell, only ever appended to and found again by what they depend on.

A line is written whole and flushed before the next cell is begun. Of a writer that is killed at most the last line is
half there; it is skipped with a warning, and whoever appends next starts a new one.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

from graphprune.core.errors import FormatError
from graphprune.core.io import append_line, read_lines

FORMAT, VERSION = "graphprune.cell", 1


class ResultWarning(UserWarning):
    """A line of a store that can't be read, and is skipped."""


@dataclass(frozen=True)
class Result:
    """What has come of a cell.

    Attributes:
        key: hash of all that it depends on.
        quality: by name: `perplexity.TEXT`, `acc.TASK`, `acc_norm.TASK`.
        removed: the share of the blocks' linear parameters that is gone.
        params_removed: the share of all parameters.
        seconds: of pruning, without what cells of one calibration share.
        refused: why the model can't be pruned so; empty if it could.
    """

    key: str
    quality: Mapping[str, float] = field(default_factory=dict)
    removed: float = 0.0
    params_removed: float = 0.0
    seconds: float = 0.0
    refused: str = ""

    def line(self, about: Mapping[str, Any]) -> str:
        """The result as one line of JSON, with what a reader wants to know of the cell; null stands for infinity."""
        quality = {name: value if isfinite(value) else None for name, value in self.quality.items()}
        facts = {"format": FORMAT, "version": VERSION, **about, **vars(self), "quality": quality}
        return json.dumps(facts, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Store:
    """A file of results."""

    path: Path

    def results(self) -> dict[str, Result]:
        """All of them by their keys; of several with one key the first.

        Warns:
            ResultWarning: a line can't be read; it is skipped.

        Raises:
            FormatError: the file can't be read, or is of a newer version.
        """
        found: dict[str, Result] = {}
        for number, line in enumerate(read_lines(self.path), start=1):
            if not line.strip():
                continue
            try:
                result = _read(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                warnings.warn(
                    f"line {number} of {self.path} can't be read as a result and is skipped", ResultWarning,
                    stacklevel=1,
                )  # fmt: skip
                continue
            found.setdefault(result.key, result)
        return found

    def append(self, result: Result, about: Mapping[str, Any]) -> None:
        """Adds a result, whole and on the disk when this returns.

        Raises:
            GraphpruneError: the disk is full or the file can't be written.
        """
        append_line(self.path, result.line(about))


def _read(line: bytes) -> Result:
    """A result.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the line is damaged.
        FormatError: it is of a newer version.
    """
    facts: dict[str, Any] = json.loads(line.decode())
    if facts["format"] != FORMAT:
        raise ValueError("no result")
    if int(facts["version"]) > VERSION:
        raise FormatError(f"the results are of version {facts['version']}; this program reads up to {VERSION}")
    quality = {str(name): inf if value is None else float(value) for name, value in facts["quality"].items()}
    removed, of_all, seconds = (float(facts[name]) for name in ("removed", "params_removed", "seconds"))
    return Result(str(facts["key"]), quality, removed, of_all, seconds, str(facts["refused"]))

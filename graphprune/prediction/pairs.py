"""Architectures and what they were measured to cost, one JSON line a pair, only ever appended to.

A line is written whole and flushed before the next candidate is begun. Of a writer that is killed at most the last line
is half there; it is skipped with a warning, and whoever appends next starts a new one.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from graphprune.core.errors import FormatError
from graphprune.core.io import append_line, read_lines
from graphprune.prediction.architecture import Architecture

FORMAT, VERSION = "graphprune.pair", 1


class PairWarning(UserWarning):
    """A line of a store that can't be read, and is skipped."""


@dataclass(frozen=True)
class Origin:
    """What a measurement depends on besides the architecture.

    Attributes:
        model: hash of the dense checkpoint.
        method: hash of how candidates are pruned, with the text they are calibrated on.
        text: hash of what they are judged on.
    """

    model: str
    method: str
    text: str

    def check(self, other: "Origin", where: str) -> None:
        """Checks that pairs have the same origin.

        Raises:
            FormatError: they haven't; the message says what differs.
        """
        for name, what in (
            ("model", "another model"),
            ("method", "another way of pruning"),
            ("text", "other texts to judge by"),
        ):
            if getattr(self, name) != getattr(other, name):
                raise FormatError(f"{where} holds pairs of {what}; name another file or folder")


@dataclass(frozen=True)
class Pair:
    """An architecture and its quality.

    Attributes:
        architecture: what was removed.
        quality: by name: `perplexity.TEXT`, or what a judge measures. Empty if a number is not finite.
        losses: by text, nats a token of every window that was read.
        stopped: whether it was hopeless after a part of the windows, so that the quality is an estimate from these.
        seconds: of pruning and judging it.
    """

    architecture: Architecture
    quality: Mapping[str, float]
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0

    def line(self, origin: Origin) -> str:
        """The pair as one line of JSON.

        Raises:
            ValueError: a number is not finite.
        """
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "key": self.architecture.key,
            "origin": [origin.model, origin.method, origin.text],
            "remove": {group: count for group, count in self.architecture.remove.items() if count},
            "quality": dict(self.quality),
            "losses": {name: list(values) for name, values in self.losses.items()},
            "stopped": self.stopped,
            "seconds": self.seconds,
        }
        return json.dumps(facts, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class PairStore:
    """A file of pairs of one origin.

    Attributes:
        path: the file; it need not be there yet.
        origin: of all of its pairs.
    """

    path: Path
    origin: Origin

    def pairs(self) -> dict[str, Pair]:
        """All pairs by the key of their architecture; of several with one key the first.

        Warns:
            PairWarning: a line can't be read; it is skipped.

        Raises:
            FormatError: a pair is of another model, was pruned in another way or judged by other texts, or the file is
                of a newer version.
        """
        found: dict[str, Pair] = {}
        for number, line in enumerate(read_lines(self.path), start=1):
            if not line.strip():
                continue
            try:
                pair, origin = _read(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                warnings.warn(
                    f"line {number} of {self.path} can't be read as a pair and is skipped", PairWarning, stacklevel=1
                )
                continue
            origin.check(self.origin, str(self.path))
            found.setdefault(pair.architecture.key, pair)
        return found

    def append(self, pair: Pair) -> None:
        """Adds a pair, whole and on the disk when this returns.

        Raises:
            GraphpruneError: the disk is full or the file can't be written.
        """
        append_line(self.path, pair.line(self.origin))


def origin_of(path: Path) -> Origin | None:
    """What the first pair of a file that can be read says of its origin; None if there is none.

    Raises:
        FormatError: the file can't be read, or is of a newer version.
    """
    for line in read_lines(path):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            return _read(line)[1]
    return None


def _read(line: bytes) -> tuple[Pair, Origin]:
    """A pair and where it is from.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the line is damaged.
        FormatError: it is of a newer version.
    """
    facts: dict[str, Any] = json.loads(line.decode())
    if facts["format"] != FORMAT:
        raise ValueError("no pair")
    if int(facts["version"]) > VERSION:
        raise FormatError(f"the pairs are of version {facts['version']}; this program reads up to {VERSION}")
    architecture = Architecture({str(group): _count(count) for group, count in facts["remove"].items()})
    if architecture.key != facts["key"]:
        raise ValueError("the architecture is not the one that was measured")
    quality = {str(name): _finite(value) for name, value in facts["quality"].items()}
    losses = {str(name): tuple(map(_finite, values)) for name, values in facts["losses"].items()}
    model, method, text = map(str, facts["origin"])
    pair = Pair(architecture, quality, losses, bool(facts["stopped"]), _finite(facts["seconds"]))
    return pair, Origin(model, method, text)


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no number of pieces")
    return value


def _finite(value: Any) -> float:
    if type(value) not in {int, float} or not isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)

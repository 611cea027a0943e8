"""Finding units: a query in words such as ``neuron block:3 score:>0.9``, and the units that it describes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores

from .tables import Column, Table

KINDS = {
    "neuron": "neuron", "neurons": "neuron", "head": "head", "heads": "head", "stream": "resid", "resid": "resid",
}  # fmt: skip
FIELDS = ("block", "index", "score", "place")
EXPLAINED = (
    "Words that all must hold: a kind (neuron, head, stream), block:3 or block:2..5, index:17, score:>0.9 or "
    "score:0.1..0.5, and place:<10 for the tenth of its block and kind that the score ranks lowest. "
    "A name such as neuron.3.17 is a query too."
)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
RANGE = re.compile(rf"(?:(?P<sign>[<>]=?|=)?(?P<at>{NUMBER})|(?P<low>{NUMBER})\.\.(?P<high>{NUMBER}))")
NAME = re.compile(r"(?P<kind>[a-z]+)\.(?P<block>\d+)(?:\.(?P<index>\d+))?")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which count unless they are open."""

    low: float = -inf
    high: float = inf
    open_: bool = False

    @classmethod
    def parse(cls, text: str) -> "Range | None":
        """``3``, ``=3``, ``>0.9``, ``>=0.9``, ``0.1..0.5``; None if it is none of these."""
        found = RANGE.fullmatch(text)
        if found is None:
            return None
        if found["at"] is None:
            return cls(float(found["low"]), float(found["high"]))
        at, sign = float(found["at"]), found["sign"] or "="
        ends = {"=": (at, at), ">": (at, inf), "<": (-inf, at)}[sign[0]]
        return cls(*ends, open_=sign in {"<", ">"})

    def holds(self, values: Float[np.ndarray, " units"]) -> Bool[np.ndarray, " units"]:
        """Whether each is inside; what is no number isn't."""
        if self.open_:
            return np.asarray((values > self.low) & (values < self.high))
        return np.asarray((values >= self.low) & (values <= self.high))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.high == inf:
            return f"{'above' if self.open_ else 'at least'} {self.low:g}"
        if self.low == -inf:
            return f"{'below' if self.open_ else 'at most'} {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Units:
    """All units of a model, and what a scorer says of them.

    Attributes:
        kind: `neuron`, `head` or `resid`.
        layer: of the name.
        index: within the group.
        score: NaN where there is none.
        place: the share of its group, in per cent, that the score ranks lower; ties averaged.
    """

    kind: Shaped[np.ndarray, " units"]
    layer: Int[np.ndarray, " units"]
    index: Int[np.ndarray, " units"]
    score: Float[np.ndarray, " units"]
    place: Float[np.ndarray, " units"]

    @classmethod
    def of(cls, sizes: Mapping[str, int], scores: Scores | None) -> "Units":
        """The units of some groups."""
        values = {} if scores is None else scores.values
        parts = []
        for group, size in sizes.items():
            kind, layer = group.split(".")[:2]
            here = values[group].double().numpy() if group in values else np.full(size, np.nan)
            places = 100 * (rankdata(here) - 1) / max(size - 1, 1)  # of no numbers: no numbers
            parts.append((np.full(size, kind), np.full(size, int(layer)), np.arange(size), here, places))
        kinds, layers, indices, scored, placed = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(kinds, layers, indices, scored, placed)

    @property
    def block(self) -> Int[np.ndarray, " units"]:
        """The decoder block; the stream has two places in each."""
        return np.where(self.kind == "resid", self.layer // 2, self.layer)


@dataclass(frozen=True)
class Query:
    """What units are looked for.

    Attributes:
        kinds: any of these; any at all if empty.
        ranges: of `block`, `index`, `score`, `place`; all must hold.
        layer: of a name in the stream, whose layers are no blocks.
    """

    kinds: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    layer: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Query":
        """A query in words.

        Raises:
            InputError: a word is not understood; it is named.
        """
        kinds: list[str] = []
        ranges: dict[str, Range] = {}
        layer = None
        for word in text.lower().split():
            name, _, rest = word.partition(":")
            if (named := NAME.fullmatch(word)) is not None and named["kind"] in KINDS:
                kinds.append(KINDS[named["kind"]])
                layer = int(named["block"])
                if named["index"] is not None:
                    ranges["index"] = Range(float(named["index"]), float(named["index"]))
            elif word in KINDS:
                kinds.append(KINDS[word])
            elif name in FIELDS and (wanted := Range.parse(rest)) is not None:
                ranges[name] = wanted
            else:
                raise InputError(f"{word!r} is not understood. {EXPLAINED}")
        return cls(tuple(dict.fromkeys(kinds)), ranges, layer)

    def among(self, units: Units, score: str) -> Table:
        """The units that are described, highest scores first, then those without one.

        Raises:
            InputError: there are none.
        """
        kept = np.isin(units.kind, self.kinds) if self.kinds else np.ones(len(units.kind), dtype=bool)
        if self.layer is not None:
            kept &= units.layer == self.layer
        for name, wanted in self.ranges.items():
            kept &= wanted.holds(getattr(units, name).astype(float))
        rows = np.flatnonzero(kept)
        if not len(rows):
            raise InputError(f"there is no unit of {self}")
        rows = rows[np.argsort(-units.score[rows], kind="stable")]
        triples = zip(units.kind[rows].tolist(), units.layer[rows].tolist(), units.index[rows].tolist(), strict=True)
        names = [f"{kind}.{layer}.{index}" for kind, layer, index in triples]
        columns = (
            Column("unit", "unit", np.array(names), width=150),
            Column("kind", "kind", units.kind[rows], width=105),
            Column("block", "block", units.block[rows], width=100),
            Column("index", "index", units.index[rows], width=100),
            Column("score", score or "score", units.score[rows]),
            Column("place", "place in its block, %", units.place[rows], width=170),
        )
        return Table(columns, f"{len(rows):,} units of {self}.", names="unit")

    def __str__(self) -> str:
        kinds = " or ".join({"neuron": "neurons", "head": "heads", "resid": "stream"}[kind] for kind in self.kinds)
        parts = [kinds or "any kind", *(f"{name} {wanted}" for name, wanted in self.ranges.items())]
        return ", ".join(parts if self.layer is None else [parts[0], f"layer {self.layer}", *parts[1:]])

"""Tables of any length: sorted, filtered and cut into pages here, so a page of a long one comes as fast as any other.

What the grid in the browser asks for is AG Grid's: `startRow`, `endRow`, `sortModel`, `filterModel`.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from graphprune.core.errors import InputError

PAGE = 100  # rows that the browser is sent at a time
Request = Mapping[str, Any]
Rows = Int[np.ndarray, " rows"]
Kept = Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class Column:
    """A column: numbers, or words.

    Attributes:
        field: what requests call it.
        heading: what people do.
        values: one a row.
        width: in pixels.
    """

    field: str
    heading: str
    values: Shaped[np.ndarray, " rows"]
    width: int = 130

    @property
    def is_number(self) -> bool:
        return self.values.dtype.kind in "iuf"

    @cached_property
    def words(self) -> Shaped[np.ndarray, " rows"]:
        """In small letters, to look for words in."""
        return np.char.lower(self.values.astype(str))

    def at(self, row: int) -> int | float | str | None:
        """A value as JSON takes it, to four digits; None for no number."""
        value = self.values[row]
        if self.values.dtype.kind == "f":
            return float(f"{value:.4g}") if np.isfinite(value) else None
        return int(value) if self.is_number else str(value)


@dataclass(frozen=True)
class Table:
    """Columns of the same length.

    Attributes:
        columns: the first one has names, no two alike.
        says: what the rows are, in a sentence.
        names: the field of the state that a click on a row sets, also the column that it is set to; none if empty.
    """

    columns: tuple[Column, ...]
    says: str = ""
    names: str = ""

    def __len__(self) -> int:
        return len(self.columns[0].values)

    @cached_property
    def key(self) -> str:
        """What tells a table from one with other values."""
        found = blake2b(repr([(column.field, column.heading) for column in self.columns]).encode(), digest_size=8)
        for column in self.columns:
            found.update(np.ascontiguousarray(column.values).tobytes())
        return found.hexdigest()

    def column(self, field: str) -> Column:
        """A column by its field.

        Raises:
            InputError: there is none.
        """
        found = next((column for column in self.columns if column.field == field), None)
        if found is None:
            raise InputError(f"this table has no column {field!r}; it has {', '.join(c.field for c in self.columns)}")
        return found

    def rows(self, request: Request) -> Rows:
        """The rows that the filters leave, sorted; those that tie in their order.

        Raises:
            InputError: the request names no column of the table, or a filter that there is not.
        """
        kept = np.ones(len(self), dtype=bool)
        for field, wanted in (request.get("filterModel") or {}).items():
            kept &= _passing(self.column(field), wanted)
        rows = np.flatnonzero(kept)
        for key in reversed(request.get("sortModel") or []):
            values = self.column(key["colId"]).values[rows]
            ranks = np.unique(values, return_inverse=True)[1]
            rows = rows[np.argsort(-ranks if key.get("sort") == "desc" else ranks, kind="stable")]
        return rows

    def page(self, request: Request) -> dict[str, Any]:
        """The rows that the grid asks for, and how many there are."""
        rows = self.rows(request)
        start = int(request.get("startRow") or 0)
        here = rows[start : start + PAGE].tolist()
        data = [{column.field: column.at(row) for column in self.columns} for row in here]
        return {"rowData": data, "rowCount": len(rows)}

    def csv(self, request: Request) -> str:
        """All rows that the filters leave, sorted."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([column.heading for column in self.columns])
        writer.writerows([column.at(row) for column in self.columns] for row in self.rows(request).tolist())
        return out.getvalue()


def _passing(column: Column, wanted: Mapping[str, Any]) -> Kept:
    """The rows that a filter leaves: one condition, or several joined."""
    if "conditions" in wanted:
        parts = [_passing(column, each) for each in wanted["conditions"]]
        return np.asarray((np.logical_or if wanted.get("operator") == "OR" else np.logical_and).reduce(parts))
    what, tests = str(wanted.get("type")), _NUMBER if column.is_number else _TEXT
    if what in _BLANK:
        empty = ~np.isfinite(column.values.astype(float)) if column.is_number else column.words == ""
        return np.asarray(empty if what == "blank" else ~empty)
    if what not in tests:
        raise InputError(f"{column.heading} is not filtered by {what!r}, but by {', '.join((*tests, *_BLANK))}")
    try:
        if column.is_number:
            return _NUMBER[what](column.values, float(wanted["filter"]), float(wanted.get("filterTo") or 0))
        return _TEXT[what](column.words, str(wanted["filter"]).lower())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the filter of {column.heading} lacks what it compares with") from error


_BLANK = ("blank", "notBlank")
_NUMBER: Mapping[str, Callable[[np.ndarray, float, float], Kept]] = {
    "equals": lambda values, x, _: values == x,
    "notEqual": lambda values, x, _: values != x,
    "lessThan": lambda values, x, _: values < x,
    "lessThanOrEqual": lambda values, x, _: values <= x,
    "greaterThan": lambda values, x, _: values > x,
    "greaterThanOrEqual": lambda values, x, _: values >= x,
    "inRange": lambda values, low, high: (values >= low) & (values <= high),
}
_TEXT: Mapping[str, Callable[[np.ndarray, str], Kept]] = {
    "contains": lambda words, x: np.char.find(words, x) >= 0,
    "notContains": lambda words, x: np.char.find(words, x) < 0,
    "equals": lambda words, x: words == x,
    "notEqual": lambda words, x: words != x,
    "startsWith": np.char.startswith,
    "endsWith": np.char.endswith,
}


def of_rows(head: Mapping[str, str], rows: Sequence[Sequence[Any]], *, says: str, names: str = "") -> Table:
    """A table of rows, by field and heading; None is no number.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a table has at least one row")
    columns: list[Column] = []
    for (field, heading), values in zip(head.items(), zip(*rows, strict=True), strict=True):
        words = any(isinstance(value, str) for value in values)
        nothing = "" if words else np.nan
        array = np.array([nothing if value is None else value for value in values])
        columns.append(Column(field, heading, array, width=220 if not columns else 140))
    return Table(tuple(columns), says, names)

"""Progress on stderr: shown after two seconds, and only on a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it") -> "tqdm[T]":
    """The items, with a progress bar and the time left."""
    return tqdm(items, desc=what, total=total, unit=unit, disable=None, delay=2, leave=False)

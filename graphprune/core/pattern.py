"""Patterns of single weights: of every few neighbours in a row, how many stay."""

import re
from dataclasses import dataclass

from graphprune.core.errors import InputError


@dataclass(frozen=True)
class Pattern:
    """Of every ``of`` neighbouring weights of a row, ``stay`` stay: 2:4 is half of them, 1:4 a quarter.

    Raises:
        InputError: not ``1 <= stay < of``.

    >>> str(Pattern.parse("1:4")), Pattern(1, 4).sparsity
    ('1:4', 0.75)
    """

    stay: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.stay < self.of:
            raise InputError(_refusal(str(self)))

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """The pattern that a text like ``2:4`` names.

        Raises:
            InputError: it names none.
        """
        found = re.fullmatch(r"([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", text)
        if found is None:
            raise InputError(_refusal(text))
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.stay}:{self.of}"

    @property
    def sparsity(self) -> float:
        """The fraction that goes."""
        return 1 - self.stay / self.of

    def check(self, columns: int, name: str) -> None:
        """Checks that the rows of a parameter fall into whole groups.

        Raises:
            InputError: they don't.
        """
        if columns % self.of:
            raise InputError(f"{name} is {columns} wide, which {self.of} doesn't divide: it can't be pruned {self}")


def _refusal(text: str) -> str:
    return f"a pattern says how many of every few neighbouring weights stay, at least 1 and not all, as 2:4; not {text}"

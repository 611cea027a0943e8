"""A budget, and filling it exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from graphprune.core.errors import InfeasibleError, InputError
from graphprune.core.units import NEURON
from graphprune.masks.items import Pieces

Normalise = Literal["layer", "standard", "none"]


@dataclass(frozen=True)
class Allocation:
    """How many pieces go from each group.

    Attributes:
        remove: per group name, how many of its worst pieces.
        name: how it was decided.
    """

    remove: Mapping[str, int]
    name: str


@dataclass(frozen=True)
class Target:
    """What to remove.

    Attributes:
        sparsity: the fraction of ``prunable`` to remove, in [0, 1].
        prunable: all that counts: parameters or units.
        normalise: for `global`: scores are compared after scaling each layer's mean to 1 (`layer`), after shifting it
            to 0 and scaling the standard deviation to 1 (`standard`, as FLAP does), or raw per cost (`none`).
        round_to: widths that stay are rounded to a multiple of this, never above the original width.
        first: for `log` and `linear`: what the first layer loses at most.
    """

    sparsity: float
    prunable: int
    normalise: Normalise = "layer"
    round_to: int = 1
    first: float = 0.0625

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise InputError(f"sparsity is the fraction removed, between 0 and 1, not {self.sparsity}")
        if not 0 <= self.first <= 1:
            raise InputError(f"the first layer's sparsity is between 0 and 1, not {self.first}")
        if self.round_to < 1:
            raise InputError(f"widths are rounded to a multiple of at least 1, not {self.round_to}")
        if self.normalise not in {"layer", "standard", "none"}:
            raise InputError(f"scores are normalised by layer, standard or none, not {self.normalise!r}")

    @property
    def amount(self) -> int:
        return round(self.sparsity * self.prunable)

    def check_reachable(self, pieces: tuple[Pieces, ...]) -> None:
        """Checks that the floors leave enough to remove.

        Raises:
            InfeasibleError: they don't; the message names the largest sparsity that is reached.
        """
        most = sum(len(part) * part.cost for part in pieces)
        smallest = min((part.cost for part in pieces), default=1)
        if self.amount > most + smallest / 2:
            raise InfeasibleError(
                f"sparsity {self.sparsity:g} is out of reach: with what must stay in every layer, "
                f"the nearest is {most / max(self.prunable, 1):.4f}"
            )


def fill(order: Iterable[Pieces], amount: int) -> dict[str, int]:
    """Counts per group after walking the pieces in some order, taking each that still fits into the amount.

    One of the smallest pieces is also taken if that brings the sum nearer, so the result is within half of the smallest
    piece of the amount wherever pieces of that size are left.

    Args:
        order: one entry a piece; the n-th entry of a group stands for its n-th worst piece.
        amount: what the taken pieces should cost together.
    """
    pieces = list(order)
    smallest = min((part.cost for part in pieces), default=0)
    left, taken = amount, dict[str, int]()
    for part in pieces:  # pieces of a group cost the same, so once one is skipped no later one fits
        if part.cost <= left or (part.cost == smallest and part.cost <= 2 * left):
            taken[part.group] = taken.get(part.group, 0) + 1
            left -= part.cost
    return taken


def rounded(remove: Mapping[str, int], pieces: tuple[Pieces, ...], round_to: int) -> dict[str, int]:
    """Counts such that the neurons that stay are a multiple of ``round_to``, where a layer is that wide."""
    result = dict(remove)
    if round_to == 1:
        return result
    for part in pieces:
        widest = part.size // round_to * round_to
        if not part.group.startswith(f"{NEURON}.") or widest == 0:
            continue
        kept = part.size - remove.get(part.group, 0)
        width = min(max(round(kept / round_to), 1) * round_to, widest)
        floor = part.size - len(part)
        result[part.group] = part.size - min(max(width, -(-floor // round_to) * round_to), part.size)
    return result

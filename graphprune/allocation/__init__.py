"""How much goes from which layer: exact budgets, floors, legal pieces."""

from collections.abc import Callable

from graphprune.allocation.budget import Allocation as Allocation
from graphprune.allocation.budget import Normalise as Normalise
from graphprune.allocation.budget import Target as Target
from graphprune.allocation.ranked import ranked
from graphprune.allocation.schedule import SCHEDULES
from graphprune.core.errors import InputError
from graphprune.masks.items import Pieces

ALLOCATIONS: dict[str, Callable[[tuple[Pieces, ...], Target], Allocation]] = {
    **SCHEDULES,
    "global": ranked,
}


def allocate(name: str, pieces: tuple[Pieces, ...], target: Target) -> Allocation:
    """An allocation by name.

    Raises:
        InputError: the name is unknown.
        InfeasibleError: the floors don't allow that much.
    """
    if name not in ALLOCATIONS:
        raise InputError(f"no allocation is named {name!r}; there are {', '.join(ALLOCATIONS)}")
    return ALLOCATIONS[name](pieces, target)

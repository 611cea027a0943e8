"""The same fraction from every layer."""

from fractions import Fraction

from graphprune.allocation.budget import Allocation, Target, fill, rounded
from graphprune.core.units import HEAD
from graphprune.masks.items import Pieces


def uniform(pieces: tuple[Pieces, ...], target: Target) -> Allocation:
    """Every layer loses the same fraction of its units, to within one piece; the total is exact to one unit.

    The k-th worst piece of layer l goes at sparsity ``(k + phi_l) / size``, where ``phi_l`` in (0, 1) is the van der
    Corput sequence: so the layers that lose one piece more than the others are spread over the depth, and masks of one
    kind are nested in sparsity. With heads and neurons together, heads go where their turn has come and neurons fill
    the budget.

    Raises:
        InfeasibleError: the floors don't allow that much.
    """
    target.check_reachable(pieces)
    turn = sorted(
        (
            ((k + _van_der_corput(part.layer + 1)) / part.size, index, part)
            for index, part in enumerate(pieces)
            for k in range(len(part))
        ),
        key=lambda entry: entry[:2],
    )
    heads = [(when, part) for when, _, part in turn if part.group.startswith(f"{HEAD}.")]
    due = [part for when, part in heads if when <= Fraction(target.sparsity)]
    later = [part for when, part in heads if when > Fraction(target.sparsity)]
    neurons = [part for _, _, part in turn if not part.group.startswith(f"{HEAD}.")]
    remove = fill([*due, *neurons, *later], target.amount)
    return Allocation(rounded(remove, pieces, target.round_to), "uniform")


def _van_der_corput(n: int) -> Fraction:
    """The n-th term of the base-2 van der Corput sequence: the bits of n mirrored behind the point."""
    value, scale = Fraction(0), Fraction(1, 2)
    while n:
        n, bit = divmod(n, 2)
        value, scale = value + bit * scale, scale / 2
    return value

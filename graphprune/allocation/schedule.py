"""Sparsities by depth: the same in every layer, or rising or falling with it (SlimGPT, section 3.4 and its ablation).

Math: at sparsity ``t`` layer ``l`` of ``n`` has lost ``r_l(t) = t`` up to the first layer's share ``r_0``, and
``r_0 + (t - r_0) g_l / mean(g)`` beyond, with ``g_l = 1`` (uniform), ``log(l + 1) / log(n)`` (logarithmic) or
``l / (n - 1)`` (linear); reversed, ``g_{n-1-l}``: the last layer stands where the first one stood. The k-th worst piece
of a layer goes when ``r_l`` reaches ``(k + phi) / size``: rounded where shares differ (``phi = 1/2``); where they are
all alike ``phi_l`` is the van der Corput sequence, so that the layers that lose one piece more than the others are
spread over the depth. Masks of one kind are nested in sparsity.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache, partial
from math import inf, log, prod

from graphprune.allocation.budget import Allocation, Target, fill, rounded
from graphprune.core.units import HEAD
from graphprune.masks.items import Pieces

Growth = Callable[[int, int], float]
HIGHEST, BISECTIONS = 1e9, 100


def _level(layer: int, n_layers: int) -> float:  # noqa: ARG001 - a growth knows both
    return 1.0


def _logarithmic(layer: int, n_layers: int) -> float:
    return log(layer + 1) / log(n_layers)


def _linear(layer: int, n_layers: int) -> float:
    return layer / (n_layers - 1)


def _logarithmic_reversed(layer: int, n_layers: int) -> float:
    return _logarithmic(n_layers - 1 - layer, n_layers)


def _linear_reversed(layer: int, n_layers: int) -> float:
    return _linear(n_layers - 1 - layer, n_layers)


def scheduled(name: str, growth: Growth, pieces: tuple[Pieces, ...], target: Target) -> Allocation:
    """Every layer loses its share, to within one piece; the total is exact to one unit.

    With heads and neurons together, of all heads the share goes that is asked for (more if all neurons wouldn't do),
    those first whose turn comes first, and neurons fill the budget. When a layer has given all that its floor allows,
    the others give more, in proportion.

    Raises:
        InfeasibleError: the floors don't allow that much.
    """
    target.check_reachable(pieces)
    turn = _turns(growth, pieces, target)
    heads = [part for part in turn if part.group.startswith(f"{HEAD}.")]
    neurons = [part for part in turn if not part.group.startswith(f"{HEAD}.")]
    n_due = round(target.sparsity * sum(part.size for part in pieces if part.group.startswith(f"{HEAD}.")))
    due, later = heads[:n_due], heads[n_due:]
    while later and sum(part.cost for part in [*due, *neurons]) < target.amount:  # else neurons couldn't fill the rest
        due.append(later.pop(0))
    remove = fill([*due, *neurons, *later], target.amount)
    return Allocation(rounded(remove, pieces, target.round_to), name)


def counts_of_weights(name: str, shapes: Mapping[str, tuple[int, ...]], target: Target) -> dict[str, int]:
    """How many single weights of each matrix go: the share of its layer, and the sum exact to one weight.

    Args:
        name: of a schedule (`GROWTHS`).
        shapes: of the matrices, by parameter name; those of a layer share the number in their names.
        target: the sparsity, and the first layer's (of a reversed schedule the last one's).
    """
    layer_of = {parameter: int(next(part for part in parameter.split(".") if part.isdigit())) for parameter in shapes}
    layers = sorted(set(layer_of.values()))
    shares = dict(zip(layers, _shares(GROWTHS[name], len(layers), target), strict=True))
    counts, exact, given = dict[str, int](), 0.0, 0
    for parameter, shape in shapes.items():
        exact += shares[layer_of[parameter]] * prod(shape)
        counts[parameter] = min(max(round(exact) - given, 0), prod(shape))
        given += counts[parameter]
    return counts


def _shares(growth: Growth, n_layers: int, target: Target) -> list[float]:
    """Each layer's sparsity, at most 1, such that their mean is the target's."""
    pace = [growth(i, n_layers) if n_layers > 1 else 1.0 for i in range(n_layers)]
    mean, first = sum(pace) / n_layers, min(target.first, target.sparsity)

    def at(height: float) -> list[float]:
        return [min(1.0, max(first + height * x / mean, 0.0)) for x in pace]

    low, high = 0.0, 1.0
    while sum(at(high)) / n_layers < target.sparsity and high < HIGHEST:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) / n_layers < target.sparsity else (low, middle)
    shares = at(high)
    still = pace.index(min(pace))  # a pace of nothing moves once the others are done
    shares[still] += max(target.sparsity * n_layers - sum(shares), 0.0)
    return shares


def _turns(growth: Growth, pieces: tuple[Pieces, ...], target: Target) -> list[Pieces]:
    """All pieces by the sparsity at which their turn comes; what never comes stands last, by share."""
    sizes = tuple((part.group, part.layer, part.size, len(part)) for part in pieces)
    return [pieces[i] for i in _order(growth, sizes, target.first)]


@lru_cache(maxsize=16)
def _order(growth: Growth, sizes: tuple[tuple[str, int, int, int], ...], first_share: float) -> tuple[int, ...]:
    """Whose turn it is, by position in ``sizes``: group, layer, pieces, removable pieces.

    It is the same at every sparsity and for all scores, and exact fractions take a second to sort in a large model.
    """
    layers = sorted({layer for _, layer, *_ in sizes})
    pace = {layer: growth(i, len(layers)) if len(layers) > 1 else 1.0 for i, layer in enumerate(layers)}
    mean = sum(pace.values()) / max(len(pace), 1)
    first = Fraction(first_share)

    def comes(share: Fraction, layer: int) -> Fraction | float:
        if share <= first or pace[layer] == mean:
            return share
        return first + (share - first) * Fraction(mean / pace[layer]) if pace[layer] > 0 else inf

    level = len(set(pace.values())) == 1

    def share(k: int, group: str, layer: int, size: int) -> Fraction:
        spread = (k + _van_der_corput(layer + 1)) / size
        if level or (spread <= first and not group.startswith(f"{HEAD}.")):
            return spread
        rounds = (k + Fraction(1, 2)) / size
        return rounds if group.startswith(f"{HEAD}.") else max(rounds, first)

    entries = [
        (share(k, group, layer, size), index, layer)
        for index, (group, layer, size, n) in enumerate(sizes)
        for k in range(n)
    ]
    return tuple(index for *_, index in sorted((comes(share, layer), share, index) for share, index, layer in entries))


def _van_der_corput(n: int) -> Fraction:
    """The n-th term of the base-2 van der Corput sequence: the bits of n mirrored behind the point."""
    value, scale = Fraction(0), Fraction(1, 2)
    while n:
        n, bit = divmod(n, 2)
        value, scale = value + bit * scale, scale / 2
    return value


GROWTHS: dict[str, Growth] = {
    "uniform": _level,
    "log": _logarithmic,
    "linear": _linear,
    "log_reversed": _logarithmic_reversed,
    "linear_reversed": _linear_reversed,
}
SCHEDULES = {name: partial(scheduled, name, growth) for name, growth in GROWTHS.items()}

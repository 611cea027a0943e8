"""Overlaps of rankings by their definitions: sets, one depth after the other."""

from collections.abc import Sequence


def overlap(a: Sequence[float], b: Sequence[float], p: float) -> float:
    """Extrapolated rank-biased overlap of what is lowest first; tied units stand at the first of their places."""
    n = len(a)
    places = [[sum(other < value for other in row) + 1 for value in row] for row in (a, b)]
    total, agreement = 0.0, 0.0
    for depth in range(1, n + 1):
        s, t = ({unit for unit in range(n) if row[unit] <= depth} for row in places)
        agreement = 2 * len(s & t) / (len(s) + len(t))
        total += (1 - p) * p ** (depth - 1) * agreement
    return total + p**n * agreement


def jaccard(a: Sequence[float], b: Sequence[float], count: int) -> float:
    """Of the sets of ``count`` lowest units, ties by lower id."""
    s, t = (set(sorted(range(len(row)), key=lambda unit: (row[unit], unit))[:count]) for row in (a, b))
    return len(s & t) / len(s | t) if s | t else 1.0

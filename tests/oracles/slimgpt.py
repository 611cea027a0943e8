"""SlimGPT as its definition reads: every candidate's error by brute force, everything refitted after each step.

Nothing is shared with the package but the rules: what goes together, how many at a time, the lower id first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles import obs

Array = np.ndarray[Any, np.dtype[np.float64]]
Choose = Callable[[dict[int, float]], list[int]]


def prune(
    W: Array, X: Array, units: list[list[int]], choices: list[Choose], *, damping: float, error: str = "exact"
) -> tuple[Array, list[int]]:
    """The weights without some units of columns, and which units went, in order.

    Args:
        W: weights.
        X: what they read, one column a token.
        units: the columns of each.
        choices: what goes at each step, from what each unit that is left would cost.
        damping: as a share of the mean square of an input.
        error: `exact` or `grouped`.
    """
    gone: list[int] = []
    changed = W
    cost = _grouped if error == "grouped" else _exact
    for choose in choices:
        left = {i: columns for i, columns in enumerate(units) if i not in gone}
        gone += choose({i: cost(W, changed, X, left, i, damping) for i in left})
        kept = [c for i, columns in enumerate(units) if i not in gone for c in columns]
        changed = obs.ridge_refit(W, X, kept, damping)
    return changed, gone


def lowest(count: int) -> Choose:
    """The cheapest few."""
    return lambda costs: sorted(costs, key=lambda i: (costs[i], i))[:count]


def lowest_of_each(groups: int, size: int) -> Choose:
    """The cheapest of every few neighbours."""
    return lambda costs: [min((i for i in costs if i // size == g), key=lambda i: (costs[i], i)) for g in range(groups)]


def damped(X: Array, damping: float) -> Array:
    """The mean of ``x x^T`` with a share of its mean diagonal on the diagonal."""
    H: Array = X @ X.T / X.shape[1]
    result: Array = H + damping * np.diag(H).mean() * np.eye(len(H))
    return result


def _objective(W: Array, changed: Array, X: Array, damping: float) -> float:
    D = W - changed
    return float(np.trace(D @ damped(X, damping) @ D.T))


def _exact(W: Array, changed: Array, X: Array, left: dict[int, list[int]], unit: int, damping: float) -> float:
    """How much more the best refit without the unit errs."""
    kept = [c for i, columns in left.items() if i != unit for c in columns]
    without = obs.ridge_refit(W, X, kept, damping)
    return _objective(W, without, X, damping) - _objective(W, changed, X, damping)


def _grouped(W: Array, changed: Array, X: Array, left: dict[int, list[int]], unit: int, damping: float) -> float:  # noqa: ARG001 - as the exact one
    """``sum_j |W_j|^2 / D_j``, with ``D`` the pivots of the unit's block of the inverse: ratios of its minors."""
    there = [c for columns in left.values() for c in columns]
    A = np.linalg.inv(damped(X, damping)[np.ix_(there, there)])
    own = [there.index(c) for c in left[unit]]
    minors = [np.linalg.det(A[np.ix_(own[:j], own[:j])]) for j in range(len(own) + 1)]
    return float(
        sum(np.square(changed[:, c]).sum() * minors[j] / minors[j + 1] for j, c in enumerate(left[unit]))
    )  # fmt: skip

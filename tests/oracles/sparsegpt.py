"""SparseGPT as its definition reads: an inverse for every column, an update for every weight.

Nothing is shared with the package but the rules: which weights are compared, and that the lower id goes first.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Keep = np.ndarray[Any, np.dtype[np.bool_]]


def prune(
    W: Array,
    H: Array,
    *,
    n_removed: int | None = None,
    pattern: tuple[int, int] | None = None,
    keep: Keep | None = None,
    block: int = 128,
) -> tuple[Array, Keep]:
    """The pruned weights and which of them stay."""
    W, (rows, columns) = W.copy(), W.shape
    stays = np.ones(W.shape, dtype=bool) if keep is None else keep.copy()
    for i in range(columns):
        if n_removed is not None and i % block == 0:
            end = min(i + block, columns)
            due = int(np.floor(n_removed * end / columns + 0.5)) - int(np.floor(n_removed * i / columns + 0.5))
            for row, column in _cheapest(W, H, [(r, c) for r in range(rows) for c in range(i, end)])[:due]:
                stays[row, column] = False
        if pattern is not None and i % pattern[1] == 0:
            for r in range(rows):
                group = [(r, c) for c in range(i, i + pattern[1])]
                for row, column in _cheapest(W, H, group)[: pattern[1] - pattern[0]]:
                    stays[row, column] = False
        A = np.linalg.inv(H[i:, i:])
        for r in range(rows):
            if not stays[r, i]:
                W[r, i:] = W[r, i:] - W[r, i] / A[0, 0] * A[0]
                W[r, i] = 0.0
    return W, stays


def _cheapest(W: Array, H: Array, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Places by what removing each alone costs, those to the left of it frozen."""
    pivots = {c: np.linalg.inv(H[c:, c:])[0, 0] for c in {c for _, c in places}}
    return sorted(places, key=lambda place: (W[place] ** 2 / pivots[place[1]], place))


def error(W: Array, pruned: Array, H: Array) -> float:
    """``tr((W - W') H (W - W')^T)``."""
    return float(np.trace((W - pruned) @ H @ (W - pruned).T))


def least_squares(W: Array, H: Array, keep: Keep) -> Array:
    """The weights that stay in each row, refitted so that the error is least; zero elsewhere."""
    result = np.zeros_like(W)
    for r, kept in enumerate(keep):
        result[r, kept] = np.linalg.solve(H[np.ix_(kept, kept)], H[kept] @ W[r])
    return result

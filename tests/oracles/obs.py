"""Optimal Brain Surgeon by brute force: removal sets refitted by least squares, nothing shared with the package."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def refit(W: Array, X: Array, keep: Iterable[int]) -> Array:
    """The weights of some columns of ``W`` that come nearest to ``W X``; zero elsewhere."""
    kept = list(keep)
    result = np.zeros_like(W)
    result[:, kept] = np.linalg.lstsq(X[kept].T, (W @ X).T)[0].T
    return result


def error(W: Array, refitted: Array, X: Array) -> float:
    """The mean over tokens of ``|W x - W' x|^2``."""
    return float(np.square((W - refitted) @ X).sum() / X.shape[1])


def best_set(W: Array, X: Array, n_removed: int) -> tuple[tuple[int, ...], float]:
    """The removal set of the smallest error, by trying all."""
    n = W.shape[1]
    tried = {gone: error(W, refit(W, X, set(range(n)) - set(gone)), X) for gone in combinations(range(n), n_removed)}
    return min(tried.items(), key=lambda item: item[1])


def ridge_refit(W: Array, X: Array, keep: Iterable[int], damping: float) -> Array:
    """As `refit`, where moving a weight costs as well: ``damping`` times the mean square of an input.

    Tokens are rows of ``X.T``; the cost is one more token a column, along that column.
    """
    size = np.sqrt(damping * np.square(X).sum(axis=1).mean())
    return refit(W, np.hstack([X, size * np.eye(len(X))]), keep)

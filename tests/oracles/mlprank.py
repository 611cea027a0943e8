"""The published scores of MLPRank and LLM-Rank, written down from their formulas: dense, in float64, nothing shared.

For layers l = 1..L with weights W and activation norms a (arXiv 2410.13299 and its authors' code):

    weighted:  r <- gamma M r + (1 - gamma) a / sum(a),
               M = theta |W| / colsum |W| + (1 - theta) 1[W != 0] / colsum 1[W != 0],  0 / 0 = 0
    modified:  r <- (|W| r) * a

and r is scaled to sum 1 before and after every layer. r starts as the norms of the inputs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def scaled(x: Array) -> Array:
    result: Array = x / x.sum()
    return result


def weighted(W: Array, r: Array, a: Array, gamma: float, theta: float) -> Array:
    n_out, n_in = W.shape
    M = np.zeros((n_out, n_in))
    for source in range(n_in):
        strength = sum(abs(W[i, source]) for i in range(n_out))
        degree = sum(1 for i in range(n_out) if W[i, source] != 0)
        for i in range(n_out):
            if degree:
                M[i, source] = theta * abs(W[i, source]) / strength + (1 - theta) * (W[i, source] != 0) / degree
    result = gamma * (M @ scaled(r)) + (1 - gamma) * scaled(a)
    return scaled(result)


def modified(W: Array, r: Array, a: Array) -> Array:
    return scaled((np.abs(W) @ scaled(r)) * a)


def layers(
    rank: str, start: Array, weights: Sequence[Array], norms: Sequence[Array], *, gamma: float, theta: float
) -> list[Array]:
    """The scores of every layer of one chain."""
    r, result = start, []
    for W, a in zip(weights, norms, strict=True):
        r = weighted(W, r, a, gamma, theta) if rank == "wpr" else modified(W, r, a)
        result.append(r)
    return result

"""PageRank as one dense linear system, with nothing in common with a sweep."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def pagerank(
    matrix: NDArray[np.float64], alpha: float, jump: Vector | None = None, dangling: Vector | None = None
) -> Vector:
    """The stationary distribution of the surfer: ``x = M x``, ``sum x = 1``, by least squares.

    ``M = alpha (P^T + d 1_D^T) + (1 - alpha) p 1^T`` with the dangling nodes D; any alpha in [0, 1].
    """
    n = len(matrix)
    jump = np.full(n, 1 / n) if jump is None else jump / jump.sum()
    dangling = jump if dangling is None else dangling / dangling.sum()
    strength = matrix.sum(axis=1)
    stuck = strength == 0
    steps = matrix / np.where(stuck, 1, strength)[:, None]
    moves = alpha * (steps.T + np.outer(dangling, stuck)) + (1 - alpha) * np.outer(jump, np.ones(n))
    system = np.vstack([np.eye(n) - moves, np.ones(n)])
    result: Vector = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0))[0]
    return result

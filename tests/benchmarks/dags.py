"""Weighted DAGs of a wanted number of edges, as SciPy CSR matrices ``[src, dst]`` in float64 with int32 indices."""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Matrix: TypeAlias = sparse.csr_array
N_BLOCKS = 30
DEGREE = 10


def model_shaped(n_edges: int, seed: int) -> Matrix:
    """A residual network of 30 blocks, its nodes in topological order; as near to ``n_edges`` as its width allows.

    A block is two layers: one of ``2 d`` nodes (as many weights as the query, key, value and output matrices of an
    attention) and one of ``4 d`` (an MLP). Every node of the stream feeds the whole layer, the layer feeds every node
    of the next stream, and the stream skips to the next one by edges of weight 1: ``12 d^2 + 2 d`` edges a block.
    """
    share = n_edges / N_BLOCKS
    width = max(1, round((math.sqrt(1 + 12 * share) - 1) / 12))  # of 12 d^2 + 2 d = share
    rng = np.random.default_rng(seed)
    parts = list(_rows_of_layers(width, rng))
    columns, weights = ([row.reshape(-1) for row in rows] for rows in zip(*parts, strict=True))
    lengths = [np.full(len(rows), rows.shape[1]) for rows, _ in parts]
    indptr = np.concatenate([[0], *lengths, np.zeros(width, dtype=np.int64)]).cumsum().astype(np.int32)
    n_nodes = len(indptr) - 1
    return sparse.csr_array((np.concatenate(weights), np.concatenate(columns), indptr), shape=(n_nodes, n_nodes))


def _rows_of_layers(width: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """For every run of nodes but the last stream: the destinations and the weights of its nodes' edges, as matrices."""
    start = width  # of the layer that the stream feeds
    for hidden in [2 * width, 4 * width] * N_BLOCKS:
        stream = np.arange(start + hidden, start + hidden + width, dtype=np.int32)  # the next one
        layer = np.broadcast_to(np.arange(start, start + hidden, dtype=np.int32), (width, hidden))
        skips = np.ones((width, 1))
        yield np.hstack([layer, stream[:, None]]), np.hstack([_weights(rng, (width, hidden)), skips])
        yield np.broadcast_to(stream, (hidden, width)), _weights(rng, (hidden, width))
        start += hidden + width


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Positive weights that are nowhere near zero."""
    return rng.uniform(0.1, 1.0, shape)


def random_dag(n_edges: int, seed: int) -> Matrix:
    """Pairs ``i < j`` drawn uniformly among a tenth as many nodes, which are numbered at random; doubles are summed."""
    rng = np.random.default_rng(seed)
    n_nodes = max(2, n_edges // DEGREE)
    first = rng.integers(n_nodes, size=n_edges, dtype=np.int32)
    second = rng.integers(n_nodes - 1, size=n_edges, dtype=np.int32)
    second += second >= first  # any node but the first one
    number = rng.permutation(n_nodes).astype(np.int32)
    src, dst = number[np.minimum(first, second)], number[np.maximum(first, second)]
    return sparse.csr_array(sparse.coo_array((_weights(rng, (n_edges,)), (src, dst)), shape=(n_nodes, n_nodes)))


FAMILIES: dict[str, Callable[[int, int], Matrix]] = {"model-shaped": model_shaped, "random": random_dag}

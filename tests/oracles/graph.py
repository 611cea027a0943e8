"""Random directed acyclic graphs, and dense answers to what the package computes sparsely."""

from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Matrix = NDArray[np.float64]


def random_dag(n: int, density: float, *, seed: int, ties: bool = False) -> Matrix:
    """A dense adjacency ``[src, dst]`` of an acyclic graph whose topological order is not the order of its nodes."""
    random = np.random.default_rng(seed)
    weights = random.choice([1.0, 2.0], (n, n)) if ties else random.uniform(0.1, 2.0, (n, n))
    ordered = np.triu(weights * (random.random((n, n)) < density), k=1)
    shuffle = random.permutation(n)
    result: Matrix = ordered[np.ix_(shuffle, shuffle)]
    return result


def digraph(matrix: Matrix) -> "nx.DiGraph[Any]":
    """The networkx graph of a dense adjacency; zeros are no edges."""
    graph: nx.DiGraph[Any] = nx.DiGraph()
    graph.add_nodes_from(range(len(matrix)))
    graph.add_weighted_edges_from((int(a), int(b), float(matrix[a, b])) for a, b in zip(*matrix.nonzero(), strict=True))
    return graph


def csr(matrix: Matrix, dtype: type = np.float64) -> sparse.csr_array:
    return sparse.csr_array(matrix.astype(dtype))


def quotient(matrix: Matrix, image: NDArray[np.int64], n_coarse: int) -> Matrix:
    """``(P^T |A|^2 P)^(1/2)`` without its diagonal."""
    membership = np.zeros((len(matrix), n_coarse))
    membership[np.arange(len(matrix)), image] = 1
    result: Matrix = np.sqrt(membership.T @ np.abs(matrix) ** 2 @ membership)
    np.fill_diagonal(result, 0)
    return result

"""Centralities from their definitions: every path listed, every matrix dense, nothing of the package.

Graphs are networkx digraphs with the nodes 0..n-1 in order and `weight` on every edge, zeros included; what comes out
is an array in that order, or a matrix ``[src, dst]``. The other way round is the same function of ``graph.reverse()``.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Edges = dict[tuple[int, int], float]
Length = dict[tuple[int, int], Fraction]
Listed = dict[tuple[int, int], tuple[Fraction, list[list[int]]]]


def weights(graph: Any) -> Edges:
    return {(a, b): float(w) for a, b, w in graph.edges(data="weight")}


def dense(graph: Any) -> Matrix:
    matrix = np.zeros((len(graph), len(graph)))
    for (a, b), w in weights(graph).items():
        matrix[a, b] = w
    return matrix


def katz(graph: Any, alpha: float, beta: float | Vector = 1.0) -> Vector:
    """``x = alpha A^T x + beta``, not scaled."""
    n = len(graph)
    return np.asarray(np.linalg.solve(np.eye(n) - alpha * dense(graph).T, beta * np.ones(n)))


def authorities(graph: Any) -> Vector:
    """Where ``A^T A`` takes what equal hubs point to in the end, sum 1: ``A^T 1`` on its leading eigenvectors."""
    matrix = dense(graph)
    if not matrix.any():
        return np.zeros(len(graph))
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    leading = vectors[:, values > values[-1] * (1 - 1e-9)]
    result = leading @ (leading.T @ matrix.sum(axis=0))
    return np.asarray(result / result.sum())


def trophic_levels(graph: Any) -> Vector:
    """``x_v = 1 + sum_u x_u w_uv / in_strength_v``; 1 where no weight arrives."""
    matrix = dense(graph)
    strength = matrix.sum(axis=0)
    shares = matrix / np.where(strength == 0, 1, strength)
    return np.asarray(np.linalg.solve(np.eye(len(graph)) - shares.T, np.ones(len(graph))))


def effects(graph: Any, *, normalized: bool = True) -> Matrix:
    """``[v, o]``: the sum over all paths from v to o of the product of their weights, or of the weights' shares.

    A share is ``w_uv / in_strength_v``. The empty path counts: the diagonal is one.
    """
    matrix = dense(graph)
    if normalized:
        strength = matrix.sum(axis=0)
        matrix = matrix / np.where(strength == 0, 1, strength)
    result = power = np.eye(len(graph))
    for _ in range(len(graph)):
        power = power @ matrix
        result = result + power
    return result


def reaching(graph: Any, threshold: float, targets: Iterable[int], *, normalized: bool = True) -> Vector:
    reached = effects(graph, normalized=normalized)[:, sorted(targets)]
    result: Vector = ((reached > 0) & (reached >= threshold)).mean(axis=1)
    return result


def coreness(graph: Any, mode: str) -> NDArray[np.int64]:
    """The largest k for which a node is left when all nodes with fewer than k neighbours are taken away, repeatedly."""
    edges = np.zeros((len(graph), len(graph)), dtype=np.int64)
    for a, b in graph.edges:
        edges[a, b] = 1
    edges = {"in": edges.T, "out": edges, "all": edges + edges.T}[mode]
    result = np.zeros(len(graph), dtype=np.int64)
    for k in range(1, len(graph)):
        left = np.ones(len(graph), dtype=bool)
        while (weak := left & (edges @ left < k)).any():
            left &= ~weak
        result[left] = k
    return result


def modularity(graph: Any, membership: Iterable[int], resolution: float = 1.0) -> float:
    """``sum_ij (A_ij - resolution k_i k_j / 2m) [c_i = c_j] / 2m`` of the undirected graph."""
    matrix = dense(graph)
    matrix = matrix + matrix.T
    degree, total = matrix.sum(axis=1), matrix.sum()
    labels = np.array(list(membership))
    same = labels[:, None] == labels[None, :]
    return float(((matrix - resolution * np.outer(degree, degree) / total) * same).sum() / total)


def partitions(n: int) -> Iterator[list[int]]:
    """All ways to group n nodes, as restricted growth strings."""

    def extend(start: list[int]) -> Iterator[list[int]]:
        if len(start) == n:
            yield start
            return
        for label in range(max(start, default=-1) + 2):
            yield from extend([*start, label])

    yield from extend([])


def walks(graph: Any, source: int, useful: Callable[[int, int], bool] = lambda _a, _b: True) -> Iterator[list[int]]:
    """Every path of at least one edge from a node, by going everywhere."""
    waiting = [[source]]
    while waiting:
        path = waiting.pop()
        for node in graph.successors(path[-1]):
            if useful(path[-1], node):
                yield [*path, node]
                waiting.append([*path, node])


def edge_path_mass(graph: Any, sources: Iterable[int], targets: Iterable[int]) -> tuple[Vector, Matrix]:
    """The share of the weight of all paths from a source to a target that goes through each node and each edge."""
    nodes, edges, total = np.zeros(len(graph)), np.zeros((len(graph), len(graph))), 0.0
    ends, weight = set(targets), weights(graph)
    for source in set(sources):
        for path in walks(graph, source):
            if path[-1] in ends:
                product = float(np.prod([weight[step] for step in pairwise(path)]))
                total += product
                nodes[path] += product
                for step in pairwise(path):
                    edges[step] += product
    return (nodes / total, edges / total) if total else (nodes, edges)


def lengths(graph: Any, distance: str | None) -> Length:
    """The length of every edge that is one, exactly: 1, its weight, or one over its absolute weight."""
    exact = {edge: Fraction(w) for edge, w in weights(graph).items()}
    if distance is None:
        return dict.fromkeys(exact, Fraction(1))
    return exact if distance == "weight" else {edge: 1 / abs(w) for edge, w in exact.items() if w}


def with_lengths(graph: Any, distance: str | None) -> Any:
    """The same with `length` on every edge that is one, for networkx."""
    result: nx.DiGraph[Any] = nx.DiGraph()
    result.add_nodes_from(graph)
    weight = weights(graph)
    for edge in lengths(graph, distance):
        length = {None: 1.0, "weight": weight[edge], "inverse": 1 / abs(weight[edge] or 1)}[distance]
        result.add_edge(*edge, length=length)
    return result


def shortest_paths(graph: Any, distance: str | None) -> Listed:
    """For every pair that is connected: how long its shortest paths are, and which they are; ties are exact."""
    length = lengths(graph, distance)
    best: Listed = {}
    for source in graph:
        for path in walks(graph, source, lambda a, b: (a, b) in length):
            total = sum((length[step] for step in pairwise(path)), Fraction(0))
            known = best.get((source, path[-1]))
            if known is None or total < known[0]:
                best[source, path[-1]] = (total, [path])
            elif total == known[0]:
                known[1].append(path)
    return best


def distance_matrix(n: int, listed: Listed) -> Matrix:
    """``[s, t]``: the length of the shortest path; infinite if there is none, zero to itself."""
    result = np.full((n, n), np.inf)
    np.fill_diagonal(result, 0)
    for pair, (length, _) in listed.items():
        result[pair] = float(length)
    return result


def closeness(distances: Matrix, *, wf_improved: bool = True) -> Vector:
    """The others that reach a node over the sum of their distances, times their share of all others."""
    n = len(distances)
    result = np.zeros(n)
    for node, column in enumerate(distances.T):
        reach = column[np.isfinite(column)]
        if reach.sum() > 0:
            result[node] = (len(reach) - 1) / reach.sum() * ((len(reach) - 1) / (n - 1) if wf_improved else 1)
    return result


def harmonic(distances: Matrix) -> Vector:
    """The sum of one over the distance from every other node that isn't at distance zero."""
    result: Vector = np.divide(1, distances, out=np.zeros_like(distances), where=distances != 0).sum(axis=0)
    return result


def betweenness(n: int, listed: Listed, *, normalized: bool = True, endpoints: bool = False) -> tuple[Vector, Matrix]:
    """Over all ordered pairs, the share of their shortest paths through each node, and through each edge."""
    nodes, edges = np.zeros(n), np.zeros((n, n))
    for _, paths in listed.values():
        for path in paths:
            nodes[path if endpoints else path[1:-1]] += 1 / len(paths)
            for step in pairwise(path):
                edges[step] += 1 / len(paths)
    if normalized:
        nodes = nodes / max(n * (n - 1) if endpoints else (n - 1) * (n - 2), 1)
        edges = edges / max(n * (n - 1), 1)
    return nodes, edges

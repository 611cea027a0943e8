"""Hubs and authorities (Kleinberg 1999): the leading singular vectors of the adjacency matrix.

Math: authorities ``a = A^T A a / lambda``, hubs ``h = A A^T h / lambda``. The product isn't nilpotent, so unlike
eigenvector centrality they exist on a DAG; unlike the rest they need an iteration.
"""

from typing import Literal

import torch

from graphprune.centrality.options import Weight, ways, weighed
from graphprune.centrality.result import CentralityResult
from graphprune.centrality.sweep import across
from graphprune.core.graph import ModelGraph

STEPS, RESTARTS = 24, 60
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}  # relative to the eigenvalue


def hits(
    graph: ModelGraph,
    *,
    direction: Literal["forward", "backward"] = "forward",
    normalized: bool = True,
    weight: Weight = "weight",
) -> CentralityResult:
    """Authorities (`forward`: good hubs point to them) or hubs (`backward`: they point to good authorities).

    Agrees with ``networkx.hits(G)``, which returns hubs and authorities. Where the leading singular value is shared by
    several unconnected parts, the result is the one that the power iteration reaches from equal scores.

    Args:
        graph: a graph with non-negative weights.
        direction: `forward` for authorities, `backward` for hubs.
        normalized: scale to sum 1, else to Euclidean norm 1.
        weight: `weight`, or None if every edge shall count the same.

    Cost: two passes over the edges a Lanczos step, some tens of steps; the memory of 24 values a node.

    Raises:
        ValueError: weights are negative, or the iteration does not converge.
    """
    (backward,) = ways(direction, both=False)
    graph = weighed(graph, weight, "HITS")
    start = across(graph, graph.indicator(), backward=backward).double()
    vector, check = start, lambda: 0.0
    if float(start.sum()) > 0:
        vector = _leading(graph, start, backward=backward)
        vector = vector / (vector.sum() if normalized else torch.linalg.vector_norm(vector))
        check = lambda: _gap(graph, vector, backward=backward)  # noqa: E731
    scores = graph.in_caller_order(vector.to(graph.dtype))
    return CentralityResult(
        scores, "hits", direction, "sum 1" if normalized else "Euclidean norm 1", "Lanczos", check=check
    )


def _twice(graph: ModelGraph, x: torch.Tensor, *, backward: bool) -> torch.Tensor:
    """``A^T A x`` (``A A^T x`` backward), in the type of the graph's weights."""
    there = across(graph, x.to(dtype=graph.dtype, device=graph.device), backward=not backward)
    return across(graph, there, backward=backward)


def _leading(graph: ModelGraph, start: torch.Tensor, *, backward: bool) -> torch.Tensor:
    """The leading eigenvector, by Lanczos steps from ``start``, restarted from the best vector found.

    Steps stay in the space that ``start`` spans, so that of several leading eigenvectors it finds the one that the
    power iteration reaches; ARPACK would leave that space where it is exhausted.
    """
    tolerance = TOLERANCE[graph.dtype]
    vector: torch.Tensor = start / torch.linalg.vector_norm(start)
    for _ in range(RESTARTS):
        basis, diagonal, beside = [vector], [], []
        while True:
            image = _twice(graph, basis[-1], backward=backward).double()
            diagonal.append(float(image @ basis[-1]))
            known = torch.stack(basis)
            for _ in range(2):  # once is not enough for orthogonality to rounding
                image = image - known.t() @ (known @ image)
            rest = float(torch.linalg.vector_norm(image))
            if len(basis) == STEPS or rest <= tolerance * max(diagonal):
                break
            beside.append(rest)
            basis.append(image / rest)
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for offset in (1, -1):
            tridiagonal += torch.diag(torch.tensor(beside, dtype=torch.float64), offset)
        values, vectors = torch.linalg.eigh(tridiagonal)
        found: torch.Tensor = (vectors[:, -1].to(known.device) @ known).abs()
        vector = found / torch.linalg.vector_norm(found)
        if rest * abs(float(vectors[-1, -1])) <= tolerance * float(values[-1]):
            return vector
    raise ValueError("HITS does not converge on this graph: its leading singular values are too close")


def _gap(graph: ModelGraph, x: torch.Tensor, *, backward: bool) -> float:
    """``sum |A^T A x / lambda - x|``, with lambda the Rayleigh quotient."""
    image = _twice(graph, x, backward=backward).double()
    return float((image / (x @ image / (x @ x)) - x).abs().sum())

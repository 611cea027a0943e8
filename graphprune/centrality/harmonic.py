"""Harmonic centrality (Marchiori and Latora 2000; Boldi and Vigna 2014)."""

import torch

from graphprune.centrality.options import ways
from graphprune.centrality.result import CentralityResult, Direction
from graphprune.centrality.sampling import Sources, summed
from graphprune.centrality.shortest_paths import Distance, Length, shortest
from graphprune.centrality.sweep import divided
from graphprune.core.graph import ModelGraph


def harmonic(
    graph: ModelGraph,
    *,
    distance: Distance = None,
    direction: Direction = "forward",
    k: int | None = None,
    seed: int = 0,
) -> CentralityResult:
    """The sum of one over the distance to a node from every other; what does not reach it counts nothing.

    Agrees with ``networkx.harmonic_centrality(G, distance=...)``, which leaves out distances of zero as well.

    Args:
        graph: a graph without negative lengths.
        distance: None (hops), `weight` (the weight is the length) or `inverse` (1 / |weight|: strong edges are short).
        direction: `forward` (from the others to the node), `backward` (to the others), `both` (mean of the two).
        k: sample this many sources instead of starting from every node; the estimate is unbiased and has ``stderr``.
        seed: of the sample.

    Cost: as of `closeness`.

    Raises:
        ValueError: a length is negative, k is out of range, or exactness would take too long.

    >>> import networkx as nx
    >>> harmonic(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph))).scores.tolist()
    [0.0, 1.0, 1.5]
    """
    length = Length(distance, nonnegative=graph)
    backwards = ways(direction)
    sources = Sources.draw(graph, k, seed, length, "harmonic centrality", passes=len(backwards))

    def nearness(_: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        parts = [divided(1.0, shortest(graph, start, length, backward=backward)) for backward in backwards]
        return torch.stack(parts).mean(dim=0)

    sums, squares = summed(sources, "harmonic", nearness)
    total, error = sources.total(sums).to(graph.dtype), sources.stderr(sums, squares).to(graph.dtype)
    return CentralityResult(
        graph.in_caller_order(total), "harmonic", direction, "sum of one over distances",
        sources.described("min-plus sweeps"),
        stderr=None if k is None else graph.in_caller_order(error), aggregate="mean",
    )  # fmt: skip

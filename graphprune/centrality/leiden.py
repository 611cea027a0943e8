"""Communities (Leiden algorithm: Traag, Waltman and van Eck 2019), through igraph."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int

from graphprune.centrality.options import Weight, weighed
from graphprune.centrality.unit_graph import from_units, unit_graph
from graphprune.core.graph import ModelGraph


@dataclass(frozen=True)
class Communities:
    """Which nodes are tied to each other more than to the rest.

    Attributes:
        membership: the community of each node, in the caller's order; the largest is 0.
        n_communities: how many there are.
        modularity: of the partition of the units, at the resolution it was found with.
        resolution: higher means more and smaller communities.
        solver: how they were found.
    """

    membership: Int[torch.Tensor, " n_nodes"]
    n_communities: int
    modularity: float
    resolution: float
    solver: str = "igraph's Leiden algorithm"


def leiden(
    graph: ModelGraph, *, resolution: float = 1.0, weight: Weight = "weight", n_iterations: int = -1, seed: int = 0
) -> Communities:
    """The partition of the units into communities of high modularity; edges count both ways.

    A model's channel graph is taken to the level of units, and each channel is in its unit's community. Labels are no
    scores: they say what belongs together, not what matters.

    Args:
        graph: a graph with non-negative weights.
        resolution: above 0; higher means more and smaller communities.
        weight: `weight`, or None if every edge shall count the same.
        n_iterations: how often to refine; negative means until nothing improves.
        seed: of the order in which units are visited.

    Cost: near linear in edges, about a hundred bytes each in igraph.

    Raises:
        ValueError: weights are negative, or the resolution isn't above 0.
        InputError: the graph has too many edges for igraph.
    """
    if not 0 < resolution < float("inf"):
        raise ValueError(f"resolution must be above 0 and finite, not {resolution}")
    units = unit_graph(weighed(graph, weight, "the Leiden algorithm")).as_undirected(combine_edges={"weight": "sum"})
    weights = units.es["weight"] if units.ecount() else None
    with _seeded(seed):
        found = units.community_leiden(
            objective_function="modularity", weights=weights, resolution=resolution, n_iterations=n_iterations
        )
    sizes = torch.bincount(torch.tensor(found.membership, dtype=torch.int64))
    rank = torch.empty_like(sizes)
    rank[torch.argsort(sizes, descending=True, stable=True)] = torch.arange(len(sizes))
    membership = rank[torch.tensor(found.membership, dtype=torch.int64)] if len(sizes) else sizes
    tied = weights is not None and sum(weights) > 0
    modularity = units.modularity(found.membership, weights=weights, resolution=resolution) if tied else 0.0
    return Communities(from_units(graph, membership), len(sizes), float(modularity), resolution)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's generator is what igraph draws from: one of ours for a while, then that again."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))  # noqa: S311 - an order of visits, no secret
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)

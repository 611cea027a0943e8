"""Betweenness by Brandes' accumulation (2001), in topological order and from many sources at once.

Math: from a source s, sigma_v counts the shortest paths to v, delta_u = sum_v sigma_u / sigma_v (1 + delta_v) over the
edges that shortest paths use. Counts multiply with depth, so sigma and delta / sigma are kept as logs: a network of a
thousand full layers does not overflow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from graphprune.centrality.log_domain import Levels
from graphprune.centrality.result import CentralityResult, EdgeCentralityResult
from graphprune.centrality.sampling import Sources, summed
from graphprune.centrality.shortest_paths import Distance, Length, shortest
from graphprune.centrality.sweep import Step, sweep
from graphprune.core.block import Block, EdgeBlock
from graphprune.core.graph import ModelGraph

Values = Float[torch.Tensor, "n_nodes k"]

NODE_PASSES, EDGE_PASSES = 6, 16  # as many min-plus sweeps take as long as the walk there and back, by node and by edge


def betweenness(
    graph: ModelGraph,
    k: int | None = None,
    *,
    normalized: bool = True,
    weight: Distance = None,
    endpoints: bool = False,
    seed: int = 0,
) -> CentralityResult:
    """Over all pairs of other nodes, the share of the shortest paths between them that runs through a node, summed.

    Agrees with ``networkx.betweenness_centrality(G, normalized=..., weight=..., endpoints=...)``.

    Args:
        graph: a graph without negative lengths.
        k: sample this many sources (networkx's estimator: unbiased for every node); scores then come with ``stderr``.
        normalized: divide by the number of pairs: (n - 1)(n - 2), or n (n - 1) with endpoints.
        weight: length of an edge: None (hops), `weight` (the weight) or `inverse` (1 / |weight|: strong edges are
            short).
        endpoints: count the ends of a path as on it.
        seed: of the sample.

    Cost: three sweeps from every source, in batches. Where every edge of a block is stored, hops are
    counted by node.

    Raises:
        ValueError: a length is negative, k is out of range, or exactness would take too long.

    >>> import networkx as nx
    >>> betweenness(ModelGraph.from_networkx(nx.path_graph(3, nx.DiGraph)), normalized=False).scores.tolist()
    [0.0, 1.0, 0.0]
    """
    length = Length(weight, "weight", nonnegative=graph)
    sources = Sources.draw(graph, k, seed, length, "betweenness", passes=NODE_PASSES)

    def through(nodes: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        paths = _Paths.walked(graph, start, length, int(nodes[0]))
        passed = paths.through(nodes)
        if endpoints:
            reached = torch.isfinite(paths.near).double()
            here = nodes, torch.arange(len(nodes), device=reached.device)
            reached[here] = 0.0
            reached[here] = reached.sum(dim=0)  # paths that start at the source
            passed += reached
        return passed

    sums, squares = summed(sources, "betweenness", through)
    n = graph.n_present
    scores, errors = sources.total(sums, own=endpoints), None
    pairs = max(n * (n - 1) if endpoints else (n - 1) * (n - 2), 1) if normalized else 1
    if k is not None:
        errors = graph.in_caller_order((sources.stderr(sums, squares, own=endpoints) / pairs).to(graph.dtype))
    return CentralityResult(
        graph.in_caller_order((scores / pairs).to(graph.dtype)), "betweenness", "both",
        "share of the pairs" if normalized else "number of pairs", sources.described("Brandes by level"), stderr=errors,
    )  # fmt: skip


def edge_betweenness(
    graph: ModelGraph, k: int | None = None, *, normalized: bool = True, weight: Distance = None, seed: int = 0
) -> EdgeCentralityResult:
    """Over all pairs of nodes, the share of the shortest paths between them that runs along an edge, summed.

    Agrees with ``networkx.edge_betweenness_centrality(G, normalized=..., weight=...)``; normalised by n (n - 1).

    Cost: as `betweenness`, a pass over the edges for every source, and the memory of two more values an edge.
    """
    length = Length(weight, "weight", nonnegative=graph)
    sources = Sources.draw(graph, k, seed, length, "edge betweenness", passes=EDGE_PASSES, every_edge=True)
    blocks = [block.load() for block in graph.blocks]
    sums = [torch.zeros(block.n_edges, dtype=torch.float64, device=graph.device) for block in blocks]
    squares = [torch.zeros_like(total) for total in sums]
    for nodes, start in sources.batches("edge betweenness"):
        paths = _Paths.walked(graph, start, length, int(nodes[0]))
        for i, block in enumerate(blocks):
            for share in paths.along(block):
                sums[i] += share
                squares[i] += share * share
    n = graph.n_present
    pairs = max(n * (n - 1), 1) if normalized else 1

    def scored(values: Iterator[torch.Tensor]) -> ModelGraph:
        scaled = (value.div(pairs).to(graph.dtype) for value in values)
        made = tuple(replace(block, values=value) for block, value in zip(blocks, scaled, strict=True))
        return replace(graph, blocks=made, strengths=None, weight="magnitude")

    errors = None
    if k is not None:
        errors = scored(sources.stderr(s, q, own=True) for s, q in zip(sums, squares, strict=True))
    return EdgeCentralityResult(
        scored(sources.total(total, own=True) for total in sums), "edge_betweenness", "both",
        "share of the pairs" if normalized else "number of pairs", sources.described("Brandes by level"), stderr=errors,
    )  # fmt: skip


@dataclass(frozen=True)
class _Paths:
    """Shortest paths from k sources.

    Attributes:
        graph, length: what they run on.
        near: distance of each node from each source.
        sigma: log of the number of shortest paths; minus infinity where there is none.
        share: log of delta / sigma, likewise.
        since: the first source.
    """

    graph: ModelGraph
    length: Length
    near: Values
    sigma: Values
    share: Values
    since: int

    @classmethod
    def walked(cls, graph: ModelGraph, start: Values, length: Length, since: int) -> "_Paths":
        """There and back: distances, counts, dependencies."""
        near = shortest(graph, start, length, since=since)

        def counting(levels: Levels, *, backward: bool) -> Step:
            def step(block: EdgeBlock, _: torch.Tensor) -> torch.Tensor:
                here, there = near[slice(*block.src)], near[slice(*block.dst)]

                def kernel(edges: Block, x: torch.Tensor) -> torch.Tensor:
                    return length.counted(edges, here, there, x, backward=backward)

                senders = block.dst if backward else block.src
                return levels.through(senders, lambda x: block.apply(kernel, x, 0.0, backward=backward))

            return step

        counts, shares = Levels(near, torch.float64), Levels(near, torch.float64)

        def send_counts(final: torch.Tensor, first: int, last: int) -> torch.Tensor:
            counts.put(final, first, last)
            return final

        sigma = sweep(graph, -start, counting(counts, backward=False), torch.logaddexp, send=send_counts, since=since)

        def send_shares(final: torch.Tensor, first: int, last: int) -> torch.Tensor:
            number = sigma[first:last]
            onward = torch.where(torch.isfinite(number), torch.logaddexp(-number, final), -torch.inf)
            shares.put(onward, first, last)  # log((1 + delta) / sigma)
            return final

        share = torch.full_like(near, -torch.inf)
        step = counting(shares, backward=True)
        sweep(graph, share, step, torch.logaddexp, send=send_shares, backward=True, since=since)
        return cls(graph, length, near, sigma, share, since)

    def through(self, nodes: torch.Tensor) -> Values:
        """How many shortest paths from each source go on from each node, each weighed by one over their number."""
        reached = torch.isfinite(self.sigma) & torch.isfinite(self.share)
        delta = torch.where(reached, (self.share + self.sigma).exp(), 0.0)
        delta[nodes, torch.arange(len(nodes), device=delta.device)] = 0.0
        return delta

    def along(self, block: Block) -> Iterator[Float[torch.Tensor, " edges"]]:
        """The same for the edges of a block, one source at a time."""
        if block.src[1] <= self.since:
            return
        row, col = block.rows(), block.col.long()
        lengths = self.length.of(block.values)
        for source in range(self.near.shape[1]):
            near, far = self.near[slice(*block.src), source], self.near[slice(*block.dst), source]
            sigma, share = self.sigma[slice(*block.src), source], self.share[slice(*block.dst), source]
            onward = torch.logaddexp(-self.sigma[slice(*block.dst), source], share)
            tight = (near[col] + lengths == far[row]) & torch.isfinite(far[row])
            yield torch.where(tight, (sigma[col] + onward[row]).exp(), 0.0)

"""The strongest edges of a graph, found block by block: what is kept has to fit in memory or goes to disk, no more."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from graphprune.core.block import Block, EdgeBlock
from graphprune.core.graph import Dropped, ModelGraph
from graphprune.core.graph_store import GraphWriter, load_graph, refuse_outside

EDGES_A_SHARD = 1 << 23


def sparsify(
    graph: ModelGraph,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    share: float | None = None,
    folder: Path | None = None,
) -> tuple[ModelGraph, Dropped]:
    """The graph's strongest edges, and what was dropped. Exactly one of the three rules is given.

    Args:
        graph: any graph, also one that is larger than memory.
        top_k: keep each node's ``top_k`` strongest incoming edges (ties by lower source).
        threshold: keep edges of at least this absolute weight.
        share: keep the strongest edges that together hold this share of the total absolute weight, to a relative
            1e-12 (ties are kept); 1 keeps every edge that isn't zero.
        folder: where to write the result, shard by shard; it is then loaded memory-mapped. In memory if not given.

    Cost: two passes over the edges; ``share`` takes two more in float32 and four in float64.

    Raises:
        ValueError: not exactly one rule is given, or it is out of range.
        InputError: a folder is given for a graph from outside.
    """
    given = [rule for rule in (top_k, threshold, share) if rule is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of top_k, threshold and share")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, not {threshold}")
    if folder is not None:
        refuse_outside(graph)
    n_edges, total = 0, 0.0
    for block in (edges.load() for edges in graph.blocks):
        n_edges, total = n_edges + block.n_edges, total + _weight(block)
    if share is not None:
        threshold = _smallest(graph) if share == 1 else _threshold_of_share(graph, share * total)
    kept = _Tally(_strongest_incoming(graph, top_k) if top_k is not None else _at_least(graph, float(threshold or 0)))
    if folder is None:
        result = replace(graph, blocks=tuple(kept) or _nothing(graph), strengths=None)
    else:
        writer = GraphWriter(folder, graph.nodes, dtype=graph.dtype, present=graph.present)
        writer.add_all(_shards(kept))
        if not kept.edges:
            writer.add_all([_nothing(graph)])
        facts = {"level": graph.level, "weight": graph.weight, "model": graph.model}
        writer.finish(**facts, inputs="", n_edges=kept.edges)  # type: ignore[arg-type]
        result = load_graph(folder)
    n_dropped = n_edges - kept.edges
    left = kept.weight / total if total else 1.0
    return result, Dropped(n_dropped, n_dropped / max(n_edges, 1), 1 - left)


class _Tally:
    """Blocks as they come by, without the empty ones, and how many edges and how much weight they held."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks, self.edges, self.weight = blocks, 0, 0.0

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            if block.n_edges:
                self.edges += block.n_edges
                self.weight += _weight(block)
                yield block


def _shards(blocks: _Tally) -> Iterator[list[Block]]:
    """Blocks by the handful, so that neither files nor memory grow out of hand."""
    shard: list[Block] = []
    for block in blocks:
        shard.append(block)
        if sum(block.n_edges for block in shard) >= EDGES_A_SHARD:
            yield shard
            shard = []
    if shard:
        yield shard


def _nothing(graph: ModelGraph) -> tuple[Block, ...]:
    """An empty block, which holds the type of the weights of a graph that has no edges left."""
    blocks = (edges.load() for edges in graph.blocks[:1])
    return tuple(block.selected(torch.zeros_like(block.values, dtype=torch.bool)) for block in blocks)


def _weight(block: Block) -> float:
    return float(block.values.abs().sum(dtype=torch.float64))


def _smallest(graph: ModelGraph) -> float:
    """The smallest weight that isn't zero: what an edge must have for all the weight to be kept."""
    least = torch.inf
    for block in (edges.load() for edges in graph.blocks):
        weights = block.values.abs()
        weights = weights[weights > 0]
        least = min(least, float(weights.min()) if len(weights) else torch.inf)
    return least


def _at_least(graph: ModelGraph, threshold: float) -> Iterator[Block]:
    for edges in graph.blocks:
        block = edges.load()
        yield block.selected(block.values.abs() >= threshold)


def _threshold_of_share(graph: ModelGraph, wanted: float) -> float:
    """The largest weight such that the edges at or above it hold ``wanted`` together.

    Non-negative floats are ordered like their bit patterns, so this is a radix select: each pass sums the weights by
    their next sixteen bits and settles those bits of the threshold.
    """
    if wanted == 0:  # no edge is needed to hold a share of nothing
        return float("inf")
    integer, shifts = (torch.int64, (48, 32, 16, 0)) if graph.dtype == torch.float64 else (torch.int32, (16, 0))
    wanted *= 1 - 1e-12
    above, leading = 0.0, 0
    for shift in shifts:
        held = torch.zeros(1 << 16, dtype=torch.float64, device=graph.device)
        for edges in graph.blocks:
            weights = edges.load().values.abs()
            bits = weights.view(integer)
            if shift != shifts[0]:
                candidates = bits >> (shift + 16) == leading
                weights, bits = weights[candidates], bits[candidates]
            held += torch.bincount((bits >> shift) & 0xFFFF, weights=weights.double(), minlength=1 << 16)
        from_top = held.flip(0).cumsum(0) + above
        enough = (from_top >= wanted) & (held.flip(0) > 0)
        last = int(held.flip(0).nonzero()[-1])  # rounding may leave the sum of all short of what is wanted
        place = int(enough.int().argmax()) if bool(enough.any()) else last
        above = float(from_top[place] - held.flip(0)[place])
        leading = leading << 16 | (len(held) - 1 - place)
    return float(torch.tensor([leading], dtype=integer).view(graph.dtype))


def _strongest_incoming(graph: ModelGraph, top_k: int) -> Iterator[Block]:
    """Each node's strongest incoming edges, compared across all the blocks that reach it."""
    for group in _reaching_the_same(graph.blocks):
        blocks = [_strongest_in_block(block.load(), top_k) for block in group]
        start = min(block.dst[0] for block in blocks)
        dst = torch.cat([block.rows() + (block.dst[0] - start) for block in blocks])
        src = torch.cat([block.col.long() + block.src[0] for block in blocks])
        weight = torch.cat([block.values.abs() for block in blocks])
        by_source = torch.argsort(src, stable=True)
        by_weight = by_source[torch.argsort(weight[by_source], descending=True, stable=True)]
        order = by_weight[torch.argsort(dst[by_weight], stable=True)]
        counts = torch.bincount(dst)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        keep = torch.zeros(len(dst), dtype=torch.bool, device=dst.device)
        keep[order] = torch.arange(len(dst), device=dst.device) - first < top_k
        parts = torch.split(keep, [block.n_edges for block in blocks])
        yield from (block.selected(part) for block, part in zip(blocks, parts, strict=True))


def _reaching_the_same(blocks: tuple[EdgeBlock, ...]) -> Iterator[list[EdgeBlock]]:
    """Blocks in groups such that no node is reached from two groups."""
    group: list[EdgeBlock] = []
    stop = 0
    for block in sorted(blocks, key=lambda block: block.dst):
        if group and block.dst[0] >= stop:
            yield group
            group = []
        group.append(block)
        stop = max(stop, block.dst[1])
    if group:
        yield group


def _strongest_in_block(block: Block, top_k: int) -> Block:
    """A full block without the edges that are not among a row's strongest; any other block as it is."""
    if not block.is_full or block.shape[1] <= top_k:
        return block
    weights = block.matrix.abs()
    least = weights.topk(top_k, dim=1).values[:, -1:]
    above, level = weights > least, weights == least
    room = top_k - above.sum(dim=1, keepdim=True)
    return block.selected((above | (level & (level.cumsum(dim=1) <= room))).reshape(-1))

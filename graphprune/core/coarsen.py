"""Smaller graphs: quotients (channel to unit to block) and the strongest edges."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from graphprune.core.errors import InputError
from graphprune.core.graph import LEVELS, Block, Dropped, Level, ModelGraph, Weight, row_pointers
from graphprune.core.nodes import NodeIndex, Span

_UNIT_OF = {"query": "head", "pattern": "head", "attn": "head", "key": "kv_head", "value": "kv_head",
            "gate": "neuron", "up": "neuron"}  # fmt: skip
_MODULE_OF = {"head": "attn", "kv_head": "attn", "neuron": "mlp"}
_MODULE_OF |= {kind: _MODULE_OF[unit] for kind, unit in _UNIT_OF.items()}


@dataclass(frozen=True)
class _Piece:
    """A run of finer nodes that falls into one coarser span, and the position of each node in there."""

    start: int
    stop: int
    coarse: str
    position: torch.Tensor


class Quotient:
    """The map from the nodes of one level to those of a coarser one.

    Args:
        nodes: the finer nodes.
        level: the coarser level.

    Attributes:
        nodes: the coarser nodes, in topological order.
    """

    def __init__(self, nodes: NodeIndex, level: Level) -> None:
        if any(span.kind == "node" for span in nodes.spans):
            raise InputError("a graph from outside has no levels")
        placed = [(span, *_place(span, nodes, level)) for span in nodes.spans]
        spans = {coarse.name: coarse for _, coarse, _ in sorted(placed, key=lambda part: _rank(part[1]))}
        self.nodes = NodeIndex(tuple(spans.values()))
        self._runs = {name: self.nodes.range(span.kind, span.layer) for name, span in spans.items()}
        self._pieces = [
            _Piece(*nodes.range(span.kind, span.layer), coarse.name, torch.from_numpy(within))
            for span, coarse, within in placed
        ]
        self._starts = [piece.start for piece in self._pieces]

    def blocks(self, blocks: Iterable[Block], *, norm: int = 2) -> list[Block]:
        """The coarser edges of some finer ones: the ``norm`` of the weights that fall together; loops are dropped.

        Blocks whose images overlap must be passed together. Sums are in float64.
        """
        sums: dict[tuple[str, str], torch.Tensor] = {}
        dtype = torch.float32
        for block in blocks:
            dtype = block.values.dtype
            for dst in self._in(block.dst):
                for src in self._in(block.src):
                    if src.coarse != dst.coarse:
                        self._add(sums, block, src, dst, norm)
        return [self._block(key, total, norm, dtype) for key, total in sums.items()]

    def _in(self, run: tuple[int, int]) -> list[_Piece]:
        """The pieces of a run of finer nodes, which starts and stops where spans do."""
        return self._pieces[bisect_left(self._starts, run[0]) : bisect_left(self._starts, run[1])]

    def _add(
        self, sums: dict[tuple[str, str], torch.Tensor], block: Block, src: _Piece, dst: _Piece, norm: int
    ) -> None:
        """Adds the powers of the weights between two pieces: dense where every edge is stored, else as COO."""
        shape = (self._size(dst.coarse), self._size(src.coarse))
        rows = slice(dst.start - block.dst[0], dst.stop - block.dst[0])
        columns = slice(src.start - block.src[0], src.stop - block.src[0])
        if block.is_full:
            powers = block.values.view(block.shape)[rows, columns].abs().double().pow(norm)
            part = powers.new_zeros((shape[0], powers.shape[1])).index_add_(0, dst.position, powers)
            part = part.new_zeros(shape).index_add_(1, src.position, part)
        else:
            row, col = block.rows(), block.col.long()
            here = (row >= rows.start) & (row < rows.stop) & (col >= columns.start) & (col < columns.stop)
            if not bool(here.any()):
                return
            index = torch.stack([dst.position[row[here] - rows.start], src.position[col[here] - columns.start]])
            powers = block.values[here].abs().double().pow(norm)
            part = torch.sparse_coo_tensor(index, powers, shape, check_invariants=False)
        key = (src.coarse, dst.coarse)
        before = sums.get(key)
        if before is not None and before.is_sparse != part.is_sparse:
            before, part = before.to_dense(), part.to_dense()
        sums[key] = part if before is None else before + part

    def _size(self, name: str) -> int:
        start, stop = self._runs[name]
        return stop - start

    def _block(self, key: tuple[str, str], total: torch.Tensor, norm: int, dtype: torch.dtype) -> Block:
        src, dst = self._runs[key[0]], self._runs[key[1]]
        if not total.is_sparse:
            return Block.full(src, dst, total.pow(1 / norm).to(dtype))
        total = total.coalesce()
        row, col = total.indices()
        return Block(src, dst, total.values().pow(1 / norm).to(dtype), row_pointers(row, dst[1] - dst[0]), col.int())


def _place(span: Span, nodes: NodeIndex, level: Level) -> tuple[Span, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The coarser span that a finer one falls into, and the position in it of each of its nodes."""
    if level == "block":
        module = _MODULE_OF.get(span.kind, span.kind) if _is_decoder(nodes) else span.kind
        return Span(module, span.layer, 1), np.zeros(span.size, dtype=np.int64)
    unit = _UNIT_OF.get(span.kind, span.kind)
    if unit in {"head", "kv_head"} and span.kind not in {"head", "kv_head"}:
        n_heads = _size(nodes, "pattern", span.layer)
        d_head = _size(nodes, "attn", span.layer) // n_heads
        count = n_heads if unit == "head" else span.size // d_head
        return Span(unit, span.layer, count), np.arange(span.size) // (span.size // count)
    return Span(unit, span.layer, span.size), np.arange(span.size)


def _is_decoder(nodes: NodeIndex) -> bool:
    return "resid.0" in nodes


def _size(nodes: NodeIndex, kind: str, layer: int) -> int:
    start, stop = nodes.range(kind, layer)
    return stop - start


def _rank(span: Span) -> tuple[int, int]:
    """Topological position of a coarse span."""
    if span.kind == "resid":
        return span.layer, 0
    within = {"kv_head": 1, "head": 2, "attn": 2}
    if span.kind in within:
        return 2 * span.layer, within[span.kind]
    return 2 * span.layer + 1, {"input": -2, "output": 2}.get(span.kind, 1)


def joined(weight: Weight) -> Weight:
    """What edge weights are after a quotient: a norm has no sign."""
    return "magnitude" if weight == "signed" else weight


def quotient(graph: ModelGraph, level: Level, *, norm: int = 2) -> ModelGraph:
    """The graph of a coarser level: nodes that belong together become one, weights are joined by a norm.

    Math: with ``P[fine, coarse]`` the membership, ``A' = (P^T |A|^norm P)^(1/norm)`` without its diagonal.

    Raises:
        InputError: the level is unknown or finer than the graph's own, or the graph is from outside.
    """
    if level not in LEVELS or LEVELS.index(level) < LEVELS.index(graph.level):
        raise InputError(f"a {graph.level} graph has no {level} level; coarser levels are {LEVELS}")
    if level == graph.level:
        return graph
    coarse = Quotient(graph.nodes, level)
    host = graph.to("cpu")
    blocks = tuple(coarse.blocks(host.blocks, norm=norm))
    result = replace(graph, nodes=coarse.nodes, blocks=blocks, level=level, weight=joined(graph.weight), strengths=None)
    return result.to(graph.device)


def sparsify(
    graph: ModelGraph, *, top_k: int | None = None, threshold: float | None = None, share: float | None = None
) -> tuple[ModelGraph, Dropped]:
    """The graph's strongest edges, and what was dropped. Exactly one of the three rules is given.

    Args:
        graph: any graph.
        top_k: keep each node's ``top_k`` strongest incoming edges (ties by lower source).
        threshold: keep edges of at least this absolute weight.
        share: keep the strongest edges that together hold this share of the total absolute weight (ties are kept).

    Cost: one pass for ``threshold``, two for ``share``, a partial sort for ``top_k``.
    """
    given = [rule for rule in (top_k, threshold, share) if rule is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of top_k, threshold and share")
    if top_k is not None:
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        kept = _strongest_incoming(graph, top_k)
    else:
        if share is not None:
            if not 0 < share <= 1:
                raise ValueError(f"share must lie in (0, 1], not {share}")
            threshold = _threshold_of_share(graph, share)
        least = float(threshold or 0)
        kept = [_selected(block, block.values.abs() >= least) for block in graph.blocks]
    left_over = tuple(block for block in kept if block.n_edges) or tuple(kept[:1])  # an empty block holds the type
    result = replace(graph, blocks=left_over, strengths=None)
    total, left = _total_weight(graph), _total_weight(result)
    n_dropped = graph.n_edges - result.n_edges
    return result, Dropped(n_dropped, n_dropped / max(graph.n_edges, 1), 1 - left / total if total else 0.0)


def _total_weight(graph: ModelGraph) -> float:
    return sum((float(block.values.abs().sum(dtype=torch.float64)) for block in graph.blocks), 0.0)


def _selected(block: Block, keep: torch.Tensor) -> Block:
    if bool(keep.all()):
        return block
    crow = row_pointers(block.rows()[keep], block.shape[0])
    return replace(block, values=block.values[keep], col=block.col[keep], crow=crow)


def _threshold_of_share(graph: ModelGraph, share: float) -> float:
    """The largest weight such that the edges at or above it hold the share.

    Non-negative floats are ordered like their bit patterns: one pass sums the weights by their leading bits, a second
    sorts those that share the leading bits of the threshold.
    """
    integer, shift = (torch.int64, 48) if graph.dtype == torch.float64 else (torch.int32, 16)
    wanted = share * _total_weight(graph)
    if wanted == 0:  # no edge is needed to hold a share of nothing
        return float("inf")
    held = torch.zeros(1 << 15, dtype=torch.float64, device=graph.device)
    for block in graph.blocks:
        weights = block.values.abs()
        held += torch.bincount(weights.view(integer) >> shift, weights=weights.double(), minlength=len(held))
    from_top = held.flip(0).cumsum(0)
    bucket = len(held) - 1 - int((from_top < wanted * (1 - 1e-12)).sum().clamp(max=len(held) - 1))
    above = float(from_top[len(held) - 2 - bucket]) if bucket < len(held) - 1 else 0.0
    inside = [w[w.view(integer) >> shift == bucket] for w in (block.values.abs() for block in graph.blocks)]
    ordered = torch.cat(inside).sort(descending=True).values
    enough = above + ordered.double().cumsum(0) >= wanted * (1 - 1e-12)
    return float(ordered[int(enough.int().argmax()) if bool(enough.any()) else -1])


def _strongest_incoming(graph: ModelGraph, top_k: int) -> list[Block]:
    """Each node's strongest incoming edges, compared across all the blocks that reach it."""
    kept: list[Block] = []
    ordered = sorted((_strongest_in_block(block, top_k) for block in graph.blocks), key=lambda block: block.dst)
    for (start, stop), group in groupby(ordered, key=lambda block: block.dst):
        blocks = list(group)
        dst = torch.cat([block.rows() for block in blocks])
        src = torch.cat([block.col.long() + block.src[0] for block in blocks])
        weight = torch.cat([block.values.abs() for block in blocks])
        by_source = torch.argsort(src, stable=True)
        by_weight = by_source[torch.argsort(weight[by_source], descending=True, stable=True)]
        order = by_weight[torch.argsort(dst[by_weight], stable=True)]
        counts = torch.bincount(dst, minlength=stop - start)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        keep = torch.zeros(len(dst), dtype=torch.bool, device=dst.device)
        keep[order] = torch.arange(len(dst), device=dst.device) - first < top_k
        parts = torch.split(keep, [block.n_edges for block in blocks])
        kept += [_selected(block, part) for block, part in zip(blocks, parts, strict=True)]
    return kept


def _strongest_in_block(block: Block, top_k: int) -> Block:
    """A full block without the edges that are not among a row's strongest; any other block as it is."""
    if not block.is_full or block.shape[1] <= top_k:
        return block
    weights = block.values.abs().view(block.shape)
    least = weights.topk(top_k, dim=1).values[:, -1:]
    above, level = weights > least, weights == least
    room = top_k - above.sum(dim=1, keepdim=True)
    return _selected(block, (above | (level & (level.cumsum(dim=1) <= room))).reshape(-1))

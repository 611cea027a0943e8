"""Smaller graphs: quotients (channel to unit to block) and the strongest edges."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from scipy import sparse

from graphprune.core.errors import InputError
from graphprune.core.graph import LEVELS, Block, Dropped, Level, ModelGraph
from graphprune.core.nodes import NodeIndex, Span

_UNIT_OF = {"query": "head", "pattern": "head", "attn": "head", "key": "kv_head", "value": "kv_head",
            "gate": "neuron", "up": "neuron"}  # fmt: skip
_MODULE_OF = _UNIT_OF | {"head": "attn", "kv_head": "attn", "neuron": "mlp"}


class Quotient:
    """The map from the nodes of one level to those of a coarser one.

    Args:
        nodes: the finer nodes.
        level: the coarser level.

    Attributes:
        nodes: the coarser nodes, in topological order.
        image: the coarser node of every finer node.
    """

    def __init__(self, nodes: NodeIndex, level: Level) -> None:
        fine = {span.kind for span in nodes.spans}
        if "node" in fine:
            raise InputError("a graph from outside has no levels")
        parts = [(span, *_place(span, nodes, level)) for span in nodes.spans]
        spans: dict[str, Span] = {}
        for _, coarse, _ in sorted(parts, key=lambda part: _rank(part[1])):
            spans.setdefault(coarse.name, coarse)
        self.nodes = NodeIndex(tuple(spans.values()))
        images = [self.nodes.range(coarse.kind, coarse.layer)[0] + within for _, coarse, within in parts]
        self.image = np.concatenate(images) if images else np.zeros(0, dtype=np.int64)

    def blocks(self, blocks: Iterable[Block], *, norm: int = 2) -> list[Block]:
        """The coarser edges of some finer ones: the ``norm`` of the weights that fall together; loops are dropped.

        Blocks whose images overlap must be passed together.
        """
        sums: dict[tuple[str, str], sparse.csr_array] = {}
        for block in blocks:
            matrix = sparse.csr_array(
                (block.values.abs().double().numpy() ** norm, block.col.numpy(), block.crow.numpy()), shape=block.shape
            )
            rows, row_start, row_stop = self._aggregator(block.dst)
            columns, column_start, column_stop = self._aggregator(block.src)
            total = sparse.csc_array(rows @ matrix @ columns.T)
            for src in self._spans_between(column_start, column_stop):
                part = sparse.csr_array(total[:, src[1] - column_start : src[2] - column_start])
                for dst in self._spans_between(row_start, row_stop):
                    piece = part[dst[1] - row_start : dst[2] - row_start]
                    if piece.nnz and src[0] != dst[0]:
                        key = (src[0], dst[0])
                        sums[key] = sums[key] + piece if key in sums else piece
        dtype = next((block.values.dtype for block in blocks), torch.float32)
        return [self._block(key, matrix, norm, dtype) for key, matrix in sums.items()]

    def _aggregator(self, run: tuple[int, int]) -> tuple[sparse.csr_array, int, int]:
        """The matrix that sums fine nodes of a run into coarse ones, and the run of coarse nodes it covers."""
        image = self.image[slice(*run)]
        names = [name for name, start, stop in self._all_spans() if ((image >= start) & (image < stop)).any()]
        covered = [span for span in self._all_spans() if span[0] in names]
        start, stop = covered[0][1], covered[-1][2]
        shape = (stop - start, len(image))
        ones = np.ones(len(image))
        return sparse.csr_array((ones, (image - start, np.arange(len(image)))), shape=shape), start, stop

    def _all_spans(self) -> list[tuple[str, int, int]]:
        return [(span.name, *self.nodes.range(span.kind, span.layer)) for span in self.nodes.spans]

    def _spans_between(self, start: int, stop: int) -> list[tuple[str, int, int]]:
        return [span for span in self._all_spans() if start <= span[1] and span[2] <= stop]

    def _block(self, key: tuple[str, str], matrix: sparse.csr_array, norm: int, dtype: torch.dtype) -> Block:
        ranges = {name: (start, stop) for name, start, stop in self._all_spans()}
        matrix.sort_indices()
        values = torch.from_numpy(matrix.data ** (1 / norm)).to(dtype)
        crow = torch.from_numpy(matrix.indptr.astype(np.int32))
        return Block(ranges[key[0]], ranges[key[1]], values, crow, torch.from_numpy(matrix.indices.astype(np.int32)))


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
    result = replace(graph, nodes=coarse.nodes, blocks=blocks, level=level, strengths=None)
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

    Cost: one pass for ``threshold``; one a bit of the weight's type (32 or 64) for ``share``.
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
    result = replace(graph, blocks=tuple(block for block in kept if block.n_edges), strengths=None)
    total, left = _total_weight(graph), _total_weight(result)
    n_dropped = graph.n_edges - result.n_edges
    return result, Dropped(n_dropped, n_dropped / max(graph.n_edges, 1), 1 - left / total if total else 0.0)


def _total_weight(graph: ModelGraph) -> float:
    return sum(float(block.values.abs().sum(dtype=torch.float64)) for block in graph.blocks)


def _selected(block: Block, keep: torch.Tensor) -> Block:
    if bool(keep.all()):
        return block
    counts = torch.zeros(block.shape[0] + 1, dtype=torch.int32, device=keep.device)
    counts[1:] = torch.bincount(block.rows()[keep], minlength=block.shape[0])
    return replace(block, values=block.values[keep], col=block.col[keep], crow=counts.cumsum(0, dtype=torch.int32))


def _threshold_of_share(graph: ModelGraph, share: float) -> float:
    """The largest weight such that the edges at or above it hold the share, found bit by bit."""
    wanted = share * _total_weight(graph)
    integer, bits = (torch.int64, 63) if graph.dtype == torch.float64 else (torch.int32, 31)
    pattern = 0  # non-negative floats are ordered like their bit patterns
    for bit in reversed(range(bits)):
        trial = torch.tensor(pattern | 1 << bit, dtype=integer).view(graph.dtype).item()
        if not np.isfinite(trial):
            continue
        above = 0.0
        for block in graph.blocks:
            weights = block.values.abs()
            above += float(weights.where(weights >= trial, 0).sum(dtype=torch.float64))
        if above >= wanted * (1 - 1e-12):
            pattern |= 1 << bit
    return float(torch.tensor(pattern, dtype=integer).view(graph.dtype).item())


def _strongest_incoming(graph: ModelGraph, top_k: int) -> list[Block]:
    """Each node's strongest incoming edges, compared across all the blocks that reach it."""
    kept: list[Block] = []
    ordered = sorted(graph.blocks, key=lambda block: block.dst)
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

"""Coarser graphs: quotients from channels to units to modules."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from graphprune.core.block import Block, EdgeBlock, row_pointers
from graphprune.core.errors import InputError
from graphprune.core.graph import LEVELS, Level, ModelGraph, Weight
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

    def lifted(self, values: Shaped[torch.Tensor, " n_coarse"]) -> Shaped[torch.Tensor, " n_fine"]:
        """To every finer node, the value of the coarser one it falls into."""
        parts = [values[slice(*self._runs[piece.coarse])][piece.position] for piece in self._pieces]
        return torch.cat([values[:0], *parts])

    def blocks(self, blocks: Iterable[EdgeBlock], *, norm: int = 2) -> list[Block]:
        """The coarser edges of some finer ones: the ``norm`` of the weights that fall together; loops are dropped.

        Blocks whose images overlap must be passed together. Sums are in float64.
        """
        sums: dict[tuple[str, str], torch.Tensor] = {}
        dtype = torch.float32
        for edges in blocks:
            block = edges.load()
            dtype = block.dtype
            for dst in self._in(block.dst):
                for src in self._in(block.src):
                    if src.coarse != dst.coarse:
                        self._add(sums, block, src, dst, norm)
        return [self._block(key, total, norm, dtype) for key, total in sums.items()]

    def present(self, fine: Bool[torch.Tensor, " n_fine"]) -> Bool[torch.Tensor, " n_coarse"]:
        """Which coarser nodes have a finer one left."""
        result = torch.zeros(self.nodes.n_nodes, dtype=torch.bool)
        for piece in self._pieces:
            part = result[slice(*self._runs[piece.coarse])]
            part[piece.position[fine[piece.start : piece.stop]]] = True
        return result

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
    if not blocks:  # an empty block holds the type of the weights
        empty = torch.zeros(0, dtype=graph.dtype)
        blocks = (Block((0, 0), (0, 0), empty, torch.zeros(1, dtype=torch.int32), empty.int()),)
    present = None if host.present is None else coarse.present(host.present)
    kept = joined(graph.weight)
    result = replace(
        graph, nodes=coarse.nodes, blocks=blocks, level=level, weight=kept, strengths=None, present=present
    )
    return result.to(graph.device)

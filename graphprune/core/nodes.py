"""Which node is what: spans of one kind, one after the other, in topological order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Shaped


@dataclass(frozen=True)
class Span:
    """``size`` nodes of one kind and layer, for example the neurons of block 3."""

    kind: str
    layer: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class NodeIndex:
    """Spans in topological order. The only place where node offsets are added.

    >>> index = NodeIndex((Span("resid", 0, 4), Span("neuron", 0, 8)))
    >>> index.n_nodes, index.range("neuron", 0), index.locate(5)
    (12, (4, 12), ('neuron', 0, 1))
    """

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        names = [span.name for span in self.spans]
        if len(set(names)) < len(names):
            raise ValueError(f"span {next(name for name in names if names.count(name) > 1)} appears twice")

    @cached_property
    def _start(self) -> dict[str, int]:
        starts: dict[str, int] = {}
        offset = 0
        for span in self.spans:
            starts[span.name] = offset
            offset += span.size
        return starts

    @cached_property
    def n_nodes(self) -> int:
        return sum(span.size for span in self.spans)

    @cached_property
    def _by_name(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def range(self, kind: str, layer: int) -> tuple[int, int]:
        """First node of a span, and the node after its last."""
        name = f"{kind}.{layer}"
        if name not in self._by_name:
            raise KeyError(f"no nodes {name}; kinds are {sorted({span.kind for span in self.spans})}")
        start = self._start[name]
        return start, start + self._by_name[name].size

    def of(self, values: Shaped[torch.Tensor, " n_nodes *rest"], kind: str, layer: int) -> Shaped[torch.Tensor, "..."]:
        """The part of a per-node tensor that belongs to one span, as a view."""
        start, stop = self.range(kind, layer)
        return values[start:stop]

    def locate(self, node: int) -> tuple[str, int, int]:
        """Kind, layer and position within the span of a node."""
        if not 0 <= node < self.n_nodes:
            raise IndexError(f"node {node} is outside 0..{self.n_nodes - 1}")
        for span in self.spans:
            if node < span.size:
                return span.kind, span.layer, node
            node -= span.size
        raise AssertionError("spans tile the nodes")

    def to_json(self) -> list[list[Any]]:
        return [[span.kind, span.layer, span.size] for span in self.spans]

    @classmethod
    def from_json(cls, rows: Iterable[Sequence[Any]]) -> "NodeIndex":
        return cls(tuple(Span(str(kind), int(layer), int(size)) for kind, layer, size in rows))

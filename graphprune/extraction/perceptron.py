"""The channel graph of a perceptron: one kind of node a layer, one full block between two layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from graphprune.core.block import Block
from graphprune.core.graph import Weight
from graphprune.core.nodes import NodeIndex, Span
from graphprune.core.stats import CalibrationStats
from graphprune.models.architecture import Perceptron


@dataclass(frozen=True)
class PerceptronEdges:
    """Yields the edges of a perceptron's graph, one list a layer."""

    perceptron: Perceptron
    parameters: Mapping[str, torch.Tensor]
    weight: Weight
    stats: CalibrationStats | None

    @cached_property
    def nodes(self) -> NodeIndex:
        return NodeIndex(
            tuple(Span(*place, size) for place, size in zip(self._places, self.perceptron.sizes, strict=True))
        )

    @cached_property
    def _places(self) -> list[tuple[str, int]]:
        last = self.perceptron.n_layers - 1
        return [("input", 0), *(("neuron", layer) for layer in range(last)), ("output", last)]

    def parts(self) -> Iterator[list[Block]]:
        for layer in range(self.perceptron.n_layers):
            matrix = self.parameters[self.perceptron.parameter(layer)].float()
            kind, index = self._places[layer]
            if self.weight != "signed":
                matrix = matrix.abs()
            if self.weight == "activation":
                if self.stats is None:
                    raise ValueError("edge weights by activation need calibration statistics")
                matrix = matrix * self.stats.rms(f"{kind}.{index}").float()
            yield [Block.full(self.nodes.range(kind, index), self.nodes.range(*self._places[layer + 1]), matrix)]

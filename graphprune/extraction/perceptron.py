"""The channel graph of a perceptron: one kind of node a layer, one full block between two layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from graphprune.core.block import Block
from graphprune.core.graph import MEASURED, Weight
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
            if self.weight in MEASURED and self.stats is None:
                raise ValueError(f"edge weights by {self.weight} need calibration statistics")
            if self.weight == "activation" and self.stats is not None:
                matrix = matrix * self.stats.rms(f"{kind}.{index}").float()
            if self.weight == "power" and self.stats is not None:
                matrix = matrix.square() * self._slope(self.stats, layer)[:, None]
            yield [Block.full(self.nodes.range(kind, index), self.nodes.range(*self._places[layer + 1]), matrix)]

    def _slope(self, stats: CalibrationStats, layer: int) -> torch.Tensor:
        """The power that a layer's activation function lets through."""
        kind, index = self._places[layer + 1]
        before, after = stats.rms(f"pre.{layer}").square(), stats.rms(f"{kind}.{index}").square()
        return torch.where(before > 0, after / before, 0.0).float()

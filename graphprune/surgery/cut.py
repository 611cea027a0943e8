"""The cut itself. ``zeroed`` and ``excised`` are pure functions of parameters, and the two networks agree exactly.

A unit is taken out; a single weight has no place of its own to take out, so both set it to zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Shaped

from graphprune.core.mask import Mask
from graphprune.core.units import UnitTable

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What a mask says of the parameters that it touches.

    Attributes:
        axes: per parameter, which positions of which axes stay.
        weights: per parameter, which single weights stay.
    """

    axes: Mapping[str, Mapping[int, torch.Tensor]]
    weights: Mapping[str, Bool[torch.Tensor, "..."]] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: Mask, units: UnitTable) -> "Plan":
        axes: dict[str, dict[int, torch.Tensor]] = {}
        for group in units:
            keep = mask.keep[group.name]
            if bool(keep.all()):
                continue
            for own in group.owns:
                axes.setdefault(own.parameter, {})[own.axis] = keep.repeat_interleave(own.width)
        return cls(axes, {name: keep for name, keep in mask.weights.items() if not bool(keep.all())})

    @property
    def touched(self) -> frozenset[str]:
        """The parameters that change."""
        return frozenset((*self.axes, *self.weights))

    def zeroed(self, name: str, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """A parameter of the same shape with what goes set to zero."""
        tensor = self._without_weights(name, tensor)
        for axis, keep in self.axes.get(name, {}).items():
            shape = [-1 if i == axis else 1 for i in range(tensor.ndim)]
            tensor = tensor * keep.to(device=tensor.device, dtype=tensor.dtype).view(shape)
        return tensor

    def excised(self, name: str, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """A parameter without the units that go, and with zeros for the single weights that go."""
        tensor = self._without_weights(name, tensor)
        for axis, keep in self.axes.get(name, {}).items():
            tensor = tensor.index_select(axis, keep.nonzero()[:, 0].to(tensor.device))
        return tensor

    def _without_weights(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in self.weights:
            return tensor
        keep = self.weights[name]
        if keep.shape != tensor.shape:  # it might broadcast
            raise ValueError(f"the mask of {name} is {tuple(keep.shape)}, the parameter {tuple(tensor.shape)}")
        return tensor.masked_fill(~keep.to(tensor.device), 0)

    def n_parameters_left(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many parameters stay. A weight that goes by itself and with its unit goes once."""
        total = 0
        for name, shape in shapes.items():
            axes = self.axes.get(name, {})
            if name in self.weights:
                keep = self.weights[name]
                for axis, positions in axes.items():
                    keep = keep.index_select(axis, positions.nonzero()[:, 0].to(keep.device))
                total += int(keep.sum())
                continue
            sizes = [int(axes[axis].sum()) if axis in axes else size for axis, size in enumerate(shape)]
            total += torch.Size(sizes).numel()
        return total


def zeroed(parameters: Tensors, units: UnitTable, mask: Mask) -> dict[str, torch.Tensor]:
    """The parameters with every removed weight, and every removed unit's rows, biases and columns, set to zero.

    Shapes stay. A network with zeroed parameters computes the same as the excised one: a removed unit is neither
    computed nor read.
    """
    plan = Plan.of(mask, units)
    return {name: plan.zeroed(name, parameters[name]) for name in parameters}


def excised(parameters: Tensors, units: UnitTable, mask: Mask) -> dict[str, torch.Tensor]:
    """The parameters with every removed unit's rows, biases and columns taken out. Shapes shrink, layer by layer.

    Single weights that go are zeros in what is left.
    """
    plan = Plan.of(mask, units)
    return {name: plan.excised(name, parameters[name]) for name in parameters}

"""The cut itself. ``zeroed`` and ``excised`` are pure functions of parameters, and the two networks agree exactly."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Shaped

from graphprune.core.mask import Mask
from graphprune.core.units import UnitTable

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """For every parameter that a mask touches, which positions of which axes stay."""

    axes: Mapping[str, Mapping[int, torch.Tensor]]

    @classmethod
    def of(cls, mask: Mask, units: UnitTable) -> "Plan":
        axes: dict[str, dict[int, torch.Tensor]] = {}
        for group in units:
            keep = mask.keep[group.name]
            if bool(keep.all()):
                continue
            for own in group.owns:
                axes.setdefault(own.parameter, {})[own.axis] = keep.repeat_interleave(own.width)
        return cls(axes)

    def zeroed(self, name: str, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """A parameter of the same shape with what goes set to zero."""
        for axis, keep in self.axes.get(name, {}).items():
            shape = [-1 if i == axis else 1 for i in range(tensor.ndim)]
            tensor = tensor * keep.to(device=tensor.device, dtype=tensor.dtype).view(shape)
        return tensor

    def excised(self, name: str, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """A parameter without what goes."""
        for axis, keep in self.axes.get(name, {}).items():
            tensor = tensor.index_select(axis, keep.nonzero()[:, 0].to(tensor.device))
        return tensor

    def n_parameters_left(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many parameters stay."""
        total = 0
        for name, shape in shapes.items():
            axes = self.axes.get(name, {})
            sizes = [int(axes[axis].sum()) if axis in axes else size for axis, size in enumerate(shape)]
            total += torch.Size(sizes).numel()
        return total


def zeroed(parameters: Tensors, units: UnitTable, mask: Mask) -> dict[str, torch.Tensor]:
    """The parameters with every removed unit's rows, biases and columns set to zero. Shapes stay.

    A network with zeroed parameters computes the same as the excised one: a removed unit is neither computed nor read.
    """
    plan = Plan.of(mask, units)
    return {name: plan.zeroed(name, parameters[name]) for name in parameters}


def excised(parameters: Tensors, units: UnitTable, mask: Mask) -> dict[str, torch.Tensor]:
    """The parameters with every removed unit's rows, biases and columns taken out. Shapes shrink, layer by layer."""
    plan = Plan.of(mask, units)
    return {name: plan.excised(name, parameters[name]) for name in parameters}

"""What can be removed: which axes of which parameters a unit owns."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Shaped

HEAD, KV_HEAD, NEURON = "head", "kv_head", "neuron"


@dataclass(frozen=True)
class Ownership:
    """Unit ``i`` owns positions ``[i * width, (i + 1) * width)`` of one axis of a parameter."""

    parameter: str
    axis: int
    width: int


@dataclass(frozen=True)
class UnitGroup:
    """All units of one kind in one layer.

    Attributes:
        kind: `head`, `kv_head` or `neuron`.
        layer: which block.
        size: how many units.
        owns: the rows that make a unit (axis 0) and the columns that read it (axis 1).
        channel: the node kind and calibration site of its output channels, for example `attn` or `neuron`.
        width: output channels a unit.
        parameters_per_unit: how many parameters go with one unit.
    """

    kind: str
    layer: int
    size: int
    owns: tuple[Ownership, ...]
    channel: str
    width: int
    parameters_per_unit: int

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.layer}"

    @property
    def site(self) -> str:
        """The calibration site of the group's output channels."""
        return f"{self.channel}.{self.layer}"

    @property
    def incoming(self) -> tuple[Ownership, ...]:
        """The parameters (rows, biases) that compute the unit's output."""
        return tuple(own for own in self.owns if own.axis == 0)

    @property
    def outgoing(self) -> tuple[Ownership, ...]:
        """The parameters (columns) that read the unit's output."""
        return tuple(own for own in self.owns if own.axis == 1)

    def per_unit(self, channels: Shaped[torch.Tensor, " channels"]) -> Shaped[torch.Tensor, "units width"]:
        """Values on output channels, one row a unit."""
        return channels.view(self.size, self.width)


@dataclass(frozen=True)
class UnitTable:
    """Every removable unit of a model, in order of layer."""

    groups: tuple[UnitGroup, ...]

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def of_kind(self, *kinds: str) -> tuple[UnitGroup, ...]:
        return tuple(group for group in self.groups if group.kind in kinds)

    def __getitem__(self, name: str) -> UnitGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(group.name == name for group in self.groups)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({group.layer for group in self.groups}))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group.kind for group in self.groups))

    def prunable_parameters(self, *kinds: str) -> int:
        """How many parameters the units of these kinds (of all, if none is named) own together."""
        groups = self.of_kind(*kinds) if kinds else self.groups
        return sum(group.size * group.parameters_per_unit for group in groups)

    def sizes(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

"""Which device each part of a network runs on: one for all of it, or those among which accelerate spreads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

AUTO = "auto"
Device = int | str
"""A device's name, or the number of an accelerator."""


@dataclass(frozen=True)
class Devices:
    """Where the parts of a decoder run.

    Attributes:
        outside: what isn't in a block.
        blocks: each block; none where all run with the rest.
    """

    outside: Device = "cpu"
    blocks: tuple[Device, ...] = ()

    def of_block(self, layer: int) -> Device:
        return self.blocks[layer] if self.blocks else self.outside


def spread(body: Any, layers: str, dtype: torch.dtype, max_memory: Mapping[Device, int | str] | None = None) -> Devices:
    """The devices to which accelerate assigns the blocks of a network: as many to each accelerator as it can hold.

    A block that fits on none waits elsewhere until it runs, and then runs on the first; without any, on the CPU.

    Args:
        body: the network, on the meta device; its blocks stay whole.
        layers: the name of its list of blocks.
        dtype: of its parameters.
        max_memory: bytes by device; by default what is free.
    """
    from accelerate import infer_auto_device_map  # type: ignore[import-untyped]
    from accelerate.utils import get_balanced_memory  # type: ignore[import-untyped]

    options = {"no_split_module_classes": list(body._no_split_modules or ()), "dtype": dtype}  # noqa: SLF001 - accelerate's
    memory = get_balanced_memory(body, None if max_memory is None else dict(max_memory), **options)
    assigned: dict[str, Device] = infer_auto_device_map(body, memory, **options)
    first = next((device for device in assigned.values() if isinstance(device, int)), "cpu")

    def of(name: str) -> Device:
        while name not in assigned:
            name = name.rpartition(".")[0]
        return assigned[name] if isinstance(assigned[name], int) else first

    return Devices(first, tuple(of(f"{layers}.{layer}") for layer in range(len(body.get_submodule(layers)))))


def alone(device: str) -> str:
    """The device of a network that isn't spread: for `auto` the accelerator, if there is one."""
    if device != AUTO:
        return device
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else str(accelerator)


def entrance(network: Any, device: str) -> torch.device:
    """Where the tokens that a network reads belong; where accelerate has spread it, what it gives comes back there."""
    if device != AUTO:
        return torch.device(device)
    found: torch.device = network.get_input_embeddings().weight.device
    return torch.device("cpu") if found.type == "meta" else found

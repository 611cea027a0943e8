"""One block after the other: each is measured with the inputs that the pruned blocks before it give.

The activations between blocks and one block's Hessian are all that is kept beside the model.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from graphprune.calibration.forward import hooked
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.progress import progress
from graphprune.models.model import Model
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import compensated


class _Stop(Exception):  # noqa: N818 - it stops a forward pass, nothing is wrong
    """A forward pass has got where it had to."""


@dataclass
class Blocks:
    """A decoder's blocks and the hidden states of some windows before the next of them.

    Attributes:
        layers: the blocks.
        hidden: per window, what enters the next block (1, seq_len, d_model).
        settings: per block, the other arguments of its forward pass: positions, masks.
    """

    layers: Any
    hidden: list[Float[torch.Tensor, "1 seq_len d_model"]]
    settings: list[dict[str, Any]]

    @classmethod
    def caught(cls, network: Any, rows: Int[torch.Tensor, "windows seq_len"], device: str) -> "Blocks":
        """What enters the first block, for every window, and what every block is called with."""
        layers, hidden, settings = network.model.layers, [], []

        def keep_hidden(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def keep_settings(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
            settings.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        with torch.inference_mode():
            handles = [layer.register_forward_pre_hook(keep_settings, with_kwargs=True) for layer in layers]
            network.model(input_ids=rows[:1].to(device), use_cache=False)
            for handle in handles:
                handle.remove()
            handle = layers[0].register_forward_pre_hook(keep_hidden, with_kwargs=True)
            for row in rows:
                with suppress(_Stop):
                    network.model(input_ids=row[None].to(device), use_cache=False)
            handle.remove()
        return cls(layers, hidden, settings)

    def hessian(self, layer: int, part: str) -> Hessian:
        """Of the inputs of a linear layer of a block; the block runs no further than that."""
        module = self.layers[layer]
        found: list[Hessian] = []

        def add(inputs: torch.Tensor) -> None:
            if not found:
                found.append(Hessian.empty(inputs.shape[-1], device=inputs.device))
            found[0].add(inputs)
            raise _Stop

        with torch.inference_mode(), hooked(module, {part: add}, {}):
            for hidden in self.hidden:
                with suppress(_Stop):
                    module(hidden, **self.settings[layer])
        return found[0]

    def advance(self, layer: int) -> None:
        """Sends the hidden states through a block."""
        with torch.inference_mode():
            for i, hidden in enumerate(self.hidden):
                output = self.layers[layer](hidden, **self.settings[layer])
                self.hidden[i] = output[0] if isinstance(output, tuple) else output


def repaired(
    model: Model,
    mask: Mask,
    rows: Int[torch.Tensor, "windows seq_len"],
    *,
    damping: float = 0.01,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    finished: Callable[[str, torch.Tensor], None] | None = None,
) -> dict[str, Float[torch.Tensor, "out columns"]]:
    """The layers that read removed units, refitted so that what is left gives what all gave (`obs.compensated`).

    Attention first, then the MLP through the pruned attention, then the next block with the inputs that this one now
    gives (SlimGPT, section 3.3).

    Args:
        model: a decoder.
        mask: what stays of it.
        rows: calibration windows.
        damping: of the Hessians, as a share of their mean diagonal.
        dtype: of the forward passes; Hessians are summed in float32 and solved in float64.
        device: of all of it.
        finished: is called with every layer as soon as it is done.

    Returns:
        the weights that changed, by parameter name, in float32, zero in the columns that go.

    Cost: two to three passes through the network, and a Cholesky factorisation a layer.

    Warns:
        UserWarning: there are fewer calibration tokens than columns.

    Raises:
        InputError: the model is a perceptron, a Hessian is not positive definite, or an activation is not finite.
    """
    decoder = model.decoder
    model.check_tokens(rows)
    if rows.numel() == 0:
        raise InputError("there is no calibration text to repair with")
    widest = max((group.size * group.width for group in model.units.of_kind("head", "neuron")), default=0)
    if rows.numel() < widest:
        warnings.warn(
            f"{rows.numel():,} calibration tokens for layers of up to {widest:,} columns: the repair fits the text "
            f"more than the model; calibrate on more, or raise the damping ({damping:g})",
            stacklevel=1,
        )
    network: Any = model.module(dtype=dtype, device=device)
    blocks = Blocks.caught(network, rows, device)
    result: dict[str, torch.Tensor] = {}
    for layer in progress(range(decoder.n_layers), "repairing", unit="block"):
        for kind in ("head", "neuron"):
            group = model.units[f"{kind}.{layer}"]
            keep = mask.keep[group.name]
            if bool(keep.all()):
                continue
            (reader,) = group.outgoing
            part = reader.parameter.removeprefix(decoder.block(layer)).removesuffix(".weight")
            hessian = blocks.hessian(layer, part).damped(damping)
            columns = keep.repeat_interleave(reader.width).to(hessian.device)
            weights = model.parameters[reader.parameter].float().to(hessian.device)
            result[reader.parameter] = compensated(weights, hessian, columns).cpu()
            if finished is not None:
                finished(reader.parameter, result[reader.parameter])
            module = blocks.layers[layer].get_submodule(part)  # its weight may be the caller's own tensor: replace it
            dense = module.weight
            module.weight = torch.nn.Parameter(result[reader.parameter].to(dense), requires_grad=False)
        blocks.advance(layer)
    return result


class Overlaid(Mapping[str, torch.Tensor]):
    """A model's parameters, some of them replaced; the others are read when they are needed."""

    def __init__(self, below: Mapping[str, torch.Tensor], above: Mapping[str, torch.Tensor]) -> None:
        self.below, self.above = below, above

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self.below[name]
        return self.above[name].to(found.dtype) if name in self.above else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)

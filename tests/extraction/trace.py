"""What flows through a running `transformers` decoder, and what flows when something is changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Change = Callable[[torch.Tensor], torch.Tensor]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Trace:
    """Inputs and outputs of every linear layer and every normalisation, by module name."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def gains(self) -> dict[str, torch.Tensor]:
        """By what each normalisation multiplied each entry: its gain over its denominator, as measured."""
        return {name: self.outputs[name] / x for name, x in self.inputs.items() if name.endswith("norm")}


def traced(
    network: nn.Module,
    ids: torch.Tensor,
    *,
    inputs: Mapping[str, Change] | None = None,
    outputs: Mapping[str, Change] | None = None,
    frozen: Mapping[str, torch.Tensor] | None = None,
) -> Trace:
    """Runs a decoder.

    Args:
        network: a causal language model.
        ids: tokens.
        inputs: changes to the input of modules.
        outputs: changes to the output of modules.
        frozen: normalisations that multiply by these numbers instead of dividing by the root mean square of what they
            get, which makes them linear.
    """
    trace = Trace()
    inputs, outputs, frozen = inputs or {}, outputs or {}, frozen or {}

    def before(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = inputs[name](args[0].clone()) if name in inputs else args[0]
            trace.inputs[name] = x
            return (x, *args[1:])

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
            y = trace.inputs[name] * frozen[name] if name in frozen else y
            y = outputs[name](y.clone()) if name in outputs else y
            trace.outputs[name] = y
            return y

        return hook

    handles = []
    for name, module in network.named_modules():
        if name.endswith((*LINEARS, "norm")):
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    unknown = (inputs.keys() | outputs.keys() | frozen.keys()) - {name for name, _ in network.named_modules()}
    assert not unknown, f"no modules {unknown}"
    try:
        with torch.inference_mode():
            network(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def zeroing(*positions: int) -> Change:
    """The change that sets channels to zero."""

    def change(x: torch.Tensor) -> torch.Tensor:
        x[..., list(positions)] = 0
        return x

    return change

"""What flows through a running `transformers` decoder, and what flows when something is changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.families import RENAMED, module_of, names_of, part_of

Change = Callable[[torch.Tensor], torch.Tensor]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Trace:
    """Inputs and outputs of every linear layer and every normalisation, by Llama's names for them."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)

    def frozen(self, network: Any) -> dict[str, Change]:
        """Every normalisation with its denominator held at what it was."""
        return {name: held(module_of(network, name), x) for name, x in self.inputs.items() if name.endswith("norm")}


def held(norm: nn.Module, x: torch.Tensor) -> Change:
    """A normalisation that divides by what it divided ``x`` by, which makes it linear but for its bias."""
    with torch.inference_mode():
        y = norm(x)
    if not isinstance(norm, nn.LayerNorm):
        return lambda changed: changed * (y / x)
    scale = (y - norm.bias) / (x - x.mean(dim=-1, keepdim=True))
    return lambda changed: (changed - changed.mean(dim=-1, keepdim=True)) * scale + norm.bias


def parts_of(network: Any) -> list[str]:
    """Llama's names for the linear layers and normalisations."""
    if network.config.model_type not in RENAMED:
        return [name for name, _ in network.named_modules() if name.endswith((*LINEARS, "norm"))]
    blocks = [name.removesuffix(".weight") for name in names_of(network) if name.endswith(".weight")]
    return [*blocks, "model.norm"]


def traced(
    network: nn.Module,
    ids: torch.Tensor,
    *,
    inputs: Mapping[str, Change] | None = None,
    outputs: Mapping[str, Change] | None = None,
    frozen: Mapping[str, Change] | None = None,
) -> Trace:
    """Runs a decoder.

    Args:
        network: a causal language model.
        ids: tokens.
        inputs: changes to the input of parts.
        outputs: changes to the output of parts.
        frozen: normalisations to be replaced.
    """
    trace = Trace()
    inputs, outputs, frozen = inputs or {}, outputs or {}, frozen or {}

    def by_token(x: torch.Tensor) -> torch.Tensor:
        return x.view(*ids.shape, -1) if x.ndim == 2 else x  # OPT's MLP reads all tokens in one row

    def before(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = by_token(args[0])
            x = inputs[name](x.clone()) if name in inputs else x
            trace.inputs[name] = x
            return (x.view_as(args[0]), *args[1:])

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
            whole = frozen[name](trace.inputs[name]).view_as(y) if name in frozen else y
            channels = part_of(network, name, torch.arange(y.shape[-1]))  # of a fused projection these are some
            mine = by_token(whole)[..., channels]
            if name in outputs:
                mine = outputs[name](mine.clone())
                whole = whole.clone()
                by_token(whole)[..., channels] = mine
            trace.outputs[name] = mine
            return whole

        return hook

    names, handles = parts_of(network), []
    for name in names:
        module = module_of(network, name)
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    unknown = (inputs.keys() | outputs.keys() | frozen.keys()) - set(names)
    assert not unknown, f"no parts {unknown}"
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

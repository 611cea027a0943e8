"""How much a model's prediction feels an error in what a layer writes to the residual stream."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.core.errors import InputError, ModelError
from graphprune.core.progress import progress
from graphprune.models.devices import entrance
from graphprune.models.model import Model

Sensitivity = dict[str, Float[torch.Tensor, " d_model"]]


def sensitivities(
    model: Model,
    rows: Shaped[torch.Tensor, "windows seq_len"],
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Sensitivity:
    """The credit of every channel that heads and neurons write to, measured by one backward pass; per unit group.

    Math: an error ``d`` of a layer's output changes the prediction by ``KL = 1/2 d^T F d`` nats a token to second
    order, with the Fisher information ``F = E[g g^T]`` of ``g = d log p(y) / dz`` and ``y`` drawn from the prediction
    itself. This is the diagonal of ``F``, float32, with what an error does to all later tokens in it.

    Args:
        model: a decoder.
        rows: calibration windows.
        seed: of the draw of ``y``.
        dtype: of the forward and backward pass.
        device: of both.

    Cost: about three forward passes, with one window's activations in memory.

    Raises:
        InputError: the model is a perceptron, or there are no windows.
        ModelError: a gradient is NaN or infinite.
    """
    decoder = model.decoder
    if not rows.numel():
        raise InputError("there is no calibration text to measure credit on")
    network: Any = model.module(dtype=dtype, device=device).requires_grad_(requires_grad=False)
    place = entrance(network, device)
    writers = {f"head.{layer}": "o_proj" for layer in range(decoder.n_layers)}
    writers |= {f"neuron.{layer}": "down_proj" for layer in range(decoder.n_layers)}
    totals = {name: torch.zeros(decoder.d_model, dtype=torch.float64, device=place) for name in writers}
    for name, part in writers.items():
        module = decoder.naming.module(decoder.parameter(int(name.split(".")[1]), part)).module
        network.get_submodule(module).register_forward_hook(_adding_squares(totals[name]))
    generator = torch.Generator(place).manual_seed(seed)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels may add up in any order
        for row in progress(rows.to(place), "measuring credit", unit="window"):
            logits = network(input_ids=row[None], use_cache=False).logits[0].float()
            drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=generator)[:, 0]
            loss = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
    for name, total in totals.items():
        if not bool(torch.isfinite(total).all()):
            raise ModelError(f"the credit of {name} is NaN or infinite; try --dtype float32")
    return {name: (total / rows.numel()).float().cpu() for name, total in totals.items()}


def _adding_squares(total: Float[torch.Tensor, " channels"]) -> Callable[..., torch.Tensor]:
    """A hook that adds the squared gradient of a layer's output to a total."""

    def add(gradient: torch.Tensor) -> None:
        total.add_(gradient.reshape(-1, gradient.shape[-1]).float().square().sum(dim=0).to(total.device))

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        watched = output if output.requires_grad else output.detach().requires_grad_()
        watched.register_hook(add)  # type: ignore[no-untyped-call]
        return watched

    return hook

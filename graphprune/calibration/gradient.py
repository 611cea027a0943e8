"""Gradients of the language-model loss with respect to weights, window by window."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.core.errors import InputError, ModelError
from graphprune.core.progress import progress
from graphprune.models.devices import entrance
from graphprune.models.model import Model


def gradients(
    model: Model,
    rows: Shaped[torch.Tensor, "windows seq_len"],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    names: Iterable[str] | None = None,
) -> dict[str, Float[torch.Tensor, "..."]]:
    """The derivative of the language-model loss by each parameter, by parameter name, in float32.

    Math: ``dL/dw`` of ``L`` = mean of ``-log p(token | before)`` over every predicted token of all windows, at the
    dense model's weights.

    Args:
        model: a decoder.
        rows: calibration windows.
        dtype: of the forward and backward pass; gradients are summed in float32.
        device: of both.
        names: the parameters; by default the weights and biases of the decoder blocks' linear layers.

    Cost: about three forward passes, and four bytes a named parameter.

    Raises:
        InputError: the model is a perceptron, or there are no windows.
        ModelError: a token is unknown to the model, or a gradient is NaN or infinite.
    """
    if model.is_perceptron:
        raise InputError(f"a gradient needs a loss: {model.name} is a perceptron, and calibration has no labels")
    if not rows.numel():
        raise InputError("there is no calibration text to take gradients on")
    if rows.shape[1] < 2:
        raise ValueError(f"a window needs at least 2 tokens, not {rows.shape[1]}")
    model.check_tokens(rows)
    wanted = linear_parameters(model) if names is None else list(names)
    if unknown := sorted(set(wanted) - model.shapes.keys()):
        raise ValueError(f"the model has no parameter {unknown[0]!r}")
    network: Any = model.module(dtype=dtype, device=device).requires_grad_(requires_grad=False)
    stock = dict.fromkeys(model.naming.parameter(name)[0] for name in wanted)
    parameters = {name: network.get_parameter(name).requires_grad_() for name in stock}
    totals = {name: torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(_move_to(totals[name]))
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels may add up in any order
        for row in progress(rows.to(entrance(network, device)), "gradients", unit="window"):
            logits = network(input_ids=row[None], use_cache=False).logits[0, :-1].float()
            torch.nn.functional.cross_entropy(logits, row[1:]).backward()  # type: ignore[no-untyped-call]
    found = model.naming.canonical({name: total.div_(len(rows)).cpu() for name, total in totals.items()})
    return {name: _checked(name, found[name]) for name in wanted}


def linear_parameters(model: Model) -> list[str]:
    """The weights and biases of the linear layers in a decoder's blocks."""
    return [name for name in model.shapes if name.startswith("model.layers.") and "_proj." in name]


def _move_to(total: Float[torch.Tensor, "..."]) -> Callable[[torch.Tensor], None]:
    """A hook that adds a parameter's gradient to a total as soon as it is there, and lets go of it."""

    def move(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            total.add_(parameter.grad)
            parameter.grad = None

    return move


def _checked(name: str, gradient: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "..."]:
    if not bool(torch.isfinite(gradient).all()):
        raise ModelError(f"the gradient of {name} is NaN or infinite; try --dtype float32")
    return gradient

"""Auxiliary variables: what the layers of a small network should have given (SparseLLM, Bai et al. 2024, section 4).

Math: a network of linear layers ``z_l = W_l a_{l-1} + b_l`` with activations ``phi`` between them is to give ``Y``. Its
inner values become variables of their own, tied to the layers by penalties:

    beta |Y - W_L a_{L-1}|^2 + sum_l gamma_l |a_l - phi(z_l)|^2 + sum_l alpha_l |z_l - W_l a_{l-1}|^2

and in a gated network ``p`` to ``phi(s) z``, with ``s`` from the gate and ``z`` from the up projection. With all others
fixed each of them has a minimiser of its own, given by the functions below; in exact arithmetic none of them can raise
the objective. Biases are the callers' to subtract.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float

from graphprune.core.errors import InputError

Activation = Callable[[torch.Tensor], torch.Tensor]
Tokens = Float[torch.Tensor, "tokens width"]
Weights = Float[torch.Tensor, "rows columns"]
Scale = float


def read_by(weights: Weights, gain: Weights, target: Float[torch.Tensor, "tokens rows"], near: Tokens) -> Tokens:
    """What a layer should read: the minimiser of ``|target - W a|^2 + tie |a - near|^2``.

    Math: ``a = near + W^T (W W^T + tie I)^-1 (target - W near)``.

    Args:
        weights: ``W``, in the type that products are computed in.
        gain: `reading_gain` of it.
        target: what the layer should give.
        near: what it reads now.
    """
    missed = target - (near.to(weights.dtype) @ weights.t()).float()
    return near + (missed.to(weights.dtype) @ gain.to(weights.dtype)).float()


def reading_gain(weights: Weights, tie: Scale) -> Weights:
    """``(W W^T + tie I)^-1 W``, by Cholesky in float64: one factorisation for all tokens.

    It is as large as the layer has rows or columns, whichever are fewer.

    Args:
        weights: ``W``.
        tie: what moving away from what is read now costs, above 0.

    Raises:
        InputError: the tie is nothing beside the weights.
    """
    W = weights.double()
    wide = len(W) <= W.shape[1]
    gram = W @ W.t() if wide else W.t() @ W
    gram.diagonal().add_(tie)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        raise InputError(
            "gamma is nothing beside beta (or alpha beside gamma): choose penalties that are closer together"
        )
    gain = torch.cholesky_solve(W, factor) if wide else torch.cholesky_solve(W.t().contiguous(), factor).t()
    return gain.to(weights.dtype)


def factor_of(
    product: Tokens, other: Tokens, near: Tokens, tie: Scale, weight: Scale
) -> Float[torch.Tensor, "tokens width"]:
    """What the linear factor of a product should be: the minimiser of ``weight (p - z f)^2 + tie (z - near)^2``."""
    wanted = (other * product).mul_(weight).add_(near, alpha=tie)
    return wanted.div_(other.square().mul_(weight).add_(tie))


def relu_input(activated: Tokens, near: Tokens, tie: Scale, weight: Scale) -> Tokens:
    """What a ReLU should read: the minimiser of ``weight (a - relu(z))^2 + tie (z - near)^2``, of its two branches."""
    above = ((weight * activated + tie * near) / (weight + tie)).clamp_min(0)
    below = near.clamp_max(0)
    cost_above = weight * (activated - above).square() + tie * (above - near).square()
    cost_below = weight * activated.square() + tie * (below - near).square()
    return torch.lerp(below, above, cost_above.lt_(cost_below))


def activation_input(
    phi: Activation,
    activated: Tokens,
    factor: Tokens | float,
    near: Tokens,
    tie: Scale,
    weight: Scale,
    known: tuple[Tokens, Tokens] | None = None,
) -> Tokens:
    """What an activation should read, to lower ``weight (p - phi(s) f)^2 + tie (s - near)^2``.

    There is no closed form: a Gauss-Newton step from where it is, none where that would raise the objective.

    Args:
        phi: the activation, element by element.
        activated: ``p``, what the activation times the factor should be.
        factor: ``f``; 1 where there is no gate.
        near: what the activation reads now, where the step begins.
        tie: what moving away from that costs.
        weight: what missing ``p`` costs.
        known: the activation's value and slope there, if the caller has them.
    """
    value, slope = known or with_slope(phi, near)
    missed, pull = (value * factor).neg_().add_(activated), slope * factor
    before = missed.square().mul_(weight)
    step = missed.mul_(pull).mul_(weight).div_(pull.square_().mul_(weight).add_(tie))
    there = phi(near + step).mul_(factor).sub_(activated).square_().mul_(weight)
    lower = there.add_(step.square(), alpha=tie).lt_(before)  # 1 or 0: `torch.where` is slow on a CPU
    return torch.addcmul(near, step, lower)


def with_slope(phi: Activation, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An activation's value and derivative, element by element."""
    with torch.enable_grad():
        read = s.detach().clone().requires_grad_()
        value = phi(read)
        (slope,) = torch.autograd.grad(value.sum(), read)
    return value.detach(), slope

"""Least squares for the weights that stay, every row with a mask of its own.

Math: of ``|W X - T|^2`` with ``W`` zero where its mask is, the gradient is ``2 (W H - C)`` in the mask, with
``H = X X^T`` and ``C = T X^T``. Solving it exactly takes one factorisation a row; conjugate gradients take one product
with ``H`` a step for all rows at once, and every step lowers the error.
"""

import torch
from jaxtyping import Bool, Float

Weights = Float[torch.Tensor, "rows columns"]
Keep = Bool[torch.Tensor, "rows columns"]
Square = Float[torch.Tensor, "columns columns"]


def refit(weights: Weights, keep: Keep, hessian: Square, target: Weights, *, steps: int = 20) -> Weights:
    """The weights in a mask that best reach a target, by preconditioned conjugate gradients.

    Args:
        weights: where to start; what the mask removes is taken for zero.
        keep: which stay.
        hessian: ``H = X X^T``, damped: positive definite.
        target: ``C = T X^T``; ``W H`` for the outputs of other weights ``W`` (plus the damping's share of them).
        steps: of the iteration. Rows are independent problems, and all of them take their steps together.

    Shapes and units: computed in the weights' type. The preconditioner is the Hessian's diagonal.

    Cost: ``2 rows columns^2`` operations a step.
    """
    scale, inside = hessian.diagonal(), keep.to(weights.dtype)  # products with numbers are faster than with truths
    W = weights * inside
    residual = (target - W @ hessian) * inside
    direction = residual / scale
    power = (residual * direction).sum(dim=1, keepdim=True)
    for _ in range(steps):
        along = (direction @ hessian).mul_(inside)
        curvature = (direction * along).sum(dim=1, keepdim=True)
        length = torch.where(curvature > 0, power / curvature, 0)  # a row that has arrived stays
        W.addcmul_(direction, length)
        residual.addcmul_(along, length, value=-1)
        scaled = residual / scale
        following = (residual * scaled).sum(dim=1, keepdim=True)
        direction.mul_(torch.where(power > 0, following / power, 0)).add_(scaled)
        power = following
    return W


def lack(weights: Weights, hessian: Square, target: Weights) -> Float[torch.Tensor, ""]:
    """``|W X - T|^2`` up to ``|T|^2``, which no weight changes: ``tr(W H W^T) - 2 tr(W C^T)``, in float64."""
    return ((weights @ hessian - 2 * target).double() * weights.double()).sum()

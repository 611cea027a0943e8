"""Optimal Brain Surgeon for single weights, in one sweep over the columns (SparseGPT, Frantar and Alistarh 2023).

Math: with ``H^-1 = U^T U``, ``U`` upper triangular, ``U_ii^2`` is the first entry of ``(H_{i:,i:})^-1`` and
``U_{i,i:} / U_ii`` what removing column ``i`` asks of the columns to its right while those to its left are frozen. So
for every column from left to right, with ``q`` the weights that stay in it and zero for those that go,

    e_i = (w_i - q) / U_ii,    W_{:,i:} <- W_{:,i:} - e_i U_{i,i:}

which all rows share, whatever each of them removes: no inverse is ever updated. ``W - W' = E U`` in the end, so the
error ``tr((W - W') H (W - W')^T)`` is ``|E|^2`` exactly.

It is a greedy repair, not least squares: what stays in a column is never revisited, and what a column loses is partly
loaded on weights that go later. One factorisation serves all rows; the least-squares refit needs one for each.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.masks.weights import keep_highest, keep_pattern
from graphprune.solvers.hessian import inverse

Weights = Float[torch.Tensor, "rows columns"]
Keep = Bool[torch.Tensor, "rows columns"]
Square = Float[torch.Tensor, "columns columns"]


@dataclass(frozen=True)
class Solved:
    """A matrix without some of its weights.

    Attributes:
        weights: the repaired weights, zero where they go.
        keep: which stay.
        error: what it cost, ``tr((W - W') H (W - W')^T)``.
    """

    weights: Weights
    keep: Keep
    error: float


def sparsegpt(
    weights: Weights,
    hessian: Square,
    *,
    n_removed: int | None = None,
    pattern: Pattern | None = None,
    keep: Keep | None = None,
    block: int = 128,
) -> Solved:
    """Removes single weights from left to right, and repairs those to the right of each column.

    One of three says which go:

    Args:
        weights: of a linear layer.
        hessian: of its inputs, damped.
        n_removed: this many, exactly. They are chosen a block of columns at a time, from all rows, by ``w^2 / U_ii^2``
            with what the columns before have made of ``w``; after ``c`` columns ``n_removed * c / columns`` are gone,
            rounded. Ties by lower id.
        pattern: so many of every few neighbours of a row, chosen likewise when their first column's turn comes.
        keep: a mask that anybody made, with the same greedy repair. Where inputs have much in common and the mask takes
            no account of it, that can err more than no repair; ``error`` tells.
        block: how many columns are chosen from and repaired at a time. Without ``n_removed`` it is a matter of speed.

    Shapes and units: the Hessian is factorised in float64. The sweep has the weights' type, at least float32: for 1024
    correlated inputs (condition 5e4 after damping by 0.01) it chooses the same weights as float64, its error agrees to
    eight digits, and it takes half the memory and three quarters of the time.

    Columns whose inputs are always zero have nothing in common with others: removing their weights moves no other
    weight and no output. What the damping gives them is all that they count for, in the order of removal and in the
    error; set their weights to zero first to make that nothing.

    Cost: a factorisation and an inversion, ``columns^3`` operations, and ``rows columns^2`` for the sweep.

    Raises:
        InputError: the Hessian is not positive definite, or the pattern doesn't fit the columns.
        ValueError: not exactly one of the three is given, or more weights shall go than there are.
    """
    columns = weights.shape[1]
    if sum(given is not None for given in (n_removed, pattern, keep)) != 1:
        raise ValueError("one of n_removed, pattern and keep says which weights go")
    if block < 1:
        raise ValueError(f"a block is at least 1 column wide, not {block}")
    if n_removed is not None and not 0 <= n_removed <= weights.numel():
        raise ValueError(f"{n_removed} of {weights.numel()} weights can't be removed")
    if pattern is not None:
        pattern.check(columns, "the layer")
        block = -(-block // pattern.of) * pattern.of
    dtype = torch.promote_types(weights.dtype, torch.float32)
    U = _factor(hessian).to(dtype)
    W = weights.t().to(dtype, copy=True).contiguous()  # a column of the layer is contiguous
    stays = torch.ones_like(W, dtype=torch.bool) if keep is None else keep.t().contiguous()
    error, gone = 0.0, 0
    for start in range(0, columns, block):
        end = min(start + block, columns)
        inside, chosen = W[start:end], stays[start:end]
        if n_removed is not None:
            due = (2 * n_removed * end + columns) // (2 * columns)  # rounded; whole numbers, so nothing is lost
            chosen.copy_(keep_highest(_costs(inside, U, start), due - gone, per="matrix").t())
            gone = due
        E = _sweep(inside, chosen, U[start:end, start:end], pattern)
        W[end:].addmm_(U[start:end, end:].t(), E, alpha=-1)
        error += float(E.double().square().sum())
    return Solved(W.t().to(weights.dtype).contiguous(), stays.t().contiguous(), error)


def _factor(hessian: Square) -> Square:
    """``U``, upper triangular, of ``H^-1 = U^T U``, in float64."""
    U, failed = torch.linalg.cholesky_ex(inverse(hessian.double()), upper=True)
    if bool(failed):
        raise InputError("the Hessian is too close to singular to be inverted; raise the damping")
    factor: torch.Tensor = U
    return factor


def _costs(W: Float[torch.Tensor, "width rows"], U: Square, start: int) -> Float[torch.Tensor, "rows width"]:
    """What removing each weight of some columns costs, those to the left frozen: ``w^2 / U_ii^2``."""
    return (W / U.diagonal()[start : start + len(W), None]).square().t()


def _sweep(
    W: Float[torch.Tensor, "width rows"],
    keep: Bool[torch.Tensor, "width rows"],
    U: Float[torch.Tensor, "width width"],
    pattern: Pattern | None,
) -> Float[torch.Tensor, "width rows"]:
    """Goes through some columns, in place, and returns ``E``; with a pattern it chooses which weights stay, too."""
    E = torch.zeros_like(W)
    for i in range(len(W)):
        if pattern is not None and i % pattern.of == 0:
            group = slice(i, i + pattern.of)
            keep[group] = keep_pattern(_costs(W[group], U, i), pattern).t()
        E[i] = (W[i] / U[i, i]).masked_fill(keep[i], 0)
        W[i + 1 :].addr_(U[i, i + 1 :], E[i], alpha=-1)
        W[i].masked_fill_(~keep[i], 0)
    return E

"""Optimal Brain Surgeon for groups of columns (Hassibi and Stork 1993; SlimGPT, Ling et al. 2024, sections 3.2-3.3).

Math: with ``A = H^-1`` over the columns that are left, removing columns ``P`` of ``W`` costs at least
``tr(W_P A_PP^-1 W_P^T)``; the others reach it with ``W <- W - W_P A_PP^-1 A_P:``, and then
``A <- A - A_:P A_PP^-1 A_P:`` is the inverse over what remains. So errors and repair stay exact after any number of
removals, and the sum of the errors is the error of removing them all at once.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Float, Int

from graphprune.solvers.hessian import inverse

HeadError = Literal["grouped", "exact"]
Weights = Float[torch.Tensor, "rows columns"]
Square = Float[torch.Tensor, "columns columns"]
Units = Int[torch.Tensor, "units width"]
Choice = Callable[[Float[torch.Tensor, " units"], int], Int[torch.Tensor, " chosen"]]


class Greedy:
    """Units of columns that are removed greedily, the others repaired after each step.

    Args:
        weights: of the layer that reads the columns.
        hessian: of its inputs, damped.
        units: the columns of each unit.
        error: of a unit of several columns: `grouped` (SlimGPT's grouped Cholesky, which leaves the weights inside the
            unit as they are) or `exact`.
        choose: which units to remove, from their errors (infinite for those already gone) and their number; the lowest,
            ties by lower id, if not given.

    Shapes and units: float64 inside whatever the weights are.

    Cost: one inversion, then ``columns^2`` operations a removed column: bound by matrix products. The columns that have
    gone are dropped from the matrices whenever they are an eighth of them.

    Raises:
        InputError: the Hessian is not positive definite.
    """

    def __init__(
        self,
        weights: Weights,
        hessian: Square,
        units: Units,
        *,
        error: HeadError = "grouped",
        choose: Choice | None = None,
    ) -> None:
        self._like, self.units, self.error, self.choose = weights, units, error, choose
        self._W, self._A = weights.double().clone(), inverse(hessian)
        self._columns = torch.arange(weights.shape[1], device=weights.device)  # those that the matrices are of
        self._there = torch.arange(len(units), device=weights.device)  # the units that these belong to
        self._local = units  # the same units' columns, counted in the matrices
        self.gone = torch.zeros(len(units), dtype=torch.bool, device=weights.device)

    @property
    def weights(self) -> Weights:
        """The repaired weights, zero in the removed columns."""
        result = torch.zeros_like(self._like)
        result[:, self._columns] = self._W.to(result.dtype)
        return result

    def remove(self, steps: Iterable[int]) -> tuple[Int[torch.Tensor, " removed"], Float[torch.Tensor, " removed"]]:
        """Removes so many more units at a time.

        Returns:
            The units, first to last, those of a step by their error; and what each step added to the error
            ``tr((W - W') H (W - W')^T)``, on its last unit, zero on the others.
        """
        none = torch.zeros(0, dtype=torch.int64, device=self._W.device)
        order, errors = [none], [none.double()]
        for count in steps:
            if count > (left := int((~self.gone).sum())):
                raise ValueError(f"{count} units can't be removed, {left} are left")
            picked = self._picked(count)
            step = torch.zeros(count, dtype=torch.float64, device=self._W.device)
            step[-1:] = _remove(self._W, self._A, self._local[torch.isin(self._there, picked)].reshape(-1))
            self.gone[picked] = True
            order.append(picked)
            errors.append(step)
            self._shrink()
        return torch.cat(order), torch.cat(errors)

    def _picked(self, count: int) -> Int[torch.Tensor, " picked"]:
        scores = torch.full((len(self.units),), torch.inf, dtype=torch.float64, device=self._W.device)
        scores[self._there] = unit_errors(self._W, self._A, self._local, self.error)
        scores[self.gone] = torch.inf
        return self.choose(scores, count) if self.choose else torch.argsort(scores, stable=True)[:count]

    def _shrink(self) -> None:
        """Drops the columns that have gone, if they are many."""
        stay = ~self.gone[self._there]
        if 8 * int(stay.sum()) > 7 * len(stay):
            return
        left = torch.ones(self._W.shape[1], dtype=torch.bool, device=self._W.device)
        left[self._local[~stay]] = False
        columns = left.nonzero()[:, 0]
        place = torch.full((self._W.shape[1],), -1, device=columns.device)
        place[columns] = torch.arange(len(columns), device=columns.device)
        self._local, self._there = place[self._local[stay]], self._there[stay]
        self._W, self._A = self._W[:, columns], self._A[columns][:, columns]
        self._columns = self._columns[columns]


def unit_errors(W: Weights, A: Square, units: Units, error: HeadError = "grouped") -> Float[torch.Tensor, " units"]:
    """What removing each unit alone costs; for several columns `grouped` or `exact`, for one they are the same.

    Math: grouped, ``sum_j |W_j|^2 / D_j`` with ``D`` the squared diagonal of the Cholesky factor of the unit's block of
    ``A``; exact, ``|L^-1 W_h^T|^2`` with that factor.
    """
    if error not in {"grouped", "exact"}:
        raise ValueError(f"error must be grouped or exact, not {error!r}")
    if units.shape[1] == 1:
        columns = units[:, 0]
        return W[:, columns].square().sum(dim=0) / A.diagonal()[columns].clamp_min(TINY)
    blocks = A[units[:, :, None], units[:, None, :]]
    alive = blocks.diagonal(dim1=1, dim2=2).amin(dim=1) > TINY
    blocks = torch.where(alive[:, None, None], blocks, torch.eye(units.shape[1], dtype=A.dtype, device=A.device))
    L = torch.linalg.cholesky(blocks)
    picked = W[:, units].permute(1, 2, 0)  # units, width, rows
    if error == "exact":
        joint: torch.Tensor = torch.linalg.solve_triangular(L, picked, upper=False)
        return joint.square().sum(dim=(1, 2))
    pivots: torch.Tensor = L.diagonal(dim1=1, dim2=2).square()
    return (picked.square().sum(dim=2) / pivots).sum(dim=1)


TINY = 1e-300  # the inverse's diagonal at columns that are gone is zero up to rounding


def _remove(W: Weights, A: Square, columns: Int[torch.Tensor, " removed"]) -> float:
    """Removes columns and repairs the others, in place; what it cost."""
    factor = torch.linalg.cholesky(A[columns][:, columns])
    across = torch.linalg.solve_triangular(factor, A[columns], upper=False)  # L^-1 A_P:
    moved = torch.linalg.solve_triangular(factor, W[:, columns].t(), upper=False)  # L^-1 W_P^T
    W.addmm_(moved.t(), across, alpha=-1)
    A.addmm_(across.t(), across, alpha=-1)
    W[:, columns] = 0
    A[columns] = 0
    A[:, columns] = 0
    return float(moved.square().sum())


def compensated(weights: Weights, hessian: Square, keep: torch.Tensor) -> Weights:
    """The weights of the columns that stay, refitted by least squares to what all of them gave; zero elsewhere.

    Math: ``W'_K = W_K + W_P H_PK H_KK^-1``, the minimiser of ``tr((W - W') H (W - W')^T)``.

    Raises:
        InputError: the Hessian is not positive definite.
    """
    W, stays, goes = weights.double(), keep.nonzero()[:, 0], (~keep).nonzero()[:, 0]
    result = torch.zeros_like(W)
    result[:, stays] = W[:, stays] + W[:, goes] @ hessian[goes][:, stays] @ inverse(hessian[stays][:, stays])
    return result.to(weights.dtype)


def group_sizes(total: int, start: int, floor: int) -> list[int]:
    """Dynamic group size (SlimGPT, section 3.3): ``total`` removals in steps that halve from ``start`` to ``floor``.

    >>> group_sizes(100, 40, 8)
    [40, 20, 10, 8, 8, 8, 6]
    """
    if not 1 <= floor <= start:
        raise ValueError(f"group sizes fall from a start to a floor of at least 1, not from {start} to {floor}")
    sizes, size = [], start
    while total > 0:
        sizes.append(min(size, total))
        total -= sizes[-1]
        size = max(size // 2, floor)
    return sizes

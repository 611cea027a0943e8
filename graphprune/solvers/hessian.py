"""The Hessian of a linear layer's reconstruction error: what its inputs have in common (Frantar and Alistarh 2023).

Math: of ``|W X - W' X|^2`` with inputs ``X`` (columns, tokens) it is ``2 X X^T``. A factor changes nothing that is made
of it, so it is kept as the mean ``X X^T / tokens``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg import blas

from graphprune.core.errors import InputError

Square = Float[torch.Tensor, "columns columns"]


@dataclass
class Hessian:
    """``X X^T`` of the inputs seen so far, in float32 or better.

    Attributes:
        lower: the sum over tokens; only the lower triangle is kept up.
        sums: the sum over tokens of every input, in float64.
        tokens: how many there were.
    """

    lower: Square
    sums: Float[torch.Tensor, " columns"]
    tokens: int = 0

    @classmethod
    def empty(
        cls, columns: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "Hessian":
        sums = torch.zeros(columns, dtype=torch.float64, device=device)
        return cls(torch.zeros(columns, columns, dtype=dtype, device=device), sums)

    def add(self, inputs: Float[torch.Tensor, "*tokens columns"]) -> None:
        """Adds the inputs of some tokens; padding is the caller's to leave out.

        Cost: ``columns^2`` multiplications a token; on a CPU half of that, by BLAS's symmetric update.

        Raises:
            InputError: one is NaN or infinite.
        """
        rows = inputs.reshape(-1, inputs.shape[-1]).to(self.lower.dtype)
        if rows.device.type == "cpu":  # a C-ordered array is the transpose of a Fortran one: its upper triangle
            update = blas.ssyrk if rows.dtype == torch.float32 else blas.dsyrk
            update(1.0, rows.numpy().T, beta=1.0, c=self.lower.numpy().T, overwrite_c=True)
        else:
            self.lower.addmm_(rows.t(), rows)
        if not bool(torch.isfinite(self.lower.diagonal()).all()):
            raise InputError("an activation is NaN or infinite; the model or its calibration text is damaged")
        self.sums += rows.sum(dim=0, dtype=torch.float64)
        self.tokens += len(rows)

    @property
    def total(self) -> Square:
        """The sum over tokens, both triangles."""
        return self.lower.tril() + self.lower.tril(-1).t()

    @property
    def squares(self) -> Float[torch.Tensor, " columns"]:
        """The sum over tokens of every squared input, in float64."""
        return self.lower.diagonal().double()

    def damped(self, damping: float) -> Square:
        """The mean over tokens in float64, with ``damping`` times its mean diagonal added to the diagonal.

        Columns that are always zero get a one: they are independent of all others, and cost nothing to remove.

        Raises:
            ValueError: the damping is negative, or no token has been seen.
        """
        if damping < 0:
            raise ValueError(f"damping must be at least 0, not {damping}")
        if not self.tokens:
            raise ValueError("no token has been seen")
        result = self.total.double() / self.tokens
        diagonal = result.diagonal()
        diagonal += damping * diagonal.mean()
        diagonal[diagonal == 0] = 1.0
        return result


def inverse(hessian: Square) -> Square:
    """The inverse of a positive definite matrix, by Cholesky.

    Raises:
        InputError: it isn't positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed):
        raise InputError(
            "the Hessian is not positive definite: some inputs are combinations of others; "
            "raise the damping, or calibrate on more tokens than the layer has columns"
        )
    return torch.cholesky_inverse(factor)

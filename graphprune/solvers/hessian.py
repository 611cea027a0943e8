"""The Hessian of a linear layer's reconstruction error: what its inputs have in common (Frantar and Alistarh 2023).

Math: of ``|W X - W' X|^2`` with inputs ``X`` (columns, tokens) it is ``2 X X^T``. A factor changes nothing that is made
of it, so it is kept as the mean ``X X^T / tokens``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from graphprune.core.errors import InputError

Square = Float[torch.Tensor, "columns columns"]
STRIP = 256


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

        Cost: little more than half of ``columns^2`` multiplications a token: strips of the lower triangle.

        Raises:
            InputError: one is NaN or infinite.
        """
        rows = inputs.reshape(-1, inputs.shape[-1]).to(self.lower.dtype)
        for start in range(0, rows.shape[1], STRIP):
            end = start + STRIP
            self.lower[start:end, :end].addmm_(rows[:, start:end].t(), rows[:, :end])
        if not bool(torch.isfinite(self.lower.diagonal()).all()):
            raise InputError("an activation is NaN or infinite; the model or its calibration text is damaged")
        self.sums += rows.sum(dim=0)
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

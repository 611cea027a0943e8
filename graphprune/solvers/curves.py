"""What every next piece of every layer costs, counted in what it does to the prediction.

Math: eliminating the pieces of a layer one after the other with exact repair (`obs`) gives the layer's error as a
function of how much is gone. With the rows of its weights scaled by the square root of their credit ``rho`` (the mean
square of the gradient, `calibration.sensitivity`), half of that error is the Kullback-Leibler divergence of the
prediction, in nats a token, to second order and with cross terms dropped: a unit that all layers share. A budget is
then filled where the next piece costs least per parameter.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int

from graphprune.masks.items import Pieces
from graphprune.models.model import Model
from graphprune.solvers.sequential import Journal, operate
from graphprune.solvers.units import ByElimination, UnitSurgeon

Curves = dict[str, Float[torch.Tensor, " pieces"]]


def error_curves(
    model: Model,
    rows: Int[torch.Tensor, "windows seq_len"],
    chooser: ByElimination,
    *,
    damping: float = 0.01,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    journal: Journal | None = None,
) -> Curves:
    """Per unit group, what each next piece costs, half of the credit-weighted squared error a token.

    Args:
        model: the dense model.
        rows: calibration windows.
        chooser: removes nothing for good, and says how far to look (`curves_to`) and what errors count for (`credit`).
        damping: of the Hessians, as a share of their mean diagonal.
        dtype: of the forward passes.
        device: of all of it.
        journal: where finished blocks are noted, and found again.
    """
    surgeon = UnitSurgeon(model, chooser, "none", damping)
    found = operate(model, rows, surgeon, dtype=dtype, device=device, journal=journal, what="measuring")
    return {name: errors / 2 for name, errors in found.notes.items()}


def priced(pieces: tuple[Pieces, ...], curves: Curves) -> tuple[Pieces, ...]:
    """Pieces that score what taking them costs. Costs rise along a curve: one that falls is raised to those before it.

    A layer has no more pieces than its curve.
    """
    result = []
    for part in pieces:
        costs = curves[part.group].double().cummax(dim=0).values[: len(part)]
        mean, deviation = float(costs.mean()), float(costs.std(correction=0))
        result.append(replace(part, scores=costs, members=part.members[: len(costs)], mean=mean, deviation=deviation))
    return tuple(result)

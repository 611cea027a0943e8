"""What every next piece of every layer costs, counted in what it does to the prediction.

Math: eliminating the pieces of a layer one after the other with exact repair (`obs`) gives the layer's error as a
function of how much is gone. With the rows of its weights scaled by the square root of their credit ``rho`` (the mean
square of the gradient, `calibration.sensitivity`), half of that error is the Kullback-Leibler divergence of the
prediction, in nats a token, to second order and with cross terms dropped: a unit that all layers share. A budget is
then filled where the next piece costs least per parameter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from graphprune.core.units import HEAD, NEURON, UnitGroup
from graphprune.masks.items import Pieces
from graphprune.models.model import Model
from graphprune.solvers.blocks import Site
from graphprune.solvers.sequential import Change, Journal, Seen, operate
from graphprune.solvers.units import KIND_AT, ByElimination

Curves = Mapping[str, Float[torch.Tensor, " pieces"]]
REACH = 0.9


@dataclass(frozen=True)
class CurveSurgeon:
    """Eliminates the pieces of every group to see what it costs, and leaves the model as it is.

    Attributes:
        chooser: how pieces are eliminated; what it would remove doesn't matter.
        damping: of the Hessians, as a share of their mean diagonal.
        credit: what an error of each row of the reader counts for, by group; None for all the same.
    """

    chooser: ByElimination
    damping: float
    credit: Mapping[str, Float[torch.Tensor, " rows"]] | None = None

    def sites(self, layer: int) -> tuple[Site, ...]:  # noqa: ARG002 - a surgeon may treat layers differently
        return tuple(KIND_AT)

    def __call__(self, seen: Seen) -> Change:
        group = self.chooser.model.units[f"{KIND_AT[seen.site]}.{seen.layer}"]
        W, steps = weighed(group, seen, self.credit), self._steps(group)
        _, errors = self.chooser.greedy(group, W, seen.hessian.damped(self.damping)).remove(steps)
        shared = shared_out(errors, steps)
        if self.chooser.is_balanced(group):  # a piece is one head of every key/value group
            shared = shared.view(-1, self.chooser.groups(group)).sum(dim=1)
        return Change({}, {}, 0.0, {group.name: shared / 2})

    def _steps(self, group: UnitGroup) -> list[int]:
        """All pieces but the last few, in the steps in which they will go."""
        if group.kind != HEAD:
            return self.chooser.steps(group, round(REACH * group.size))
        per_group = group.size // self.chooser.groups(group)
        pieces = per_group if self.chooser.is_balanced(group) else self.chooser.groups(group)
        return self.chooser.steps(group, pieces - 1)


def weighed(
    group: UnitGroup, seen: Seen, credit: Mapping[str, Float[torch.Tensor, " rows"]] | None
) -> Float[torch.Tensor, "rows columns"]:
    """The weights that read a group, zero where nothing is ever read, rows by the root of their credit if given."""
    (reader,) = group.outgoing
    W = seen.weights[reader.parameter].float().masked_fill(seen.hessian.squares == 0, 0.0)
    return W if credit is None else W * credit[group.name].to(W.device).sqrt()[:, None]


def shared_out(errors: Float[torch.Tensor, " removed"], steps: list[int]) -> Float[torch.Tensor, " removed"]:
    """What each unit of an elimination cost: its share of the error of its step, which stands on the last of it."""
    sizes = torch.tensor(steps, dtype=torch.int64)
    return (errors.cpu()[sizes.cumsum(dim=0) - 1] / sizes).repeat_interleave(sizes)


def error_curves(
    model: Model,
    rows: Int[torch.Tensor, "windows seq_len"],
    surgeon: CurveSurgeon,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    journal: Journal | None = None,
) -> Curves:
    """Per unit group, what each next piece costs: half of the (credit-weighted) squared error a token.

    Args:
        model: the dense model.
        rows: calibration windows.
        surgeon: how it is measured.
        dtype: of the forward passes.
        device: of all of it.
        journal: where finished blocks are noted, and found again.
    """
    return operate(model, rows, surgeon, dtype=dtype, device=device, journal=journal, what="error curves").notes


def priced(pieces: tuple[Pieces, ...], curves: Curves, most: float) -> tuple[Pieces, ...]:
    """Pieces that score what taking them costs. Costs rise along a curve: one that falls is raised to those before it.

    Args:
        pieces: of all groups.
        curves: of all groups.
        most: the largest share of its neurons that a layer may lose, floors apart.
    """
    result = []
    for part in pieces:
        limit = round(most * part.size) if part.group.startswith(f"{NEURON}.") else part.size
        costs = curves[part.group].double().cummax(dim=0).values[: min(len(part), limit)]
        mean, deviation = float(costs.mean()), float(costs.std(correction=0))
        result.append(replace(part, scores=costs, members=part.members[: len(costs)], mean=mean, deviation=deviation))
    return tuple(result)

"""What can legally be removed from a layer, piece by piece, worst first.

A neuron is a piece. Heads under grouped-query attention come off as whole key/value groups, or as one query head from
every group, so that any number of pieces leaves a model that runs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, UnitGroup, UnitTable

HeadMode = Literal["group", "balanced"]
Budget = Literal["parameters", "units"]


@dataclass(frozen=True)
class Pieces:
    """The removable pieces of one group.

    Attributes:
        group: `neuron.L` or `head.L`.
        layer: which block.
        cost: what one piece counts against the budget: parameters, or units.
        mean: mean score of all pieces, floor included.
        scores: of each removable piece, ascending; ties by lower id. Pieces under the floor are not listed.
        members: the units in each piece.
        size: how many pieces the group has, floor included.
        deviation: standard deviation of the scores of all pieces.
    """

    group: str
    layer: int
    cost: int
    mean: float
    scores: Float[torch.Tensor, " pieces"]
    members: Int[torch.Tensor, "pieces members"]
    size: int
    deviation: float = 0.0

    def __len__(self) -> int:
        return len(self.scores)


def removable(
    scores: Scores | None,
    units: UnitTable,
    kinds: tuple[str, ...],
    *,
    head_mode: HeadMode = "group",
    floor: int = 1,
    budget: Budget = "parameters",
) -> tuple[Pieces, ...]:
    """The removable pieces of all groups of some kinds, in order of layer.

    Args:
        scores: higher = keep. None where only the number and the cost of pieces matter: all score alike.
        units: the model's units.
        kinds: `head`, `neuron`, or both.
        head_mode: `group` removes whole key/value groups, `balanced` one query head from every group.
        floor: pieces that stay in every layer. `balanced` keeps at least one: the last one would take all key/value
            heads with it and so cost more than the others.
        budget: what a piece costs: its `parameters`, or its number of `units`.

    Raises:
        InputError: the scores don't cover a kind, or ``head_mode`` is unknown.
    """
    if head_mode not in {"group", "balanced"}:
        raise InputError(f"heads are removed by group or balanced, not {head_mode!r}")
    result = []
    for group in units.of_kind(*kinds):
        if scores is not None and group.name not in scores.values:
            raise InputError(f"the scorer {scores.method} gives no scores for {group.kind}s")
        values = torch.zeros(group.size) if scores is None else scores.values[group.name]
        result.append(pieces_of(group, values, units, head_mode=head_mode, floor=floor, budget=budget))
    return tuple(result)


def pieces_of(
    group: UnitGroup,
    scores: Float[torch.Tensor, " units"],
    units: UnitTable,
    *,
    head_mode: HeadMode = "group",
    floor: int = 0,
    budget: Budget = "parameters",
) -> Pieces:
    """The removable pieces of one group; see `removable`."""
    values = scores.double()
    if group.kind == HEAD:
        pieces, extra = _head_pieces(values, units[f"{KV_HEAD}.{group.layer}"], head_mode)
    else:
        pieces, extra = torch.arange(group.size)[:, None], 0
    least = max(floor, 1) if group.kind == HEAD and head_mode == "balanced" else floor
    return _sorted(group, values, pieces, extra, least, budget)


def _head_pieces(values: torch.Tensor, kv: UnitGroup, head_mode: HeadMode) -> tuple[torch.Tensor, int]:
    """Query heads of each piece, and the key/value parameters that go with it."""
    by_group = torch.arange(len(values)).view(kv.size, -1)
    if head_mode == "group":
        return by_group, kv.parameters_per_unit
    order = values[by_group].argsort(dim=1, stable=True)
    return by_group.gather(1, order).T.contiguous(), 0


def _sorted(
    group: UnitGroup, values: torch.Tensor, pieces: torch.Tensor, extra: int, floor: int, budget: Budget
) -> Pieces:
    n_units = pieces.shape[1]
    cost = n_units * group.parameters_per_unit + extra if budget == "parameters" else n_units
    sums = values[pieces].sum(dim=1)
    order = sums.argsort(stable=True)[: max(len(pieces) - floor, 0)]
    mean, deviation = float(sums.mean()), float(sums.std(correction=0))
    return Pieces(group.name, group.layer, cost, mean, sums[order], pieces[order], len(pieces), deviation)


def prunable(units: UnitTable, kinds: tuple[str, ...], budget: Budget) -> int:
    """What sparsity is a fraction of: all parameters (or units) of the kinds that are pruned."""
    if budget == "units":
        return sum(group.size for group in units.of_kind(*kinds))
    return units.prunable_parameters(*kinds, *((KV_HEAD,) if HEAD in kinds else ()))

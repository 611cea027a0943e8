"""One threshold for all layers: the lowest scores go, wherever they are."""

import torch
from jaxtyping import Float

from graphprune.allocation.budget import Allocation, Target, fill, rounded
from graphprune.masks.items import Pieces


def ranked(pieces: tuple[Pieces, ...], target: Target) -> Allocation:
    """Pieces go in order of score, over all layers; ties by layer, then by lower id.

    Scores of different layers are comparable only after normalisation: by default each group's mean score is scaled to
    1, which makes the mean score per cost the same everywhere. Raw scores are compared per cost.

    Raises:
        InfeasibleError: the floors don't allow that much.
    """
    target.check_reachable(pieces)
    order = []
    for index, part in enumerate(pieces):
        order += [(value, index, k, part) for k, value in enumerate(_comparable(part, target).tolist())]
    order.sort(key=lambda entry: entry[:3])
    remove = fill([part for *_, part in order], target.amount)
    return Allocation(rounded(remove, pieces, target.round_to), "global")


def _comparable(part: Pieces, target: Target) -> Float[torch.Tensor, " pieces"]:
    """A group's scores on a scale that all groups share."""
    if target.normalise == "standard":
        return (part.scores - part.mean) / (part.deviation if part.deviation > 0 else 1.0)
    return part.scores / (part.mean if target.normalise == "layer" and part.mean > 0 else float(part.cost))

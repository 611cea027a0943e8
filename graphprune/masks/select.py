"""A mask from an allocation: in every group the worst pieces go, exactly as many as allocated."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, KV_HEAD, UnitTable
from graphprune.masks.items import Pieces

MOSTLY_DEPTH = 0.5


class DepthWarning(UserWarning):
    """A mask that says more about which layer a unit is in than about the unit."""


def select(
    pieces: tuple[Pieces, ...],
    remove: Mapping[str, int],
    units: UnitTable,
    **facts: Any,
) -> Mask:
    """The mask that removes ``remove[group]`` pieces from every group, lowest scores first, ties by lower id."""
    keep = dict(Mask.full(units).keep)
    for part in pieces:
        gone = part.members[: remove.get(part.group, 0)].reshape(-1)
        keep[part.group] = keep[part.group].index_fill(0, gone, value=False)
    for group in units.of_kind(KV_HEAD):
        keep[group.name] = keep[f"{HEAD}.{group.layer}"].view(group.size, -1).any(dim=1)
    mask = Mask(keep, **facts)
    mask.check_legal(units)
    return mask


def warn_of_depth(mask: Mask, groups: tuple[str, ...]) -> None:
    """Says so if a mask of some groups is mostly a choice of layers.

    Warns:
        DepthWarning: more than half of its variance is between layers.
    """
    share = depth_share(mask, groups)
    if share > MOSTLY_DEPTH:
        warnings.warn(
            f"{share:.0%} of what this mask removes is decided by depth; normalise per layer or allocate uniformly",
            DepthWarning,
            stacklevel=2,
        )


def depth_share(mask: Mask, groups: tuple[str, ...]) -> float:
    """The share of a mask's variance that lies between layers, by kind; the largest kind counts.

    0 when all layers lose the same share, 1 when layers stay or go as a whole.
    """
    shares = [0.0]
    for kind in {name.split(".")[0] for name in groups}:
        parts = [mask.keep[name].double() for name in groups if name.split(".")[0] == kind]
        everything = torch.cat(parts)
        total = float(everything.var(correction=0)) * len(everything)
        between = sum(len(part) * float(part.mean() - everything.mean()) ** 2 for part in parts)
        shares.append(between / total if total > 0 and len(parts) > 1 else 0.0)
    return max(shares)

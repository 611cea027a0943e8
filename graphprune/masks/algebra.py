"""Masks as sets, and what a mask does.

A mask is read as the set of what it *removes*: `union` removes what any of its masks removes, `intersection` what all
of them remove, `complement` what its mask keeps. Key/value heads follow the query heads: one stays as long as a query
head of it stays. Masks that can't be combined without breaking grouped-query attention are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool, Int

from graphprune.core.errors import InputError
from graphprune.core.mask import WEIGHT, Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, NEURON, UnitTable
from graphprune.masks.items import HeadMode, Pieces, pieces_of

KINDS = (HEAD, NEURON)
Keep = dict[str, Bool[torch.Tensor, "..."]]


def union(*masks: Mask, kinds: Sequence[str] = KINDS) -> Mask:
    """The mask that removes what any of several masks removes.

    Args:
        masks: of one model.
        kinds: of unit that are combined; units of the other kinds, and single weights unless all kinds are, stay as
            in the first mask.

    Raises:
        InputError: the masks are of different models, or grouped-query attention would break.
    """
    return _combined("union", torch.logical_and, masks, kinds)


def intersection(*masks: Mask, kinds: Sequence[str] = KINDS) -> Mask:
    """The mask that removes what all of several masks remove; see `union`."""
    return _combined("intersection", torch.logical_or, masks, kinds)


def complement(mask: Mask, *, kinds: Sequence[str] = KINDS) -> Mask:
    """The mask that removes what a mask keeps, and keeps what it removes.

    The complement of a mask of single weights is one of single weights, of the same matrices.

    Args:
        mask: the mask.
        kinds: of unit that change sides; the others stay as they are.

    Raises:
        InputError: the mask removes units as well as single weights, or grouped-query attention would break.
    """
    _check_kinds(kinds)
    of_units = any(not bool(keep.all()) for name, keep in mask.keep.items() if not name.startswith(WEIGHT))
    if mask.weights and of_units:
        raise InputError(
            "the mask removes units and single weights: a weight of a unit that goes would come back alone"
        )
    turned = WEIGHT.rstrip(".") if mask.weights else kinds
    keep = {name: ~keep if _kind(name) in turned else keep for name, keep in mask.keep.items()}
    return _made("complement", [mask], keep)


@dataclass(frozen=True)
class Overlap:
    """How many units of a group (weights of a matrix) two masks remove: both of them, one alone, neither."""

    group: str
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def kind(self) -> str:
        return _kind(self.group)

    @property
    def jaccard(self) -> float | None:
        """The share that both remove of what any of them removes; None where neither removes anything."""
        either = self.both + self.only_first + self.only_second
        return self.both / either if either else None

    def __add__(self, other: "Overlap") -> "Overlap":
        mine, its = (
            (overlap.both, overlap.only_first, overlap.only_second, overlap.neither) for overlap in (self, other)
        )
        return Overlap(self.group, *(a + b for a, b in zip(mine, its, strict=True)))


@dataclass(frozen=True)
class Difference:
    """Where two masks differ.

    Attributes:
        groups: how the two overlap in every group.
        only_first: the units that the first removes and the second keeps, by group; groups without any are left out.
        only_second: the other way round.
    """

    groups: tuple[Overlap, ...]
    only_first: Mapping[str, Int[torch.Tensor, " _units"]]
    only_second: Mapping[str, Int[torch.Tensor, " _units"]]

    @property
    def kinds(self) -> dict[str, Overlap]:
        """The overlap in all groups of a kind together."""
        found: dict[str, list[Overlap]] = {}
        for overlap in self.groups:
            found.setdefault(overlap.kind, []).append(replace(overlap, group=overlap.kind))
        return {kind: reduce(Overlap.__add__, overlaps) for kind, overlaps in found.items()}


def diff(first: Mask, second: Mask) -> Difference:
    """Where two masks of one model differ.

    Raises:
        InputError: they are of different models.
    """
    one, other = _aligned([first, second])
    groups: list[Overlap] = []
    alone: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
    for name in one:
        gone, also = ~one[name], ~other[name]
        sides = gone & ~also, also & ~gone
        counts = ((gone & also).sum(), *(side.sum() for side in sides), (~gone & ~also).sum())
        groups.append(Overlap(name, *(int(count) for count in counts)))
        for units, side in zip(alone, sides, strict=True):
            if bool(side.any()) and not name.startswith(WEIGHT):
                units[name] = side.nonzero()[:, 0]
    return Difference(tuple(groups), *alone)


@dataclass(frozen=True)
class Loss:
    """What a mask takes from a group of units, or from a matrix.

    Attributes:
        group: `neuron.3`, or `weight.PARAMETER_NAME`.
        size: units (or weights) there are.
        removed: of these, how many go.
        parameters: that go with them.
    """

    group: str
    size: int
    removed: int
    parameters: int

    @property
    def kind(self) -> str:
        return _kind(self.group)


def losses(mask: Mask, units: UnitTable) -> tuple[Loss, ...]:
    """What a mask takes from every group, in order of layer, then from every matrix that loses single weights.

    Parameters of groups add up in a decoder; in a perceptron, a weight between two hidden layers counts in both.
    """
    found = []
    for group in units:
        gone = int((~mask.keep[group.name]).sum())
        found.append(Loss(group.name, group.size, gone, gone * group.parameters_per_unit))
    for name, keep in mask.weights.items():
        gone = int((~keep).sum())
        found.append(Loss(f"{WEIGHT}{name}", keep.numel(), gone, gone))
    return tuple(found)


@dataclass(frozen=True)
class Reason:
    """Why a unit goes or stays, as far as scores tell.

    Heads go in pieces: a whole key/value group, or a query head of every group. Scores and ranks are then those of the
    piece that the unit is in, which has the sum of its heads' scores.

    Attributes:
        unit: its name.
        goes: whether the mask removes it.
        members: the units that would go with it.
        allocated: how many pieces of its layer go.
        pieces: how many there are.
        parameters: that go with the piece.
        score: of the piece; None without scores, as for all below.
        rank: of the piece in its layer, from 1 for the lowest score; of equal ones, that of the lower id is lower.
        threshold: the highest score among pieces that the ranks say go; None if none does.
        explained: whether the rank says the same as the mask.
    """

    unit: str
    goes: bool
    members: tuple[str, ...]
    allocated: int
    pieces: int
    parameters: int
    score: float | None = None
    rank: int | None = None
    threshold: float | None = None
    explained: bool | None = None

    @property
    def sentence(self) -> str:
        """The reason in words."""
        what = "goes" if self.goes else "stays"
        together = (
            "" if len(self.members) == 1 else f" together with {', '.join(m for m in self.members if m != self.unit)}"
        )
        things = "units" if len(self.members) == 1 else "pieces"
        layer = f"{self.allocated} of the {self.pieces} {things} of its layer go"
        if self.rank is None:
            return f"{self.unit} {what}{together}: {layer}; no scores tell which, and why"
        place = f"with {self.score:.6g} it is number {self.rank} from below"
        if self.explained:
            edge = "" if self.threshold is None else f", those up to {self.threshold:.6g}"
            return f"{self.unit} {what}{together}: {layer}{edge}; {place}"
        return (
            f"{self.unit} {what}{together}, and these scores don't say why: {layer}, and {place}; "
            "the mask was made by other scores, such as ones measured behind the blocks that were pruned before"
        )


def explain(mask: Mask, units: UnitTable, unit: str, scores: Scores | None = None) -> Reason:
    """Why a unit goes or stays.

    Args:
        mask: the mask.
        units: the model's units.
        unit: `neuron.3.17`, `head.0.2`.
        scores: that the mask was made by.

    Raises:
        InputError: the model has no such unit, or the scores none of its kind.
    """
    name, _, number = unit.rpartition(".")
    if name not in units or units[name].kind not in KINDS or not number.isdigit() or int(number) >= units[name].size:
        raise InputError(f"{unit!r} is no head or neuron of this model; they are called {_examples(units)}")
    if scores is not None and name not in scores.values:
        raise InputError(f"the scores of {scores.method} have none of {units[name].kind}s")
    group, keep, at = units[name], mask.keep[name], int(number)
    values = torch.zeros(group.size) if scores is None else scores.values[name]
    pieces = pieces_of(group, values, units, head_mode=_head_mode(mask, group.layer))
    ranked = _every_piece(pieces, group.size)
    allocated = int((~keep).sum()) // ranked.shape[1]
    index = int((ranked == at).any(dim=1).nonzero()[0])
    together = (
        sorted(ranked[index].tolist()) if scores is not None or _head_mode(mask, group.layer) == "group" else [at]
    )
    members = tuple(f"{name}.{position}" for position in together)
    reason = Reason(unit, not bool(keep[at]), members, allocated, len(ranked), pieces.cost)
    if scores is None:
        return reason
    sums = values.double()[ranked].sum(dim=1)
    threshold = float(sums[allocated - 1]) if allocated else None
    explained = (index < allocated) == reason.goes
    return replace(reason, score=float(sums[index]), rank=index + 1, threshold=threshold, explained=explained)


def _every_piece(pieces: Pieces, size: int) -> Int[torch.Tensor, "pieces members"]:
    """The units in each piece, lowest score first, also in the one that always stays."""
    if len(pieces) == pieces.size:
        return pieces.members
    listed = torch.zeros(size, dtype=torch.bool).index_fill(0, pieces.members.reshape(-1), value=True)
    return torch.cat([pieces.members, (~listed).nonzero()[:, 0][None]])


def _examples(units: UnitTable) -> str:
    return ", ".join(f"{group.name}.{group.size - 1}" for group in units.of_kind(*KINDS)[-2:])


def _head_mode(mask: Mask, layer: int) -> HeadMode:
    """How heads have gone from a layer: as whole groups, unless every key/value head has lost some and kept some."""
    kv = mask.keep.get(f"{KV_HEAD}.{layer}")
    heads = mask.keep.get(f"{HEAD}.{layer}")
    if kv is None or heads is None:
        return "group"
    return "balanced" if bool(kv.all()) and not bool(heads.all()) else "group"


def _kind(group: str) -> str:
    return group.split(".", maxsplit=1)[0]


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"masks are combined by {' and '.join(KINDS)}, not by {kind!r}")


def _combined(
    method: str,
    keeps: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    masks: Sequence[Mask],
    kinds: Sequence[str],
) -> Mask:
    _check_kinds(kinds)
    if not masks:
        raise InputError(f"the {method} of no masks is nothing; name one or more")
    aligned = _aligned(masks)
    taken = {*kinds, *([WEIGHT.rstrip(".")] if set(kinds) == set(KINDS) else [])}
    keep = {
        name: reduce(keeps, (each[name] for each in aligned)) if _kind(name) in taken else first
        for name, first in aligned[0].items()
    }
    return _made(method, masks, keep)


def _aligned(masks: Sequence[Mask]) -> list[Keep]:
    """What masks of one model keep, with a mask of all ones for every matrix that only others have a mask of.

    Raises:
        InputError: the masks are of different models.
    """
    names = dict.fromkeys(name for mask in masks for name in mask.keep)
    for mask in masks[1:]:
        if mask.model != masks[0].model:
            raise InputError("the masks are of different models, so their units have nothing to do with each other")
    keeps = []
    for mask in masks:
        keep = dict(mask.keep)
        for name in names:
            like = next(other.keep[name] for other in masks if name in other.keep)
            if name not in keep and name.startswith(WEIGHT):
                keep[name] = torch.ones_like(like)
            if name not in keep or keep[name].shape != like.shape:
                raise InputError(f"the masks are of different models: not all have {tuple(like.shape)} {name}")
        keeps.append({name: keep[name] for name in names})
    return keeps


def _made(method: str, masks: Sequence[Mask], keep: Keep) -> Mask:
    """A mask of combined units: key/value heads follow, matrices of which everything stays are left out."""
    for name in [name for name in keep if _kind(name) == KV_HEAD]:
        keep[name] = _key_value_heads(name, keep, method)
    kept = {name: tensor for name, tensor in keep.items() if not (name.startswith(WEIGHT) and bool(tensor.all()))}
    options: dict[str, Any] = {"of": [{"method": mask.method, "options": dict(mask.options)} for mask in masks]}
    return Mask(kept, method, options, masks[0].model)


def _key_value_heads(name: str, keep: Keep, method: str) -> Bool[torch.Tensor, " units"]:
    layer = name.split(".")[1]
    left = keep[f"{HEAD}.{layer}"].view(len(keep[name]), -1).sum(dim=1)
    counts = sorted({count for count in left.tolist() if count})
    if len(counts) > 1:
        raise InputError(
            f"the {method} would leave {' and '.join(map(str, counts))} query heads to key/value heads of block "
            f"{layer}, and attention needs equally many; combine the neurons alone, or masks that remove whole groups"
        )
    return left > 0

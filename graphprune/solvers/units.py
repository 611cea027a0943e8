"""Heads and neurons: which of them go, and how the columns that stay make up for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float

from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, KV_HEAD, NEURON, UnitGroup
from graphprune.masks.items import HeadMode, pieces_of
from graphprune.models.model import Model
from graphprune.scorers.inputs import Scorer, ScoringInputs
from graphprune.solvers.blocks import ATTENTION, Site
from graphprune.solvers.blocks import NEURON as NEURON_SITE
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import Greedy, HeadError, compensated, group_sizes
from graphprune.solvers.sequential import Change, Seen

Compensation = Literal["none", "obs", "bias", "sparsellm", "reconstruct"]
KIND_AT: dict[Site, str] = {ATTENTION: HEAD, NEURON_SITE: NEURON}
TINY = 1e-300
Weights = Float[torch.Tensor, "rows columns"]


@dataclass(frozen=True)
class Chosen:
    """Which units of a group stay, and the reader's weights if choosing them has repaired these."""

    keep: Bool[torch.Tensor, " units"]
    repaired: Weights | None = None


@runtime_checkable  # the shape checker asks
class Chooser(Protocol):
    """Decides which units of a group stay."""

    def loses(self, group: UnitGroup) -> bool:
        """Whether the group loses any."""
        ...

    def __call__(self, group: UnitGroup, seen: Seen, damping: float) -> Chosen: ...


@dataclass(frozen=True)
class Decided:
    """What stays has been decided before."""

    keep: Mapping[str, Bool[torch.Tensor, " units"]]

    def loses(self, group: UnitGroup) -> bool:
        return not bool(self.keep[group.name].all())

    def __call__(self, group: UnitGroup, seen: Seen, damping: float) -> Chosen:  # noqa: ARG002 - a Chooser's arguments
        return Chosen(self.keep[group.name])


@dataclass(frozen=True)
class ByScore:
    """The pieces that score lowest go, scored with what the pruned blocks before now give.

    Attributes:
        model: the dense model.
        scorer: one that needs nothing but a group's own weights and statistics.
        remove: how many pieces of each group go.
        head_mode: what a piece of attention is; see `masks.items`.
    """

    model: Model
    scorer: Scorer
    remove: Mapping[str, int]
    head_mode: HeadMode

    def loses(self, group: UnitGroup) -> bool:
        return self.remove.get(group.name, 0) > 0

    def __call__(self, group: UnitGroup, seen: Seen, damping: float) -> Chosen:  # noqa: ARG002 - a Chooser's arguments
        squares, sums = seen.hessian.squares.cpu(), seen.hessian.sums.cpu()
        stats = CalibrationStats(
            {group.site: squares}, seen.hessian.tokens, self.model.identity, sums={group.site: sums}
        )  # fmt: skip
        values = self.scorer(ScoringInputs(self.model, stats, only=(group.name,)))[group.name]
        pieces = pieces_of(group, values, self.model.units, head_mode=self.head_mode)
        gone = pieces.members[: self.remove[group.name]].reshape(-1)
        return Chosen(torch.ones(group.size, dtype=torch.bool).index_fill(0, gone, value=False))


@dataclass(frozen=True)
class Without:
    """Some groups go as a whole; of the others another chooser decides.

    Attributes:
        chooser: of the others.
        gone: names of the groups that go.
    """

    chooser: Chooser
    gone: frozenset[str]

    def loses(self, group: UnitGroup) -> bool:
        return group.name in self.gone or self.chooser.loses(group)

    def __call__(self, group: UnitGroup, seen: Seen, damping: float) -> Chosen:
        if group.name not in self.gone:
            return self.chooser(group, seen, damping)
        (reader,) = group.outgoing
        nothing = torch.zeros_like(seen.weights[reader.parameter], dtype=torch.float32)
        return Chosen(torch.zeros(group.size, dtype=torch.bool), nothing)


@dataclass(frozen=True)
class ByElimination:
    """Optimal Brain Surgeon: the pieces whose removal costs least go, the others are repaired, and so on (SlimGPT).

    Attributes:
        model: the dense model.
        remove: how many pieces of each group go.
        head_mode: what a piece of attention is; see `masks.items`.
        head_error: of a piece of several columns, `grouped` or `exact`; see `obs.Greedy`.
        group_start, group_floor: how many neurons go at a time, at first and at last; None for a tenth and for a 192nd
            of the width (1,024 and 57 for the 11,008 neurons of LLaMA-7B).
    """

    model: Model
    remove: Mapping[str, int]
    head_mode: HeadMode = "group"
    head_error: HeadError = "grouped"
    group_start: int | None = None
    group_floor: int | None = None

    def loses(self, group: UnitGroup) -> bool:
        return self.remove.get(group.name, 0) > 0

    def __call__(self, group: UnitGroup, seen: Seen, damping: float) -> Chosen:
        (reader,) = group.outgoing
        W = seen.weights[reader.parameter].float()
        silent = seen.hessian.squares == 0
        greedy = self.greedy(group, W.masked_fill(silent, 0.0), seen.hessian.damped(damping))
        order, _ = greedy.remove(self.steps(group, self.remove[group.name]))
        keep = torch.ones(group.size, dtype=torch.bool)
        keep[self._members(group)[order.cpu()].reshape(-1)] = False
        columns = keep.repeat_interleave(group.width).to(W.device)
        return Chosen(keep, torch.where(silent & columns, W, greedy.weights))

    def greedy(self, group: UnitGroup, W: Weights, hessian: Float[torch.Tensor, "columns columns"]) -> Greedy:
        """The elimination of a group's pieces, none of them removed yet."""
        columns = columns_of(group, self._members(group)).to(W.device)
        choose = self._one_of_each if self.is_balanced(group) else None
        return Greedy(W, hessian, columns, error=self.head_error, choose=choose)

    def steps(self, group: UnitGroup, count: int) -> list[int]:
        """How many units go at a time."""
        if group.kind == HEAD:
            return [self.groups(group) if self.is_balanced(group) else 1] * count
        floor = self.group_floor or max(1, group.size // 192)
        return group_sizes(count, max(self.group_start or -(-group.size // 10), floor), floor)

    def _members(self, group: UnitGroup) -> torch.Tensor:
        """The units that are removed as one: a neuron, a head, all heads of a key/value group."""
        size = group.size if group.kind != HEAD or self.is_balanced(group) else self.groups(group)
        return torch.arange(group.size).view(size, -1)

    def is_balanced(self, group: UnitGroup) -> bool:
        return group.kind == HEAD and self.head_mode == "balanced"

    def groups(self, group: UnitGroup) -> int:
        return self.model.units[f"{KV_HEAD}.{group.layer}"].size

    @staticmethod
    def _one_of_each(errors: torch.Tensor, n: int) -> torch.Tensor:
        """The cheapest head of each of n key/value groups."""
        by_group = errors.view(n, -1)
        return by_group.argmin(dim=1) + torch.arange(n, device=errors.device) * by_group.shape[1]


def columns_of(group: UnitGroup, members: torch.Tensor) -> torch.Tensor:
    """The reader's columns of each row of units."""
    columns = members[:, :, None] * group.width + torch.arange(group.width)
    return columns.reshape(len(members), -1)


@dataclass(frozen=True)
class UnitSurgeon:
    """Removes units of a decoder and repairs the layers that read them.

    Attributes:
        model: the dense model; with biases, if they make up for what goes.
        chooser: what goes.
        compensation: `none`; `obs`: the columns that stay are refitted by least squares; `bias`: the mean of what goes
            becomes a bias (FLAP).
        damping: of the Hessians, as a share of their mean diagonal.
    """

    model: Model
    chooser: Chooser
    compensation: Compensation = "none"
    damping: float = 0.01

    def sites(self, layer: int) -> tuple[Site, ...]:
        there = ((site, f"{kind}.{layer}") for site, kind in KIND_AT.items())
        return tuple(
            site for site, name in there if name in self.model.units and self.chooser.loses(self.model.units[name])
        )

    def __call__(self, seen: Seen) -> Change:
        group = self.model.units[f"{KIND_AT[seen.site]}.{seen.layer}"]
        (reader,) = group.outgoing
        dense = seen.weights[reader.parameter]
        chosen = self.chooser(group, seen, self.damping)
        columns = chosen.keep.repeat_interleave(reader.width).to(dense.device)
        if self.compensation == "obs":
            W = chosen.repaired
            if W is None:
                W = compensated(dense.float(), seen.hessian.damped(self.damping), columns)
        else:
            W = dense.float() * columns
        changed, shift = {reader.parameter: W.to(dense.dtype)}, None
        if self.compensation == "bias":
            name = f"{reader.parameter.removesuffix('weight')}bias"
            bias = self.model.parameters[name].to(dense.device)
            mean = (seen.hessian.sums / seen.hessian.tokens).masked_fill(columns, 0.0).float()
            changed[name] = (bias.float() + dense.float() @ mean).to(dense.dtype)
            shift = changed[name] - bias
        error, whole = output_error(dense, changed[reader.parameter], seen.hessian, shift)
        keep = {group.name: chosen.keep} | self._key_value_heads(group, chosen.keep)
        return Change(changed, keep, error / max(whole, TINY))

    def _key_value_heads(self, group: UnitGroup, keep: torch.Tensor) -> dict[str, torch.Tensor]:
        if group.kind != HEAD:
            return {}
        kv = self.model.units[f"{KV_HEAD}.{group.layer}"]
        return {kv.name: keep.view(kv.size, -1).any(dim=1)}


def output_error(
    dense: Weights, changed: Weights, hessian: Hessian, shift: Float[torch.Tensor, " rows"] | None = None
) -> tuple[float, float]:
    """The squared error of a layer's output over all tokens, ``|(W' - W) X + b|^2``, and the output's ``|W X|^2``.

    Args:
        dense: ``W``.
        changed: ``W'``.
        hessian: of ``X``.
        shift: ``b``, what is added to the bias.
    """
    error = missed(dense, changed, hessian)
    if shift is not None:
        b, moved = shift.double(), (changed.double() - dense.double()) @ hessian.sums
        error += float((2 * moved * b).sum() + hessian.tokens * b.square().sum())
    return max(error, 0.0), missed(dense, torch.zeros_like(dense), hessian)


def missed(dense: Weights, changed: Weights, hessian: Hessian) -> float:
    """The squared error of a layer's output over all tokens, ``|(W' - W) X|^2``."""
    D = changed.float() - dense.float()
    return float(((D @ hessian.total) * D).sum(dtype=torch.float64))

"""Which attentions and MLPs go as a whole."""

from dataclasses import dataclass

import torch

from graphprune.core.errors import InputError
from graphprune.core.scores import BLOCK, Scores
from graphprune.core.units import HEAD, KV_HEAD, UnitTable
from graphprune.masks.items import Budget


@dataclass(frozen=True)
class SubBlock:
    """An attention or an MLP.

    Attributes:
        group: its heads or its neurons, `head.L` or `neuron.L`.
        cost: what it counts against the budget: parameters of its units, or units.
        score: higher = keep.
    """

    group: str
    cost: int
    score: float


def sub_blocks(scores: Scores, units: UnitTable, kinds: tuple[str, ...], budget: Budget) -> tuple[SubBlock, ...]:
    """All sub-blocks of some kinds, in order of layer.

    The score of a sub-block is its own (`block.L.attn`, `block.L.mlp`) if there are such scores, else the sum of those
    of its units.

    Raises:
        InputError: the scores don't cover one.
    """
    result = []
    of_blocks = BLOCK in scores.kinds
    for group in units.of_kind(*kinds):
        name = f"{BLOCK}.{group.layer}.{'attn' if group.kind == HEAD else 'mlp'}" if of_blocks else group.name
        if name not in scores.values:
            raise InputError(f"{scores.method} gives no score for the {group.kind}s of block {group.layer}")
        kv = units[f"{KV_HEAD}.{group.layer}"] if group.kind == HEAD else None
        cost = group.size * group.parameters_per_unit + (kv.size * kv.parameters_per_unit if kv else 0)
        cost = cost if budget == "parameters" else group.size
        result.append(SubBlock(group.name, cost, float(scores.values[name].double().sum())))
    return tuple(result)


def whole(there: tuple[SubBlock, ...], amount: int, most: int) -> dict[str, int]:
    """The sub-blocks that go, and what each of them costs: the lowest scores per cost, ties by layer.

    As many as bring what they cost together nearest to an amount: a dearer one is never skipped for a cheaper one that
    matters more. Sets are nested in the amount.

    Args:
        there: the sub-blocks.
        amount: what they should cost together.
        most: what they may cost at most.
    """
    order = sorted(there, key=lambda block: block.score / block.cost)
    gone, total = dict[str, int](), 0
    for block in order:
        after = total + block.cost
        if after > most or after - amount > amount - total:
            break
        gone[block.group] = block.cost
        total = after
    return gone


def without(keep: dict[str, torch.Tensor], gone: frozenset[str]) -> dict[str, torch.Tensor]:
    """A mask's tensors without some sub-blocks, key/value heads among them."""
    result = dict(keep)
    for group in gone:
        kind, layer = group.split(".")
        for name in (group, f"{KV_HEAD}.{layer}") if kind == HEAD else (group,):
            result[name] = torch.zeros_like(result[name])
    return result

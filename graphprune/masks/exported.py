"""Masks and scores for other programs: lists of what goes, layer by layer, and tables."""

from collections.abc import Iterator, Mapping

import torch

from graphprune.core.errors import InputError
from graphprune.core.mask import WEIGHT, Mask
from graphprune.core.units import HEAD, KV_HEAD, NEURON

LISTS = {HEAD: "heads", KV_HEAD: "kv_heads", NEURON: "neurons"}


def removed_lists(mask: Mask) -> dict[str, dict[str, list[int]]]:
    """The positions of the heads, key/value heads and neurons that go, by kind and layer; layers that lose none too.

    Raises:
        InputError: the mask removes single weights, which no list of units can say.
    """
    if mask.weights:
        raise InputError("the mask removes single weights, which are no units to list; write it for torch")
    lists: dict[str, dict[str, list[int]]] = {}
    for name, keep in mask.keep.items():
        kind, layer = name.split(".")
        lists.setdefault(LISTS[kind], {})[layer] = (~keep).nonzero()[:, 0].tolist()
    return lists


def table(values: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Lines of CSV, as `masks.given` reads them: of a mask's `keep`, or of scores' `values`.

    Raises:
        InputError: they are of single weights.
    """
    if any(name.startswith(WEIGHT) for name in values):
        raise InputError("single weights have no names to put into a table; write the mask for torch")
    is_mask = all(tensor.dtype == torch.bool for tensor in values.values())
    yield "unit,keep" if is_mask else "unit,score"
    for name, tensor in values.items():
        for position, value in enumerate(tensor.tolist()):
            yield f"{name}.{position},{int(value) if is_mask else repr(value)}"

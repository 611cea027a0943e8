"""The quality of many masks of one model, without writing a checkpoint for each."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from graphprune.core.mask import Mask
from graphprune.evaluation.perplexity import perplexity
from graphprune.models.model import Model
from graphprune.surgery.cut import Plan


def perplexity_of_masks(
    model: Model,
    masks: Iterable[Mask],
    rows: Int[torch.Tensor, "windows seq_len"],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Iterator[float]:
    """The perplexity of the model under each mask, in order; equal to that of the excised checkpoint but for rounding.

    The network is loaded once; what a mask removes is zeroed in it and put back afterwards.
    """
    network: Any = model.module(dtype=dtype, device=device)
    for mask in masks:
        with standing_in(network, model, mask):
            yield perplexity(network, rows, device=device)


@contextmanager
def standing_in(
    network: Any, model: Model, mask: Mask, changed: Mapping[str, torch.Tensor] | None = None
) -> Iterator[None]:
    """Makes a model's network compute as pruned, and puts it back afterwards.

    Args:
        network: the dense model's, of any type and device.
        model: the dense model.
        mask: what stays; the rest is zeroed.
        changed: parameters that were refitted, by canonical name.
    """
    plan, changed = Plan.of(mask, model.units), changed or {}
    stored = dict(network.named_parameters())
    places = {name: model.naming.parameter(name) for name in {*plan.touched, *changed}}
    dense = {name: place.read(stored[stock].detach()).clone() for name, (stock, place) in places.items()}

    def write(name: str, values: torch.Tensor) -> None:
        stock, place = places[name]
        place.write(stored[stock], values)

    try:
        with torch.no_grad():
            for name, values in dense.items():
                new = changed[name].to(device=values.device, dtype=values.dtype) if name in changed else values
                write(name, plan.zeroed(name, new))
        yield
    finally:
        with torch.no_grad():
            for name, values in dense.items():
                write(name, values)

"""The quality of many masks of one model, without writing a checkpoint for each."""

from collections.abc import Iterable, Iterator
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
    stored = dict(network.named_parameters())
    for mask in masks:
        plan = Plan.of(mask, model.units)
        places = {name: model.naming.parameter(name) for name in plan.touched}
        dense = {name: place.read(stored[stock].detach()).clone() for name, (stock, place) in places.items()}
        with torch.no_grad():
            for name, (stock, place) in places.items():
                place.write(stored[stock], plan.zeroed(name, dense[name]))
        try:
            yield perplexity(network, rows, device=device)
        finally:
            with torch.no_grad():
                for name, (stock, place) in places.items():
                    place.write(stored[stock], dense[name])

"""Masks for `torch.nn.utils.prune`, under the names and in the layout of the network's own class.

torch keeps a pruned parameter as two tensors, `weight_orig` and the buffer `weight_mask`, and multiplies them whenever
the network runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Shaped
from torch import nn

from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.models.model import Model
from graphprune.surgery.cut import Plan

MASK, ORIGINAL = "_mask", "_orig"


def torch_masks(model: Model, mask: Mask) -> dict[str, Bool[torch.Tensor, "..."]]:
    """A mask of every parameter that a mask touches, by the name that the network's class gives it; True = stays.

    >>> from torch.nn.utils import prune
    >>> from graphprune import load_model, Mask
    >>> model = load_model("tiny")
    >>> network = model.module()
    >>> for name, keep in torch_masks(model, Mask.full(model.units)).items():
    ...     module, _, parameter = name.rpartition(".")
    ...     _ = prune.custom_from_mask(network.get_submodule(module), parameter, keep)
    """
    plan = Plan.of(mask, model.units)
    stock = model.naming.stock(_Kept(plan, model.shapes))
    return {name: stock[name] for name in sorted({model.naming.parameter(name)[0] for name in plan.touched})}


@dataclass(frozen=True)
class _Kept(Mapping[str, torch.Tensor]):
    """Which weights of every parameter stay, by canonical name; each is made when it is asked for."""

    plan: Plan
    shapes: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.plan.zeroed(name, torch.ones(self.shapes[name], dtype=torch.bool))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def prune_state(
    model: Model, mask: Mask, *, dtype: torch.dtype | None = None
) -> dict[str, Shaped[torch.Tensor, "..."]]:
    """The state dict of the dense network, pruned by `torch.nn.utils.prune`: `…_orig`, `…_mask`, and all the rest.

    Args:
        model: the dense model.
        mask: what stays.
        dtype: of the network; the checkpoint's own by default.
    """
    masks = torch_masks(model, mask)
    state, seen = {}, set[int]()
    for name, value in model.module(dtype=dtype).state_dict().items():
        own = value.clone() if value.data_ptr() in seen else value  # tied weights lie in one place; a file has none
        seen.add(value.data_ptr())
        if name in masks:
            state[f"{name}{ORIGINAL}"], state[f"{name}{MASK}"] = own, masks[name].to(own.dtype)
        else:
            state[name] = own
    return state


def prune_with_torch(network: nn.Module, tensors: Mapping[str, Shaped[torch.Tensor, "..."]]) -> nn.Module:
    """The network itself, pruned in place by `torch.nn.utils.prune`, with the tensors of `prune_state` in it.

    Tensors may also be `…_mask` alone; the network then keeps its own weights.

    Raises:
        InputError: there is no mask, or the network has no such parameter.
    """
    from torch.nn.utils import prune

    masked = [name.removesuffix(MASK) for name in tensors if name.endswith(MASK)]
    if not masked:
        raise InputError("there is no mask among these tensors: none has a name that ends in _mask")
    for name in masked:
        module, _, parameter = name.rpartition(".")
        try:
            prune.custom_from_mask(network.get_submodule(module), parameter, tensors[f"{name}{MASK}"])  # type: ignore[no-untyped-call]
        except (AttributeError, ValueError, RuntimeError) as error:
            raise InputError(f"the network can't be pruned at {name}: {error}") from error
    if len(tensors) > len(masked):
        network.load_state_dict(dict(tensors))
    return network

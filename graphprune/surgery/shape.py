"""The ladder of checkpoints: which shape a pruned decoder can be saved in so that stock code loads it.

1. `uniform`: all layers have shrunk alike; the configuration is edited.
2. `padded`: layers differ; each is zero-padded to the widest, so one width fits all.
3. `ragged`: layers differ, and so do their shapes; loads once this package is imported, so it has to be asked for.
4. `masked`: the original shapes with zeros; the only rung for masks of single weights.

A configuration without ``head_dim`` (GPT-2, GPT-NeoX, OPT) fixes how many heads there are: unless ragged, they are
always padded to as many, and only neurons make a model smaller.

A perceptron is stored by layer widths of its own, so it is simply `excised`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Shaped

from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.models.architecture import Decoder
from graphprune.models.model import Model
from graphprune.models.naming import Naming
from graphprune.models.ragged import Layer, Narrowing, ragged_config
from graphprune.surgery.cut import Plan

Rung = Literal["uniform", "padded", "ragged", "masked", "excised"]


@dataclass(frozen=True)
class Widths:
    """Key/value heads, query heads a key/value head, and neurons: of a layer, or of all."""

    groups: int
    queries: int
    neurons: int


@dataclass(frozen=True)
class Shape:
    """A rung and what is needed to bring each parameter to it."""

    rung: Rung
    plan: Plan
    target: Widths | None = None
    layers: tuple[Widths, ...] = ()
    decoder: Decoder | None = None
    narrowing: Narrowing | None = None

    def has(self, name: str) -> bool:
        """Whether a parameter is still there."""
        return self.narrowing is None or self.narrowing.has(name)

    @property
    def naming(self) -> Naming | None:
        """What its parameters are called, if not what the model's are."""
        return None if self.narrowing is None else self.narrowing.naming

    def parameter(self, name: str, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """One parameter in its new shape."""
        if self.rung == "masked" or self._stays_wide(name):
            return self.plan.zeroed(name, tensor)
        tensor = self.plan.excised(name, tensor)
        return tensor if self.rung != "padded" else self._padded(name, tensor)

    def _stays_wide(self, name: str) -> bool:
        """Whether a parameter is one of an attention whose heads nothing lets go from the shapes: they become zeros."""
        if self.narrowing is not None:
            return self.narrowing.decoder.family.joint_norm and ".self_attn." in name
        return self.decoder is not None and not self.decoder.free_heads and ".self_attn." in name

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that goes with it."""
        if self.narrowing is not None:
            return ragged_config(config, self.narrowing.layers)
        edited = dict(config)
        if self.target is not None and self.decoder is not None and self.rung in {"uniform", "padded"}:
            family = self.decoder.family
            if self.decoder.free_heads:
                edited[family.heads_key] = self.target.groups * self.target.queries
                edited["num_key_value_heads"] = self.target.groups
                edited["head_dim"] = self.decoder.d_head
            edited[family.width_key] = self.target.neurons
        return edited

    def _padded(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        decoder, target = self.decoder, self.target
        if decoder is None or target is None or not name.startswith("model.layers."):
            return tensor
        have, module = self.layers[int(name.split(".")[2])], name.split(".")[-2]
        d = decoder.d_head
        if module in {"gate_proj", "up_proj"}:
            return _pad(tensor, 0, (have.neurons,), (target.neurons,))
        if module == "down_proj" and name.endswith("weight"):
            return _pad(tensor, 1, (have.neurons,), (target.neurons,))
        if module == "q_proj":
            return _pad(tensor, 0, (have.groups, have.queries, d), (target.groups, target.queries, d))
        if module in {"k_proj", "v_proj"}:
            return _pad(tensor, 0, (have.groups, d), (target.groups, d))
        if module == "o_proj" and name.endswith("weight"):
            return _pad(tensor, 1, (have.groups, have.queries, d), (target.groups, target.queries, d))
        return tensor


def _pad(tensor: torch.Tensor, axis: int, have: tuple[int, ...], want: tuple[int, ...]) -> torch.Tensor:
    """Zero-pads one axis, read as nested sizes ``have``, to nested sizes ``want``."""
    if have == want:
        return tensor
    moved = tensor.movedim(axis, 0)
    result = moved.new_zeros((*want, *moved.shape[1:]))
    result[tuple(slice(0, size) for size in have)] = moved.reshape(*have, *moved.shape[1:])
    return result.reshape(-1, *moved.shape[1:]).movedim(0, axis).contiguous()


def shape_of(model: Model, mask: Mask, rung: str = "auto") -> Shape:
    """The best legal rung for a mask, or the one asked for.

    Args:
        model: the dense model.
        mask: what stays.
        rung: `auto`, `uniform`, `padded`, `ragged` or `masked`; for a perceptron `auto`, `excised` or `masked`; for a
            mask of single weights `auto` or `masked`.

    Raises:
        InputError: the rung is unknown, or the mask doesn't allow it.
    """
    plan = Plan.of(mask, model.units)
    if not isinstance(model.architecture, Decoder):
        if rung not in {"auto", "excised", "masked"}:
            raise InputError(f"a perceptron's checkpoint is excised or masked, not {rung!r}")
        if mask.weights:
            return _masked(plan, rung)
        return Shape("masked" if rung == "masked" else "excised", plan)
    if rung not in {"auto", "uniform", "padded", "ragged", "masked"}:
        raise InputError(f"a checkpoint is uniform, padded, ragged or masked, not {rung!r}")
    if rung == "masked" or mask.weights:
        return _masked(plan, rung)
    decoder = model.architecture
    layers = tuple(_widths(mask, layer) for layer in range(decoder.n_layers))
    if rung == "ragged":
        left = tuple(_left(decoder, widths) for widths in layers)
        return Shape("ragged", plan, narrowing=Narrowing(decoder, model.shapes, left))
    target = _common(decoder, layers)
    best: Rung = "uniform" if all(widths == target for widths in layers) else "padded"
    if best == "padded" and not decoder.free_heads and target.neurons == decoder.d_mlp:
        best = "masked"  # nothing would be smaller
    if rung == "uniform" and best != "uniform":
        raise InputError(_not_uniform(decoder, mask))
    if rung == "auto" and best == "masked":
        return Shape("masked", plan)
    return Shape("padded" if rung == "padded" else best, plan, target, layers, decoder)


def _left(decoder: Decoder, widths: Widths) -> Layer:
    """What a ragged layer has: all heads or none, where their normalisation takes all of them together."""
    if decoder.family.joint_norm and widths.groups:
        return Layer(decoder.n_heads, decoder.n_kv_heads, widths.neurons)
    return Layer(widths.groups * widths.queries, widths.groups, widths.neurons)


def _not_uniform(decoder: Decoder, mask: Mask) -> str:
    if not decoder.free_heads and any(not bool(mask.keep[f"{HEAD}.{i}"].all()) for i in range(decoder.n_layers)):
        return (
            f"the configuration of {decoder.model_type} fixes how many heads there are, so a checkpoint without some "
            "of them can't be uniform; use padded"
        )
    return "layers differ in width after this mask, so the checkpoint can't be uniform; use padded"


def _masked(plan: Plan, rung: str) -> Shape:
    if rung not in {"auto", "masked"}:
        raise InputError(
            f"a mask of single weights leaves every shape as it is, so the checkpoint is masked, not {rung}"
        )
    return Shape("masked", plan)


def _widths(mask: Mask, layer: int) -> Widths:
    groups = int(mask.keep[f"{KV_HEAD}.{layer}"].sum())
    heads = int(mask.keep[f"{HEAD}.{layer}"].sum())
    return Widths(groups, heads // groups if groups else 0, int(mask.keep[f"{NEURON}.{layer}"].sum()))


def _common(decoder: Decoder, layers: tuple[Widths, ...]) -> Widths:
    """The smallest widths that hold every layer and that configurations accept.

    Several families demand that the number of query heads divides the width of the stream, others that it stays; the
    original shape is always accepted.
    """
    groups = max(1, *(widths.groups for widths in layers))
    queries = max(1, *(widths.queries for widths in layers))
    original = (decoder.n_kv_heads, decoder.n_heads // decoder.n_kv_heads)
    legal = [
        (g, q)
        for g in range(groups, original[0] + 1)
        for q in range(queries, original[1] + 1)
        if (decoder.free_heads and decoder.d_model % (g * q) == 0) or (g, q) == original
    ]
    g, q = min(legal, key=lambda pair: (pair[0] * (pair[1] + 1), pair))
    return Widths(g, q, max(1, *(widths.neurons for widths in layers)))

"""What stock classes call the parts of a decoder and how they store them; everything else knows one set of names.

Canonical names are Llama's: ``model.layers.L.self_attn.q_proj.weight``, ``mlp.up_proj``, ``input_layernorm``,
``model.embed_tokens``, ``model.norm``, and every weight is ``[out, in]``. A `Naming` is a table from them to the stock
class's. Through it a checkpoint is read (`Canonical`) and written (`Stock`), and modules are found to be hooked.

Math: rows of a fused projection are ``[groups, shares, width]``, of which a part has one share or several. Query, key
and value have one each: in one group where the three lie one after the other (GPT-2), in one a head where they
alternate (GPT-NeoX). Where there are fewer keys and values than queries they have one a head, and gate and up one each
(Phi-3).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import accumulate

import torch
from jaxtyping import Shaped

from graphprune.core.errors import ModelError

Tensors = Mapping[str, torch.Tensor]
Shape = tuple[int, ...]
BLOCKS, HEAD = "model.layers.", "lm_head"


@dataclass(frozen=True)
class Place:
    """Where a part of a decoder lies in the stock class.

    Attributes:
        module: the stock module.
        transposed: whether its weight is stored ``[in, out]``.
        shares: where a fused projection's shares of the part begin and end, and how many it has; None if the module is
            the part's own.
        groups: how often the parts alternate.
    """

    module: str
    transposed: bool = False
    shares: tuple[int, int, int] | None = None
    groups: int = 1

    def view(self, stock: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """The part's entries of a stock weight or bias, ``[out, ...]`` or ``[groups, shares, width, ...]``, no copy."""
        whole = stock.t() if self.transposed else stock
        if self.shares is None:
            return whole
        first, last, total = self.shares
        return whole.view(self.groups, total, -1, *whole.shape[1:])[:, first:last]

    def read(self, stock: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "..."]:
        """The part's weight or bias; a copy unless it is stored as it is."""
        found = self.view(stock)
        return (found if self.shares is None else found.flatten(0, 2)).contiguous()

    def write(self, stock: Shaped[torch.Tensor, "..."], value: Shaped[torch.Tensor, "..."]) -> None:
        """Overwrites the part's weight or bias in a stock tensor."""
        into = self.view(stock)
        into.copy_(value.reshape(into.shape))

    def stored(self, value: Shaped[torch.Tensor, "..."], within: torch.Tensor) -> Shaped[torch.Tensor, "..."]:
        """The stock tensor with another weight or bias for the part; ``within`` is what it was, and stays so."""
        if self.shares is None:
            return value.t().contiguous() if self.transposed else value
        whole = within.clone()
        self.write(whole, value.to(whole))
        return whole

    def output(self, output: Shaped[torch.Tensor, "*batch stock"]) -> Shaped[torch.Tensor, "*batch channels"]:
        """The part's own channels of what the stock module gives."""
        if self.shares is None:
            return output
        first, last, total = self.shares
        return output.reshape(*output.shape[:-1], self.groups, total, -1)[..., first:last, :].flatten(-3)

    def shape(self, stock: Shape) -> Shape:
        """The shape of the part's weight or bias, from that of the stock tensor.

        Raises:
            ValueError: it can't be divided into as many equal shares.
        """
        whole = stock[::-1] if self.transposed else stock
        if self.shares is None:
            return whole
        first, last, total = self.shares
        if not whole or whole[0] % (total * self.groups):
            raise ValueError(f"its shape {stock} is not {self.groups} times {total} equal shares")
        return whole[0] // total * (last - first), *whole[1:]


@dataclass(frozen=True)
class Naming:
    """The stock names of a family, by the canonical ones. What isn't in a table is called the same.

    Attributes:
        body: what the names of everything but the output embedding begin with.
        layers: the list of blocks in the body.
        outside: modules outside the blocks, both names in full.
        inside: modules of a block, by names within the block.
        files: beginnings of names that files have where the network has another, and that.
        buffers: endings of names in older files that are no parameters.
        inside_of: of each layer, the modules of its block, where layers differ.
    """

    body: str = "model."
    layers: str = "layers"
    outside: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, Place] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    inside_of: tuple[Mapping[str, Place], ...] = ()

    @property
    def is_canonical(self) -> bool:
        """Whether the stock names are the canonical ones."""
        return not self.inside

    def module(self, name: str) -> Place:
        """Where a module lies, or a whole block, by its canonical name in full."""
        if not name.startswith(BLOCKS):
            return Place(self.outside.get(name, name))
        layer, _, part = name.removeprefix(BLOCKS).partition(".")
        block = f"{self.body}{self.layers}.{layer}"
        if not part:
            return Place(block)
        place = self.inside_of[int(layer)].get(part, Place(part)) if self.inside_of else self.within(part)
        return replace(place, module=f"{block}.{place.module}")

    def within(self, part: str) -> Place:
        """Where a module of a block lies, by its name within the block."""
        return self.inside.get(part, Place(part))

    def parameter(self, name: str) -> tuple[str, Place]:
        """The stock tensor that a parameter lies in, and where."""
        module, _, end = name.rpartition(".")
        place = self.module(module)
        return f"{place.module}.{end}", place

    def parts(self, stock: str) -> tuple[str, ...]:
        """The parameters that lie in a stock tensor, in their order there; none if it is no part of the family's."""
        module, _, end = stock.rpartition(".")
        if module == HEAD:
            return (stock,)
        prefix = f"{self.body}{self.layers}."
        if not module.startswith(prefix):
            return tuple(f"{name}.{end}" for name, place in self.outside.items() if place == module)
        layer, _, part = module.removeprefix(prefix).partition(".")
        return tuple(f"{BLOCKS}{layer}.{name}.{end}" for name in self._parts_of.get(part, ()))

    @cached_property
    def _parts_of(self) -> dict[str, list[str]]:
        """By stock module of a block, what lies in it."""
        result: dict[str, list[str]] = {}
        for name, place in sorted(self.inside.items(), key=lambda item: item[1].shares or ()):
            result.setdefault(place.module, []).append(name)
        return result

    def is_buffer(self, stock: str) -> bool:
        """Whether a name in a checkpoint is that of a buffer, which no network loads."""
        return stock.endswith(self.buffers)

    def in_file(self, stock: str) -> str:
        """What a stock parameter is called in a file."""
        for there, here in self.files.items():
            if stock.startswith(here):
                return there + stock.removeprefix(here)
        return stock

    def in_network(self, stored: str) -> str:
        """What a parameter of a file is called in the network."""
        for there, here in self.files.items():
            if stored.startswith(there):
                return here + stored.removeprefix(there)
        return stored

    def canonical(self, stock: Tensors) -> Tensors:
        """A stock network's parameters by canonical name, read when they are needed.

        Raises:
            ModelError: one of them is none of the family's.
        """
        return stock if self.is_canonical else Canonical(stock, self)

    def stock(self, parameters: Tensors) -> Tensors:
        """Parameters by stock name, put together when they are needed."""
        return parameters if self.is_canonical else Stock(parameters, self)


class Canonical(Mapping[str, torch.Tensor]):
    """A stock network's parameters under canonical names, ``[out, in]``; each is read when it is asked for.

    Names may lack the beginning that all of them share, as in checkpoints of the body alone; buffers are left out.

    Attributes:
        below: the stock tensors.
        shapes: of all parameters.

    Raises:
        ModelError: a tensor is none of the family's, or can't be taken apart.
    """

    def __init__(self, below: Tensors, naming: Naming) -> None:
        self.below, self.naming = below, naming
        self._stored = _by_stock_name(below, naming)
        shapes: Mapping[str, Shape] | None = getattr(below, "shapes", None)
        self.shapes: dict[str, Shape] = {}
        for stock, stored in self._stored.items():
            if not (parts := naming.parts(stock)):
                raise ModelError(f"{stored} is no parameter of a supported form of this architecture")
            shape = tuple(below[stored].shape) if shapes is None else shapes[stored]
            try:
                self.shapes |= {name: naming.parameter(name)[1].shape(shape) for name in parts}
            except ValueError as error:
                raise ModelError(f"{stored} is damaged: {error}") from error

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self.naming.parameter(name)[1].read(self.below[self.stored_as(name)])

    def stored_as(self, name: str) -> str:
        """What the tensor that a parameter lies in is called below."""
        return self._stored[self.naming.parameter(name)[0]]

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _by_stock_name(stored: Tensors, naming: Naming) -> dict[str, str]:
    """The names in a checkpoint by what they are called in the network."""
    names = [name for name in stored if not naming.is_buffer(name)]
    complete = any(name.startswith(naming.body) for name in names)
    result = {}
    for name in names:
        new = naming.in_network(name)
        result[new if complete or new.startswith(HEAD) else naming.body + new] = name
    return result


class Stock(Mapping[str, torch.Tensor]):
    """Parameters under the names of a stock network, in its layout; each is put together when it is asked for.

    Attributes:
        parameters: by canonical name.
    """

    def __init__(self, parameters: Tensors, naming: Naming) -> None:
        self.parameters, self.naming = parameters, naming
        self._names = dict.fromkeys(naming.parameter(name)[0] for name in parameters)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        found = [self.parameters[part] for part in self.naming.parts(name)]
        _, place = self.naming.parameter(self.naming.parts(name)[0])
        if place.shares is None:
            whole = found[0]
        else:
            whole = torch.cat([value.view(place.groups, -1, *value.shape[1:]) for value in found], dim=1).flatten(0, 1)
        return whole.t().contiguous() if place.transposed else whole

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _fused(module: str, parts: Mapping[str, int], *, groups: int = 1, transposed: bool = False) -> dict[str, Place]:
    """Parts of a fused projection, with as many shares of it, in this order."""
    ends = list(accumulate(parts.values()))
    return {
        name: Place(module, transposed, (end - shares, end, ends[-1]), groups)
        for (name, shares), end in zip(parts.items(), ends, strict=True)
    }


def _attention(queries: int = 1, keys: int = 1) -> dict[str, int]:
    return {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}


_OPT = Naming(
    body="model.",
    layers="decoder.layers",
    outside={
        "model.embed_tokens": "model.decoder.embed_tokens",
        "model.embed_positions": "model.decoder.embed_positions",
        "model.norm": "model.decoder.final_layer_norm",
    },
    inside={
        "self_attn": Place("self_attn"),
        **{f"self_attn.{name}": Place(f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj")},
        "self_attn.o_proj": Place("self_attn.out_proj"),
        "mlp.up_proj": Place("fc1"),
        "mlp.act_fn": Place("activation_fn"),
        "mlp.down_proj": Place("fc2"),
        "input_layernorm": Place("self_attn_layer_norm"),
        "post_attention_layernorm": Place("final_layer_norm"),
    },
)
_GPT2 = Naming(
    body="transformer.",
    layers="h",
    outside={
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.norm": "transformer.ln_f",
    },
    inside={
        "self_attn": Place("attn"),
        **_fused("attn.c_attn", _attention(), transposed=True),
        "self_attn.o_proj": Place("attn.c_proj", transposed=True),
        "mlp.up_proj": Place("mlp.c_fc", transposed=True),
        "mlp.act_fn": Place("mlp.act"),
        "mlp.down_proj": Place("mlp.c_proj", transposed=True),
        "input_layernorm": Place("ln_1"),
        "post_attention_layernorm": Place("ln_2"),
    },
    buffers=(".attn.bias", ".attn.masked_bias"),
)
_GPT_NEOX = Naming(
    body="gpt_neox.",
    layers="layers",
    outside={
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
    },
    inside={
        "self_attn": Place("attention"),
        **_fused("attention.query_key_value", _attention()),
        "self_attn.o_proj": Place("attention.dense"),
        "mlp.up_proj": Place("mlp.dense_h_to_4h"),
        "mlp.act_fn": Place("mlp.act"),
        "mlp.down_proj": Place("mlp.dense_4h_to_h"),
        "input_layernorm": Place("input_layernorm"),
        "post_attention_layernorm": Place("post_attention_layernorm"),
    },
    files={"embed_out.": "lm_head."},
    buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)
_PHI3 = Naming(
    inside={
        "self_attn": Place("self_attn"),
        **_fused("self_attn.qkv_proj", _attention()),
        "self_attn.o_proj": Place("self_attn.o_proj"),
        "mlp": Place("mlp"),
        **_fused("mlp.gate_up_proj", {"mlp.gate_proj": 1, "mlp.up_proj": 1}),
        "mlp.act_fn": Place("mlp.activation_fn"),
        "mlp.down_proj": Place("mlp.down_proj"),
        "input_layernorm": Place("input_layernorm"),
        "post_attention_layernorm": Place("post_attention_layernorm"),
    },
    outside={"model.embed_tokens": "model.embed_tokens", "model.norm": "model.norm"},
)
CANONICAL = Naming()


@cache
def naming_of(model_type: str, n_heads: int, n_kv_heads: int | None = None) -> Naming:
    """How the stock class of a `model_type` names and stores its parts; it may depend on how many heads there are."""
    if model_type == "gpt_neox":  # its query, key and value alternate head by head
        fused = _fused("attention.query_key_value", _attention(), groups=n_heads)
        return replace(_GPT_NEOX, inside={**_GPT_NEOX.inside, **fused})
    if model_type == "phi3":
        fused = _fused("self_attn.qkv_proj", _attention(n_heads, n_kv_heads or n_heads))
        return replace(_PHI3, inside={**_PHI3.inside, **fused})
    return {"opt": _OPT, "gpt2": _GPT2}.get(model_type, CANONICAL)

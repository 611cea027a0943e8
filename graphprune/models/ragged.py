"""Decoders whose layers differ: how wide each is, and which parameters it has. Without `transformers`.

A checkpoint of one has a configuration of its own, ``{"model_type": "graphprune_ragged", "text_config": ..., "layers":
[...]}``: the stock configuration of the decoder it was cut from, and what each layer has left. Parameters are named and
stored as the stock class does. A sub-block of which nothing is left is not there at all, nor its normalisations, unless
it still adds a bias.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped

from graphprune.core.errors import ModelError
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.models.architecture import Decoder, Family, Shapes, family_of
from graphprune.models.naming import Naming, naming_of

RAGGED = "graphprune_ragged"
ATTENTION, MLP = "attention", "MLP"
NOT_AGAIN = (
    "a ragged checkpoint is run and evaluated, not exported, scored or pruned again; start from the model that it was "
    "cut from"
)
WRITERS = {ATTENTION: "self_attn.o_proj", MLP: "mlp.down_proj"}


@dataclass(frozen=True)
class Layer:
    """What a layer of a decoder has: query heads, key/value heads, neurons. Nothing of a sub-block that isn't there."""

    heads: int
    kv_heads: int
    neurons: int

    def has(self, sub_block: str) -> bool:
        return bool(self.heads if sub_block == ATTENTION else self.neurons)

    def count(self, kind: str) -> int:
        """How many units of a kind."""
        return {HEAD: self.heads, KV_HEAD: self.kv_heads, NEURON: self.neurons}[kind]

    def facts(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Ragged:
    """The sizes of a decoder whose layers differ.

    Attributes:
        model_type: of the decoder that it was cut from.
        layers: what each has.
        d_model: the width of the stream.
        n_heads: of the decoder that it was cut from.
    """

    model_type: str
    layers: tuple[Layer, ...]
    d_model: int
    n_heads: int

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def family(self) -> Family:
        return family_of(self.model_type)

    @property
    def naming(self) -> Naming:
        """What the stock class calls the parts."""
        return naming_of_layers(self.model_type, self.layers)


def is_ragged(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == RAGGED


def stock_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the stock class: a ragged one holds that of the decoder it was cut from.

    Raises:
        ModelError: a ragged one holds none.
    """
    if not is_ragged(config):
        return config
    if not isinstance(found := config.get("text_config"), Mapping):
        raise ModelError("the configuration of a ragged checkpoint has no text_config")
    return found


def layers_of(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """What each layer of a ragged configuration has.

    Raises:
        ModelError: it doesn't say so, or that can't be.
    """
    try:
        layers = tuple(Layer(**entry) for entry in config["layers"])
        for index, layer in enumerate(layers):
            _check(layer, f"layer {index}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the configuration is not that of a ragged checkpoint: {error}") from error
    return layers


def _check(layer: Layer, name: str) -> None:
    for what, value in layer.facts().items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} has {value!r} {what}")
    if (layer.heads == 0) != (layer.kv_heads == 0) or (layer.kv_heads and layer.heads % layer.kv_heads):
        raise ValueError(f"{name} has {layer.heads} query heads for {layer.kv_heads} key/value heads")


def ragged_config(config: Mapping[str, Any], layers: Iterable[Layer]) -> dict[str, Any]:
    """The configuration of a ragged checkpoint, from that of the decoder it is cut from."""
    stock = {key: value for key, value in config.items() if key not in {"architectures", "transformers_version"}}
    edited = {"architectures": ["RaggedForCausalLM"], "model_type": RAGGED, "text_config": stock}
    shared = ("dtype", "torch_dtype", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    return edited | {key: config[key] for key in shared if key in config} | {"layers": [x.facts() for x in layers]}


def naming_of_layers(model_type: str, layers: Iterable[Layer]) -> Naming:
    """How a ragged decoder names and stores its parts: as the stock class, every layer by its own numbers of heads."""
    own = [naming_of(model_type, layer.heads, layer.kv_heads) for layer in layers]
    return replace(naming_of(model_type, 1), inside_of=tuple(naming.inside for naming in own), files={})


def ragged(config: Mapping[str, Any], shapes: Shapes) -> Ragged:
    """The sizes of a ragged decoder, from its configuration and its parameters' shapes.

    Raises:
        ModelError: they don't fit together.
    """
    stock, layers = stock_config(config), layers_of(config)
    model_type = str(stock.get("model_type"))
    family = family_of(model_type)
    try:
        found = Ragged(
            model_type, layers, shapes["model.embed_tokens.weight"][1], int(stock[family.heads_key])
        )  # fmt: skip
        _check_shapes(found, shapes)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the checkpoint's parameters are not those of a ragged {model_type} model: {error}"
        ) from error
    return found


def _check_shapes(found: Ragged, shapes: Shapes) -> None:
    decoder = Decoder(found.model_type, found.n_layers, found.d_model, found.n_heads, 0, 0, 0)
    d_head: int | None = None
    for index, layer in enumerate(found.layers):
        if layer.heads:
            rows = {part: shapes[decoder.parameter(index, f"{part}_proj.weight")][0] for part in ("q", "k", "v")}
            d_head = d_head or rows["q"] // layer.heads
            expected = {"q": layer.heads * d_head, "k": layer.kv_heads * d_head, "v": layer.kv_heads * d_head}
            if rows != expected:
                raise ValueError(f"layer {index} has {rows} rows of projections, expected {expected}")
        if layer.neurons and shapes[decoder.parameter(index, "up_proj.weight")][0] != layer.neurons:
            raise ValueError(f"layer {index} has other than {layer.neurons} neurons")
    last = max((decoder.layer_of(name) or 0 for name in shapes), default=0)
    if last >= found.n_layers:
        raise ValueError(f"there is a layer {last}, and the configuration has {found.n_layers}")


@dataclass(frozen=True)
class Narrowing:
    """From a dense decoder's parameters to those of a ragged one.

    Attributes:
        decoder: the dense one.
        shapes: of its parameters.
        layers: what each layer has left.
    """

    decoder: Decoder
    shapes: Shapes
    layers: tuple[Layer, ...]

    @property
    def naming(self) -> Naming:
        """What the parameters that are left are called."""
        return naming_of_layers(self.decoder.model_type, self.layers)

    def norms(self, sub_block: str) -> tuple[str | None, str | None]:
        """The normalisations before and after a sub-block, where there are any."""
        family = self.decoder.family
        if sub_block == ATTENTION:
            return family.attention_norm, family.attention_post_norm
        return family.mlp_norm, family.mlp_post_norm

    def has(self, name: str) -> bool:
        """Whether a parameter of the dense decoder is still there.

        Where nothing else of a sub-block is, the bias that it adds to the stream stays, and what normalises that.
        """
        index = self.decoder.layer_of(name)
        if index is None:
            return True
        block, module = self.decoder.block(index), name.split(".")[-2]
        of_attention = name.startswith(f"{block}self_attn.") or module in self.norms(ATTENTION)
        sub_block = ATTENTION if of_attention else MLP
        if self.layers[index].has(sub_block):
            return True
        bias = f"{block}{WRITERS[sub_block]}.bias"
        return bias in self.shapes and (name == bias or module == self.norms(sub_block)[1])

    def narrowed(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, Shaped[torch.Tensor, "..."]]:
        """The first units of every layer, as many as it has left; of what isn't there, nothing."""
        result = {name: tensor for name, tensor in parameters.items() if self.has(name)}
        for group in self.decoder.unit_table(self.shapes):
            count = self.layers[group.layer].count(group.kind)
            for own in group.owns:
                if own.parameter in result:
                    result[own.parameter] = result[own.parameter].narrow(own.axis, 0, count * own.width)
        return result

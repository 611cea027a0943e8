"""Ragged decoders as `transformers` runs them: the stock network, its layers made narrower one by one.

The stock class is built from the stock configuration; then every projection is cut to what its layer has, and a
sub-block that isn't there is replaced by one that adds nothing. Everything else (positions, masks, caches, soft caps,
the order in a block) stays what it is, so one class does for all families.
"""

from typing import Any

import torch
from torch import nn
from transformers.generation.utils import GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from graphprune.models.architecture import decoder, family_of
from graphprune.models.naming import naming_of
from graphprune.models.ragged import ATTENTION, MLP, WRITERS, Layer, Narrowing, layers_of
from graphprune.models.ragged_config import RaggedConfig


class RaggedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers has no types
    """A causal language model whose layers differ in heads, key/value heads and neurons, or lack a sub-block.

    Its children are those of a stock network, under the same names, and so are the methods that know how these go
    together.
    """

    config_class = RaggedConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(self, config: RaggedConfig) -> None:
        super().__init__(config)
        stock = MODEL_FOR_CAUSAL_LM_MAPPING[type(config.text_config)](config.text_config)
        narrow(stock, layers_of({"layers": config.layers}))
        for name, child in stock.named_children():
            self.add_module(name, child)
        for name in _BORROWED:
            setattr(self, name, getattr(stock, name))
        self.post_init()


_BORROWED = (
    "forward", "prepare_inputs_for_generation", "get_input_embeddings", "set_input_embeddings", "base_model_prefix",
    "_tied_weights_keys",
)  # fmt: skip


class Constant(nn.Module):
    """In the place of a linear layer that reads nothing: its bias if it has one, else zero."""

    def __init__(self, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.new_zeros(()) if self.bias is None else self.bias


class NoMLP(nn.Module):
    """In the place of an MLP without neurons: what its last layer adds to the stream all the same."""

    def __init__(self, name: str, writer: Constant) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, writer)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.get_submodule(self.name)(hidden_states)
        return found


class NoAttention(nn.Module):
    """In the place of an attention without heads: what its last layer adds to the stream all the same.

    A cache counts tokens in its first layer of each kind. If that is this one, it gets a zero a token to count.
    """

    def __init__(self, name: str, writer: Constant, counts: int | None) -> None:
        super().__init__()
        self.name, self.counts = name, counts
        self.add_module(name, writer)

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Any = None, layer_past: Any = None, **_: Any
    ) -> tuple[torch.Tensor, None]:
        cache = past_key_values if layer_past is None else layer_past
        if cache is not None and self.counts is not None:
            token = hidden_states.new_zeros(hidden_states.shape[:2])[:, None, :, None]
            cache.update(token, token, self.counts)
        return self.get_submodule(self.name)(hidden_states), None


def narrow(network: Any, layers: tuple[Layer, ...]) -> None:
    """Cuts the blocks of a stock network to what each layer has.

    Parameters keep their first rows and columns: which ones are meant is for a checkpoint to say.

    Raises:
        ModelError: the network is of no supported form.
        ValueError: it has another number of layers.
    """
    config = network.config.to_dict()
    model_type = config["model_type"]
    naming = naming_of(model_type, config[family_of(model_type).heads_key], config.get("num_key_value_heads"))
    parameters = naming.canonical({name: value.detach() for name, value in network.named_parameters()})
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    narrowing = Narrowing(decoder(config, shapes), shapes, layers)
    if len(layers) != narrowing.decoder.n_layers:
        raise ValueError(f"the configuration describes {len(layers)} layers, not {narrowing.decoder.n_layers}")
    left = narrowing.naming.stock(narrowing.narrowed(parameters))
    kinds = getattr(network.config, "layer_types", None) or [""] * len(layers)
    for index, layer in enumerate(layers):
        prefix = naming.module(f"model.layers.{index}").module
        own = {name.removeprefix(f"{prefix}."): left[name] for name in left if name.startswith(f"{prefix}.")}
        block = network.get_submodule(prefix)
        if not layer.has(ATTENTION):
            _remove(block, narrowing, ATTENTION, own, counts=index if kinds.index(kinds[index]) == index else None)
        if not layer.has(MLP):
            _remove(block, narrowing, MLP, own)
        for name, value in own.items():
            _resize(block, name, value)
        _recount(block.get_submodule(naming.within("self_attn").module), layer, narrowing.decoder.d_head)


def _remove(block: Any, narrowing: Narrowing, sub_block: str, own: Any, counts: int | None = None) -> None:
    """Takes a sub-block and its normalisations out of a block, but for what it adds without any units."""
    naming = narrowing.decoder.naming
    before, after = narrowing.norms(sub_block)
    writer = naming.within(WRITERS[sub_block]).module
    bias = own.get(f"{writer}.bias")
    home, _, name = writer.rpartition(".")
    constant = Constant(None if bias is None else bias.clone())
    if before is not None:
        block.set_submodule(naming.within(before).module, nn.Identity())
    if after is not None and bias is None:
        block.set_submodule(naming.within(after).module, nn.Identity())
    if sub_block == ATTENTION:
        block.set_submodule(home, NoAttention(name, constant, counts))
    elif home:
        block.set_submodule(home, NoMLP(name, constant))
    else:  # OPT's layers stand in the block itself
        for part in ("mlp.up_proj", "mlp.act_fn"):
            block.set_submodule(naming.within(part).module, nn.Identity())
        block.set_submodule(name, constant)


def _resize(block: Any, name: str, value: torch.Tensor) -> None:
    """Replaces a parameter of a linear layer by one of another shape."""
    home, _, end = name.rpartition(".")
    module = block.get_submodule(home)
    if getattr(module, end).shape == value.shape:
        return
    setattr(module, end, nn.Parameter(value.clone()))
    if end == "weight":
        n_out, n_in = value.shape if isinstance(module, nn.Linear) else value.shape[::-1]
        names = ("out_features", "in_features") if isinstance(module, nn.Linear) else ("nf", "nx")
        for attribute, size in zip(names, (n_out, n_in), strict=True):
            setattr(module, attribute, size)


def _recount(attention: Any, layer: Layer, d_head: int) -> None:
    """Tells an attention how many heads it has, in those of a stock class's words that it knows."""
    counts = {
        "num_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads,
        "num_key_value_groups": layer.heads // max(layer.kv_heads, 1),
        "split_size": layer.heads * d_head,  # GPT-2's query, key and value
    }
    for name, count in counts.items():
        if hasattr(attention, name):
            setattr(attention, name, count)
    if layer.heads and hasattr(attention, "config"):
        attention.config = OwnHeads(attention.config, layer.heads)


class OwnHeads:
    """The configuration that all layers share, but for the number of heads, which some attentions look up there."""

    def __init__(self, shared: Any, n_heads: int) -> None:
        self.shared, self.num_attention_heads = shared, n_heads

    def __getattr__(self, name: str) -> Any:
        if name == "shared" or name.startswith("__"):  # asked for while a copy is being made
            raise AttributeError(name)
        return getattr(self.shared, name)


def register() -> None:
    """Lets `AutoModelForCausalLM` load it."""
    AutoModelForCausalLM.register(RaggedConfig, RaggedForCausalLM, exist_ok=True)

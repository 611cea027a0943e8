"""Tiny real models of every family, with nothing in them that is zero, one, or alike by accident."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from graphprune.models.architecture import FAMILIES
from graphprune.models.model import Model

VOCABULARY = 64
MODEL_TYPES = tuple(model_type for family in FAMILIES.values() for model_type in family.model_types)
GEMMAS = ("gemma2", "gemma3_text")
GATED = ("llama", "mistral", "qwen2", "qwen3", *GEMMAS, "phi3", "smollm3", "olmo2")
UNGATED = ("opt", "gpt2", "gpt_neox")  # of the three, GPT-2 and GPT-NeoX fuse query, key and value
RENAMED = (*UNGATED, "phi3")  # classes that call parts otherwise than Llama, or fuse them
FIXED_HEADS = (*UNGATED, "olmo2")  # configurations, or norms, that heads can't go from
POST_NORM = (*GEMMAS, "olmo2")  # what a sub-block gives is normalised before it joins the stream

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 32}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(GEMMAS, _GEMMA),
    "phi3": {"sliding_window": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "olmo2": {"rms_norm_eps": 1e-6, "tie_word_embeddings": True},
}
_CALLED = {"opt": {"intermediate_size": "ffn_dim"}, "gpt_neox": {},
           "gpt2": {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
                    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}}  # fmt: skip

# What stock classes call the parts that others call as Llama does, written down a second time: these are the oracle.
_BLOCKS = {"opt": "model.decoder.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
_PARTS = {
    "opt": {"self_attn.o_proj": "self_attn.out_proj", "mlp.up_proj": "fc1", "mlp.down_proj": "fc2",
            "input_layernorm": "self_attn_layer_norm", "post_attention_layernorm": "final_layer_norm"},
    "gpt2": {"self_attn.q_proj": "attn.c_attn", "self_attn.k_proj": "attn.c_attn", "self_attn.v_proj": "attn.c_attn",
             "self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj",
             "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"},
    "phi3": {"self_attn.q_proj": "self_attn.qkv_proj", "self_attn.k_proj": "self_attn.qkv_proj",
             "self_attn.v_proj": "self_attn.qkv_proj", "mlp.gate_proj": "mlp.gate_up_proj",
             "mlp.up_proj": "mlp.gate_up_proj"},
    "gpt_neox": {"self_attn.q_proj": "attention.query_key_value", "self_attn.k_proj": "attention.query_key_value",
                 "self_attn.v_proj": "attention.query_key_value", "self_attn.o_proj": "attention.dense",
                 "mlp.up_proj": "mlp.dense_h_to_4h", "mlp.down_proj": "mlp.dense_4h_to_h"},
}  # fmt: skip
_OUTSIDE = {
    "opt": {"model.norm": "model.decoder.final_layer_norm", "model.embed_tokens": "model.decoder.embed_tokens",
            "model.embed_positions": "model.decoder.embed_positions"},
    "gpt2": {"model.norm": "transformer.ln_f", "model.embed_tokens": "transformer.wte",
             "model.embed_positions": "transformer.wpe"},
    "gpt_neox": {"model.norm": "gpt_neox.final_layer_norm", "model.embed_tokens": "gpt_neox.embed_in"},
}  # fmt: skip


def stock_name(model_type: str, name: str) -> str:
    """What a stock class calls a module, or the one that it is a part of."""
    if model_type not in RENAMED or name == "lm_head":
        return name
    if not name.startswith("model.layers."):
        return _OUTSIDE.get(model_type, {}).get(name, name)
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"{_BLOCKS.get(model_type, 'model.layers')}.{layer}.{_PARTS[model_type].get(part, part)}".rstrip(".")


def module_of(network: Any, name: str) -> nn.Module:
    """The module of a stock network that is, or holds, what Llama calls by that name."""
    module: nn.Module = network.get_submodule(stock_name(network.config.model_type, name))
    return module


def part_of(network: Any, name: str, rows: torch.Tensor) -> torch.Tensor:
    """What belongs to a projection of the output, or of the rows of the weight, of the module that holds it.

    Rows are on the last axis.
    """
    which, model_type = "qkv".find(name[-6]), network.config.model_type
    if model_type == "phi3" and name.endswith(("gate_proj", "up_proj")):
        return rows.chunk(2, dim=-1)[name.endswith("up_proj")]
    if model_type == "phi3" and which >= 0 and name.endswith("_proj"):
        config = network.config
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        return torch.split(rows, [n * config.head_dim for n in heads], dim=-1)[which]
    if which < 0 or not name.endswith("_proj") or model_type not in {"gpt2", "gpt_neox"}:
        return rows
    if model_type == "gpt2":
        return rows.chunk(3, dim=-1)[which]
    per_head = rows.reshape(*rows.shape[:-1], network.config.num_attention_heads, 3, -1)
    return per_head[..., which, :].reshape(*rows.shape[:-1], -1)


def stored(network: Any, name: str) -> torch.Tensor:
    """A parameter of a stock network by Llama's name for it, ``[out, in]``; a copy."""
    module, _, end = name.rpartition(".")
    found: torch.Tensor = getattr(module_of(network, module), end).detach().clone()
    if end == "bias" or "_proj" not in module:
        return part_of(network, module, found) if end == "bias" else found
    is_transposed = network.config.model_type == "gpt2"
    return part_of(network, module, found if is_transposed else found.T).T


def store(network: Any, name: str, value: torch.Tensor) -> None:
    """Replaces a parameter of a stock network by Llama's name for it."""
    module, _, end = name.rpartition(".")
    parameter = getattr(module_of(network, module), end)
    is_transposed = network.config.model_type == "gpt2" and end == "weight" and "_proj" in module
    columns = parameter.data if is_transposed or end == "bias" else parameter.data.T
    positions = part_of(network, module, torch.arange(columns.shape[-1]))
    columns[..., positions] = value if end == "bias" else value.T


def names_of(network: Any) -> list[str]:
    """Llama's names for the parameters of a stock network's blocks, if its class calls them otherwise."""
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj",
             "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]  # fmt: skip
    is_gated = network.config.model_type in GATED
    parts += ["mlp.gate_proj"] if is_gated else []
    layers, ends = range(network.config.num_hidden_layers), ("weight",) if is_gated else ("weight", "bias")
    return [f"model.layers.{layer}.{part}.{end}" for layer in layers for part in parts for end in ends]


def causal_lm(model_type: str, *, seed: int = 0, **settings: Any) -> nn.Module:
    """A stock `transformers` class with random weights, gains and biases, in float32 and evaluation mode."""
    sizes = _SIZES | _OWN.get(model_type, {}) | settings
    if model_type in UNGATED:
        sizes = {_CALLED[model_type].get(key, key): value for key, value in sizes.items()}
        sizes = {key: value for key, value in sizes.items() if key not in {"head_dim", "num_key_value_heads"}}
    if model_type == "gpt_neox":
        sizes.setdefault("rotary_pct", 0.5)
    config = CONFIG_MAPPING[model_type](**sizes)
    with torch.random.fork_rng():
        network: nn.Module = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.ndim == 1:  # a gain; Gemma stores it as a difference from one
                parameter.copy_(0.3 * noise + (model_type not in GEMMAS))
            else:
                is_transposed = model_type == "gpt2" and ".h." in name
                parameter.copy_(noise / math.sqrt(parameter.shape[0 if is_transposed else 1]))
    return network.eval()


def decoder(model_type: str, *, seed: int = 0, **settings: Any) -> Model:
    """The same as a `Model`."""
    return Model.from_module(causal_lm(model_type, seed=seed, **settings), name=model_type)


def perceptron_module(
    sizes: tuple[int, ...] = (6, 10, 8, 4), *, activation: type[nn.Module] = nn.ReLU, bias: bool = True, seed: int = 0
) -> nn.Sequential:
    """Linear layers with activations between them, random weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        with torch.random.fork_rng():
            linear = nn.Linear(width, following, bias=bias)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(width))
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1]).eval()


def perceptron(
    sizes: tuple[int, ...] = (6, 10, 8, 4), *, activation: type[nn.Module] = nn.ReLU, bias: bool = True, seed: int = 0
) -> Model:
    """The same as a `Model`."""
    module = perceptron_module(sizes, activation=activation, bias=bias, seed=seed)
    return Model.from_module(module, name="perceptron")


def token_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random tokens that no special token is among."""
    return torch.randint(3, VOCABULARY, shape or (2, 8), generator=torch.Generator().manual_seed(seed))

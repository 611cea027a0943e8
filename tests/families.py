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


def causal_lm(model_type: str, *, seed: int = 0, **settings: Any) -> nn.Module:
    """A stock `transformers` class with random weights, gains and biases, in float32 and evaluation mode."""
    sizes = _SIZES | (_GEMMA if model_type in GEMMAS else {}) | settings
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
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
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

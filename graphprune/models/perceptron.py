"""Multilayer perceptrons: any stack of `Linear` layers and activations, biases included."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from graphprune.core.errors import ModelError
from graphprune.models.architecture import Perceptron, Shapes

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}


def function_of(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """An activation as a function, element by element."""
    return torch.relu if name == "relu" else ACTIVATIONS[name]()


_INERT = (nn.Identity, nn.Dropout, nn.Flatten)


class PerceptronModule(nn.Module):
    """The runnable form of a `Perceptron`."""

    def __init__(self, architecture: Perceptron) -> None:
        super().__init__()
        sizes = architecture.sizes
        self.layers = nn.ModuleList(
            nn.Linear(sizes[layer], sizes[layer + 1], bias=architecture.biases[layer])
            for layer in range(architecture.n_layers)
        )
        self.activations = nn.ModuleList(ACTIVATIONS[name]() for name in architecture.activations)

    def forward(self, x: Float[torch.Tensor, "batch inputs"]) -> Float[torch.Tensor, "batch outputs"]:
        for linear, activation in zip(self.layers, self.activations, strict=True):
            x = activation(linear(x))
        return x


def read_perceptron(module: nn.Module) -> tuple[Perceptron, dict[str, torch.Tensor]]:
    """The architecture and parameters of a module that is a stack of linear layers and activations.

    Raises:
        ModelError: it holds anything else, or its layers don't fit together.
    """
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    linears: list[nn.Linear] = []
    activations: list[str] = []
    for leaf in (part for part in module.modules() if not list(part.children())):
        if isinstance(leaf, nn.Linear):
            linears.append(leaf)
            activations.append("identity")
        elif type(leaf) in names and type(leaf) is not nn.Identity and linears and activations[-1] == "identity":
            if list(leaf.parameters()) or repr(leaf) != repr(type(leaf)()):
                raise ModelError(f"the activation {leaf!r} has options a perceptron can't hold")
            activations[-1] = names[type(leaf)]
        elif not isinstance(leaf, _INERT):
            raise ModelError(f"a perceptron is a stack of Linear layers and activations, this one holds {leaf!r}")
    if not linears or any(a.out_features != b.in_features for a, b in pairwise(linears)):
        raise ModelError("a perceptron needs at least one Linear layer, each as wide as the next expects")
    sizes = (linears[0].in_features, *(linear.out_features for linear in linears))
    architecture = Perceptron(sizes, tuple(activations), tuple(linear.bias is not None for linear in linears))
    parameters = {
        architecture.parameter(layer, name): tensor.detach()
        for layer, linear in enumerate(linears)
        for name, tensor in linear.named_parameters()
    }
    return architecture, parameters


def perceptron(config: Mapping[str, Any], shapes: Shapes) -> Perceptron:
    """The architecture a configuration describes, with the sizes of the parameters that are there.

    Raises:
        ModelError: the parameters don't fit the configuration.
    """
    try:
        activations = tuple(str(name) for name in config["activations"])
        unknown = [name for name in activations if name not in ACTIVATIONS]
        if unknown:
            raise ValueError(f"unknown activation {unknown[0]!r}")
        weights = [shapes[f"layers.{layer}.weight"] for layer in range(len(activations))]
        if any(a[0] != b[1] for a, b in pairwise(weights)):
            raise ValueError("layer widths don't fit together")
        biases = tuple(f"layers.{layer}.bias" in shapes for layer in range(len(activations)))
        return Perceptron((weights[0][1], *(shape[0] for shape in weights)), activations, biases)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"the checkpoint's parameters are not those of a perceptron: {error}") from error


def perceptron_config(architecture: Perceptron) -> dict[str, Any]:
    return {
        "model_type": "perceptron",
        "sizes": list(architecture.sizes),
        "activations": list(architecture.activations),
    }

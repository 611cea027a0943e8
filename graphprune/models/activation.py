"""Which activation a model's MLPs have."""

from collections.abc import Callable

import torch

from graphprune.core.errors import ModelError
from graphprune.models.model import Model

_KEYS = ("hidden_activation", "hidden_act", "activation_function")


def activation_of(model: Model) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation of a decoder's MLPs, element by element, as its configuration names it.

    Raises:
        ModelError: the configuration names none, or one that `transformers` doesn't know.
    """
    from transformers.activations import ACT2FN

    name = next((model.config[key] for key in _KEYS if model.config.get(key)), None)
    if name == "relu":
        return torch.relu
    if name not in ACT2FN:
        raise ModelError(f"{model.name}'s configuration names the activation {name!r}, which transformers doesn't know")
    function: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[name]
    return function

"""Causal language models of which one linear layer at a time is in memory: `accelerate` reads each when it runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import ModelError


def offloaded(config: Mapping[str, Any], stock: Mapping[str, torch.Tensor]) -> nn.Module:
    """A `transformers` causal language model in float32 whose parameters are read when a layer runs, and then dropped.

    Args:
        config: of the model.
        stock: its parameters by the network's own names; a lazy mapping is read once a forward pass.

    Raises:
        ModelError: parameters are missing or don't fit.
    """
    from accelerate import cpu_offload, init_empty_weights  # type: ignore[import-untyped]
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        with init_empty_weights(include_buffers=False):
            network: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)](settings).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"transformers cannot build the model: {error}") from error
    needed, tied = {name for name, _ in network.named_parameters()}, network.all_tied_weights_keys
    if found := (needed - tied.keys() - set(stock)) | (set(stock) - needed):
        raise ModelError(f"the network and its parameters differ in {sorted(found)[:3]}")
    cpu_offload(network, torch.device("cpu"), state_dict=_Tied(stock, tied))
    whole: nn.Module = network
    return whole


@dataclass(frozen=True)
class _Tied(Mapping[str, torch.Tensor]):
    """Parameters by stock name, those that are another's under their own names, too.

    Attributes:
        parameters: each once.
        sources: by the name of a tied parameter, the one that it is.
    """

    parameters: Mapping[str, torch.Tensor]
    sources: Mapping[str, str]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.parameters[name if name in self.parameters else self.sources[name]]

    def __contains__(self, name: object) -> bool:
        return name in self.parameters or name in self.sources

    def __iter__(self) -> Iterator[str]:
        return iter((*self.parameters, *self.sources))

    def __len__(self) -> int:
        return len(self.parameters) + len(self.sources)

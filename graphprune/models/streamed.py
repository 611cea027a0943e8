"""A decoder of which one block at a time is in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import ModelError
from graphprune.models.model import Model


class StreamedDecoder:
    """A `transformers` decoder whose parameters are read when a block is entered and dropped when it is left.

    Attributes:
        model: where the parameters come from; they may be shared with the network's, so nobody writes into them.
        body: the network without its output embedding; on the meta device but for what is entered.
        dtype: of the forward passes.
        device: of the forward passes.
    """

    def __init__(self, model: Model, *, dtype: torch.dtype | None = None, device: str = "cpu") -> None:
        from accelerate import init_empty_weights  # type: ignore[import-untyped]
        from transformers import CONFIG_MAPPING, MODEL_MAPPING

        self.model, self.device = model, device
        self.dtype = dtype or model.preferred_dtype()
        settings = CONFIG_MAPPING[model.config["model_type"]].from_dict(dict(model.config))
        settings.use_cache = False
        try:
            with init_empty_weights(include_buffers=False):
                body: Any = MODEL_MAPPING[type(settings)](settings)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"transformers cannot build the model: {error}") from error
        self.body = body.eval()
        for name, buffer in self.body.named_buffers():  # frequencies and scales, which no checkpoint holds
            owner, _, last = name.rpartition(".")
            setattr(self.body.get_submodule(owner), last, buffer.to(device))

    @contextmanager
    def entered(self, prefix: str) -> Iterator[Any]:
        """A part of the body (``layers.3``, ``embed_tokens``) with its parameters in memory.

        Raises:
            ModelError: a parameter is missing, of another shape, NaN or infinite.
        """
        part: nn.Module = self.body.get_submodule(prefix)
        try:
            for name, parameter in list(part.named_parameters()):
                self.put(part, name, self._stored(f"model.{prefix}.{name}", parameter.shape))
            yield part
        finally:
            for name, parameter in list(part.named_parameters()):
                self.put(part, name, torch.empty_like(parameter, device="meta"))

    def _stored(self, name: str, shape: torch.Size) -> torch.Tensor:
        if name not in self.model.parameters:
            raise ModelError(f"{self.model.name} has no parameter {name}")
        if (found := self.parameter(name)).shape != shape:
            raise ModelError(f"the parameter {name} is {tuple(found.shape)}, the network needs {tuple(shape)}")
        return found

    def parameter(self, name: str) -> torch.Tensor:
        return self.model.parameters[name].to(device=self.device, dtype=self.dtype)

    def put(self, part: Any, name: str, value: torch.Tensor) -> None:
        """Gives a part another parameter; the old one may be somebody else's, so it isn't overwritten."""
        owner, _, last = name.rpartition(".")
        moved = value if value.device.type == "meta" else value.to(device=self.device, dtype=self.dtype)
        setattr(part.get_submodule(owner), last, nn.Parameter(moved, requires_grad=False))

    @property
    def layers(self) -> Any:
        return self.body.layers

    def settings(self, rows: torch.Tensor) -> tuple[torch.Tensor, list[Mapping[str, Any]]]:
        """What the first block is given for some windows, and what else every block is called with."""
        found: list[Mapping[str, Any]] = []
        entering: list[torch.Tensor] = []

        def instead(*args: Any, **kwargs: Any) -> torch.Tensor:
            hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
            if not entering:
                entering.append(hidden)
            found.append({name: value for name, value in kwargs.items() if name != "hidden_states"})
            return hidden

        for layer in self.layers:
            layer.forward = instead
        try:
            with torch.inference_mode(), self.entered("embed_tokens"), self.entered("norm"):
                self.body(input_ids=rows.to(self.device), use_cache=False)
        finally:
            for layer in self.layers:
                del layer.forward
        return entering[0], found

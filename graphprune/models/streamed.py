"""A decoder of which one block at a time is in memory."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from graphprune.core.errors import ModelError
from graphprune.models.devices import AUTO, Device, Devices, spread
from graphprune.models.model import Model
from graphprune.models.naming import BLOCKS


class StreamedDecoder:
    """A `transformers` decoder whose parameters are read when a block is entered and dropped when it is left.

    Attributes:
        model: where the parameters come from; they may be shared with the network's, so nobody writes into them.
        body: the network without its output embedding; on the meta device but for what is entered.
        dtype: of the forward passes.
        devices: of the forward passes; of a block when it is entered.
        naming: what the network calls its parts.
    """

    def __init__(self, model: Model, *, dtype: torch.dtype | None = None, device: str | Devices = "cpu") -> None:
        from accelerate import init_empty_weights  # type: ignore[import-untyped]
        from transformers import CONFIG_MAPPING, MODEL_MAPPING

        self.model = model
        self.dtype = dtype or model.preferred_dtype()
        self.naming = model.naming
        self._stock = self.naming.stock(model.parameters)
        settings = CONFIG_MAPPING[model.config["model_type"]].from_dict(dict(model.config))
        settings.use_cache = False
        try:
            with init_empty_weights(include_buffers=False):
                body: Any = MODEL_MAPPING[type(settings)](settings)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"transformers cannot build the model: {error}") from error
        self.body = body.eval()
        if device == AUTO:
            device = spread(self.body, self.naming.layers, self.dtype)
        self.devices = device if isinstance(device, Devices) else Devices(device)
        for name, buffer in self.body.named_buffers():  # frequencies and scales, which no checkpoint holds
            owner, _, last = name.rpartition(".")
            setattr(self.body.get_submodule(owner), last, buffer.to(self._device_of(name)))

    def _device_of(self, name: str) -> Device:
        """The device of a part of the body, by the body's own name for it."""
        block = name.removeprefix(f"{self.naming.layers}.")
        return self.devices.outside if block == name else self.devices.of_block(int(block.split(".")[0]))

    @contextmanager
    def entered(self, prefix: str) -> Iterator[Any]:
        """A part of the body (``layers.3``, ``embed_tokens``) with its parameters in memory; the stock module.

        Raises:
            ModelError: a parameter is missing, of another shape, NaN or infinite.
        """
        module = self.naming.module(f"model.{prefix}").module
        within = module.removeprefix(self.naming.body)
        part: nn.Module = self.body.get_submodule(within)
        try:
            for name, parameter in list(part.named_parameters()):
                _set(part, name, self._stored(f"{module}.{name}", parameter.shape).to(self._device_of(within)))
            yield part
        finally:
            for name, parameter in list(part.named_parameters()):
                _set(part, name, torch.empty_like(parameter, device="meta"))

    def _stored(self, name: str, shape: torch.Size) -> torch.Tensor:
        if name not in self._stock:
            raise ModelError(f"{self.model.name} has no parameter {name}")
        found = self._stock[name].to(self.dtype)
        if found.shape != shape:
            raise ModelError(f"the parameter {name} is {tuple(found.shape)}, the network needs {tuple(shape)}")
        return found

    def put(self, block: Any, name: str, value: torch.Tensor) -> None:
        """Gives a block another parameter, by its canonical name within the block.

        The old one may be somebody else's, so it isn't overwritten.
        """
        module, _, end = name.rpartition(".")
        place = self.naming.within(module)
        stock = f"{place.module}.{end}"
        before = block.get_parameter(stock)
        _set(block, stock, place.stored(value.to(device=before.device, dtype=self.dtype), before))

    @property
    def layers(self) -> Any:
        return self.body.get_submodule(self.naming.layers)

    @property
    def _outside(self) -> tuple[str, ...]:
        """The parts of the body that aren't blocks and have parameters."""
        names = dict.fromkeys(name.rpartition(".")[0] for name in self.model.shapes if name.startswith("model."))
        return tuple(name.removeprefix("model.") for name in names if not name.startswith(BLOCKS))

    def settings(
        self, rows: Int[torch.Tensor, "windows seq_len"]
    ) -> tuple[Float[torch.Tensor, "windows seq_len d_model"], list[Mapping[str, Any]]]:
        """What the first block is given for some windows, and what else every block is called with for any of them."""
        from accelerate.utils import send_to_device  # type: ignore[import-untyped]

        found: list[Mapping[str, Any]] = []
        entering: list[torch.Tensor] = []
        names = list(inspect.signature(self.layers[0].forward).parameters)

        def instead(index: int, *args: Any, **kwargs: Any) -> torch.Tensor:
            given = dict(zip(names, args, strict=False)) | kwargs  # some classes give some of them by position
            hidden: torch.Tensor = given.pop("hidden_states")
            if index == 0:
                entering.append(hidden)
            if index == len(found):
                found.append(send_to_device(given, self.devices.of_block(index)))
            return hidden

        for index, layer in enumerate(self.layers):
            layer.forward = partial(instead, index)
        try:
            with torch.inference_mode(), ExitStack() as stack:
                for part in self._outside:
                    stack.enter_context(self.entered(part))
                for row in rows.to(self.devices.outside):
                    self.body(input_ids=row[None], use_cache=False)
        finally:
            for layer in self.layers:
                del layer.forward
        return torch.cat(entering), found


def _set(part: Any, name: str, value: torch.Tensor) -> None:
    """Replaces a parameter."""
    owner, _, last = name.rpartition(".")
    setattr(part.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))

"""The configuration of a ragged checkpoint, for `transformers`."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from graphprune.models.ragged import RAGGED


class RaggedConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """What each layer has, and the stock configuration of the decoder that the checkpoint was cut from.

    Whatever isn't said here (``vocab_size``, ``hidden_size``) is the stock configuration's.
    """

    model_type = RAGGED
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - as transformers wants it
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: Mapping[str, Any] | PreTrainedConfig | None = None,
        layers: Sequence[Mapping[str, int]] = (),
        **others: Any,
    ) -> None:
        import_module("graphprune.models.ragged_network").register()  # whoever reads one may want to run it
        stock: Any = text_config
        if isinstance(stock, Mapping):
            stock = CONFIG_MAPPING[stock["model_type"]].from_dict(dict(stock))
        self.text_config = stock
        self.layers = [dict(layer) for layer in layers]
        if stock is not None:
            others.setdefault("tie_word_embeddings", stock.tie_word_embeddings)
        super().__init__(**others)

    def __getattr__(self, name: str) -> Any:
        stock = self.__dict__.get("text_config")
        if stock is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(stock, name)


def register() -> None:
    """Lets `AutoConfig` read it."""
    AutoConfig.register(RAGGED, RaggedConfig, exist_ok=True)

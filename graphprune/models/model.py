"""A model as everything else sees it: sizes, parameters by name, a way to run it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from graphprune.core.errors import InputError, ModelError
from graphprune.core.io import read_json
from graphprune.core.units import UnitTable
from graphprune.models.architecture import (
    Architecture,
    Decoder,
    Perceptron,
    Shapes,
    check_supported,
    decoder,
    family_of,
)
from graphprune.models.checkpoint import Checkpoint, check_finite
from graphprune.models.devices import AUTO, alone
from graphprune.models.naming import CANONICAL, Canonical, Naming, naming_of
from graphprune.models.perceptron import PerceptronModule, perceptron, perceptron_config, read_perceptron
from graphprune.models.ragged import NOT_AGAIN, Ragged, is_ragged, layers_of, naming_of_layers, ragged, stock_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A network: what it looks like, its parameters, and where it came from.

    Attributes:
        name: what the user called it.
        form: its sizes.
        config: the JSON of its configuration.
        parameters: tensors by canonical name (see `naming`); read lazily where they come from a folder.
        identity: hash of configuration and weights.
        folder: where it lies, if it lies anywhere.
        text_tokenizer: a tokenizer given with an in-memory model.
    """

    name: str
    form: Architecture | Ragged
    config: Mapping[str, Any]
    parameters: Mapping[str, torch.Tensor]
    identity: str
    folder: Path | None = None
    text_tokenizer: Any = field(default=None, compare=False)

    @classmethod
    def from_folder(cls, folder: Path, *, name: str | None = None) -> "Model":
        """The model in a checkpoint folder; weights are not read yet.

        Raises:
            ModelError: the folder isn't a model, or its architecture isn't supported.
            FormatError: a file is truncated or corrupt.
        """
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is not a model: it has no config.json")
        config = read_json(folder / "config.json")
        if config.get("model_type") != "perceptron":
            check_supported(stock_config(config))
        checkpoint = Checkpoint(folder)
        parameters = naming_of_config(config).canonical(checkpoint)
        form = _form(config, _shapes(parameters))
        return cls(name or str(folder), form, config, parameters, checkpoint.identity(), folder)

    @classmethod
    def from_module(cls, module: nn.Module, *, tokenizer: Any = None, name: str = "module") -> "Model":
        """The model in a `transformers` causal language model, or in a stack of `Linear` layers and activations.

        Raises:
            ModelError: the architecture isn't supported, or a weight is NaN or infinite.
        """
        config: dict[str, Any]
        settings: Any = getattr(module, "config", None)
        if hasattr(settings, "to_json_string"):
            config = json.loads(settings.to_json_string(use_diff=False))
            check_supported(stock_config(config))
            tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
            state = {k: v.detach() for k, v in module.state_dict().items() if k not in tied}
            parameters = naming_of_config(config).canonical(state)
        else:
            architecture, parameters = read_perceptron(module)
            config = perceptron_config(architecture)
        return cls.from_parameters(config, parameters, name=name, tokenizer=tokenizer)

    @classmethod
    def from_parameters(
        cls,
        config: Mapping[str, Any],
        parameters: Mapping[str, torch.Tensor],
        *,
        name: str = "model",
        tokenizer: Any = None,
    ) -> "Model":
        """A model from its configuration and its parameters by canonical name.

        Raises:
            ModelError: they don't fit together, or a value is NaN or infinite.
        """
        total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for key in sorted(parameters):
            value = parameters[key]
            check_finite(key, value, name)
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(f"{key}{tuple(value.shape)}".encode())
            total.update(data.numpy().tobytes())
        form = _form(config, _shapes(parameters))
        return cls(name, form, config, parameters, total.hexdigest(), text_tokenizer=tokenizer)

    @cached_property
    def shapes(self) -> Shapes:
        return _shapes(self.parameters)

    @property
    def naming(self) -> Naming:
        """What the network's own class calls the parameters."""
        return CANONICAL if isinstance(self.form, Perceptron) else self.form.naming

    @property
    def architecture(self) -> Architecture:
        """The sizes of a model whose layers are alike, or of a perceptron.

        Raises:
            InputError: the layers differ.
        """
        if isinstance(self.form, Ragged):
            raise InputError(NOT_AGAIN)
        return self.form

    @cached_property
    def units(self) -> UnitTable:
        return self.architecture.unit_table(self.shapes)

    @property
    def is_perceptron(self) -> bool:
        return isinstance(self.form, Perceptron)

    @property
    def decoder(self) -> Decoder:
        """The architecture of a decoder.

        Raises:
            InputError: the model is a perceptron, or its layers differ.
        """
        if isinstance(self.architecture, Perceptron):
            raise InputError(f"{self.name} is a perceptron; this needs a language model")
        return self.architecture

    @property
    def n_parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def n_positions(self) -> int | None:
        """How many tokens can be read at a time, where positions are learned; None where there is no limit."""
        table = self.shapes.get("model.embed_positions.weight")
        if table is None or isinstance(self.form, Perceptron):
            return None
        return table[0] - self.form.family.position_offset

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: it has none.
        """
        if self.text_tokenizer is not None:
            return self.text_tokenizer
        if self.folder is None or not (self.folder / "tokenizer_config.json").is_file():
            raise ModelError(f"{self.name} has no tokenizer")
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as error:  # the tokenizers library raises nothing more special
            raise ModelError(f"transformers cannot load the tokenizer in {self.folder}: {error}") from error

    def check_tokens(self, rows: torch.Tensor) -> None:
        """Checks that the model has an embedding for every token, and for every position where these are learned.

        Raises:
            ModelError: the tokenizer, or whoever made the tokens, knows more of them than the model; or a window is
                longer than the model can read.
        """
        vocabulary = self.shapes["model.embed_tokens.weight"][0]
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < vocabulary:
            raise ModelError(
                f"{self.name} knows {vocabulary} tokens and was given token {int(rows.max())}; "
                "the tokenizer is another model's"
            )
        if self.n_positions is not None and rows.shape[-1] > self.n_positions:
            raise ModelError(
                f"{self.name} reads {self.n_positions} tokens at a time and was given a window of {rows.shape[-1]}"
            )

    def preferred_dtype(self) -> torch.dtype:
        """bfloat16 for a bfloat16 checkpoint, else float32 (float16 overflows and is slow on a CPU)."""
        first = next(iter(self.shapes))
        if (checkpoint := self._checkpoint) is not None:
            stored = self.parameters.stored_as(first) if isinstance(self.parameters, Canonical) else first
            return torch.bfloat16 if checkpoint.dtypes[stored] == "BF16" else torch.float32
        return torch.bfloat16 if self.parameters[first].dtype == torch.bfloat16 else torch.float32

    def verify(self) -> None:
        """Reads every parameter once.

        Raises:
            ModelError: one is NaN or infinite.
            FormatError: a file is damaged.
        """
        for name in self.parameters:
            self.parameters[name]

    @property
    def _checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if the parameters are what lies in it."""
        stored = self.parameters.below if isinstance(self.parameters, Canonical) else self.parameters
        return stored if isinstance(stored, Checkpoint) else None

    @property
    def _stored(self) -> Path | None:
        """The folder, if the parameters are what lies in it."""
        return None if self._checkpoint is None else self.folder

    def module(self, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> nn.Module:
        """The model, ready to run, in evaluation mode; spread by accelerate if the device is `auto`.

        Raises:
            ModelError: a weight is NaN or infinite, or `transformers` can't build it.
        """
        self.verify()
        dtype = dtype or self.preferred_dtype()
        if isinstance(self.form, Perceptron):
            network = PerceptronModule(self.form)
            network.load_state_dict({name: self.parameters[name] for name in self.parameters})
            return network.to(device=alone(str(device)), dtype=dtype).eval()
        if device == AUTO:
            return build_causal_lm(self.config, self.parameters, self._stored, dtype, device_map=AUTO).eval()
        return build_causal_lm(self.config, self.parameters, self._stored, dtype).to(device).eval()


def build_causal_lm(
    config: Mapping[str, Any],
    parameters: Mapping[str, torch.Tensor],
    folder: Path | None,
    dtype: torch.dtype,
    *,
    device_map: Mapping[str, str] | str | None = None,
) -> nn.Module:
    """A `transformers` causal language model with these parameters, by canonical name, or with a folder's.

    Args:
        config: of the model.
        parameters: by canonical name; not looked at if there is a folder.
        folder: a checkpoint.
        dtype: of the forward passes.
        device_map: where each part goes, as in `accelerate`, for a folder also to the disk; all to the CPU by default.

    Raises:
        ModelError: parameters are missing or don't fit.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    naming = naming_of_config(config)
    options = {"dtype": dtype, "output_loading_info": True, "device_map": device_map}
    _hush()
    try:
        if folder is not None:
            loaded = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, **options)
        else:
            settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
            stock = naming.stock(parameters)
            state = {name: stock[name] for name in stock}
            loaded = MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)].from_pretrained(
                None, config=settings, state_dict=state, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"transformers cannot load the model: {error}") from error
    module, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [str(name) for name in report.get(what, ()) if not naming.is_buffer(str(name))]
        if names:
            raise ModelError(f"transformers reports {what.replace('_', ' ')}: {sorted(names)[:3]}")
    return cast("nn.Module", module)


def _hush() -> None:
    """Keeps transformers and accelerate from talking about how a model is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("accelerate.big_modeling").setLevel(ERROR)


def naming_of_config(config: Mapping[str, Any]) -> Naming:
    """What the stock class of a configuration calls its parameters.

    Raises:
        ModelError: it gives no number of heads.
    """
    stock = stock_config(config)
    model_type = str(stock.get("model_type"))
    if model_type == "perceptron":
        return CANONICAL
    key = family_of(model_type).heads_key
    try:
        if (n_heads := int(stock[key])) < 1:
            raise ValueError(f"{key} is {n_heads}")
        n_kv_heads = int(stock.get("num_key_value_heads") or n_heads)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the configuration is not that of a {model_type} model: {error}") from error
    if is_ragged(config):
        return naming_of_layers(model_type, layers_of(config))
    return naming_of(model_type, n_heads, n_kv_heads)


def _shapes(parameters: Mapping[str, Any]) -> Shapes:
    """The shape of every parameter, without reading those that know theirs."""
    known: Shapes | None = getattr(parameters, "shapes", None)
    return {name: tuple(value.shape) for name, value in parameters.items()} if known is None else known


def _form(config: Mapping[str, Any], shapes: Shapes) -> Architecture | Ragged:
    if is_ragged(config):
        return ragged(config, shapes)
    return perceptron(config, shapes) if config.get("model_type") == "perceptron" else decoder(config, shapes)

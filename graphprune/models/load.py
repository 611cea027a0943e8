"""Models by folder, by hub id, or by a name that `fetch` knows."""

import re
from pathlib import Path

from torch import nn

from graphprune.core.errors import InputError
from graphprune.models.fetch import NAMED, TINY, fetch, fetch_from_hub
from graphprune.models.model import Model

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(source: str | Path | nn.Module) -> Model:
    """The model a user named.

    Args:
        source: a checkpoint folder; `tiny`, `smollm2-135m` or `gemma3-270m`; a hub id such as ``org/name``; or a
            module in memory (a `transformers` causal language model, or a stack of `Linear` and activations).

    Raises:
        InputError: there is no such folder or name.
        ModelError: it isn't a model, or its architecture isn't supported.
        NetworkError: it isn't here and can't be fetched.
    """
    if isinstance(source, nn.Module):
        return Model.from_module(source)
    text, folder = str(source), Path(source).expanduser()
    if text == TINY:
        return Model.from_folder(Path(__file__).parent / "tiny", name=TINY)
    if folder.is_dir():
        return Model.from_folder(folder.resolve(), name=text)
    if folder.is_file():
        if folder.suffix == ".gguf":
            raise InputError(f"{text} is a GGUF file; `graphprune fetch {text} --to DIR` makes a checkpoint of it")
        raise InputError(f"{text} is a file, a model is a folder")
    if text in NAMED:
        return Model.from_folder(fetch(text), name=text)
    if isinstance(source, str) and _HUB_ID.fullmatch(text) and not text.startswith("."):
        return Model.from_folder(fetch_from_hub(text), name=text)
    raise InputError(f"{text} is neither a folder, nor a hub id, nor one of {', '.join([TINY, *NAMED])}")

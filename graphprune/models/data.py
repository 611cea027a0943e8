"""Examples for perceptrons: a safetensors file with `inputs` (examples, features) and, to evaluate, `labels`."""

from pathlib import Path

import torch

from graphprune.core.errors import InputError
from graphprune.core.io import load_tensors


def read_examples(path: Path, *, labelled: bool = False) -> dict[str, torch.Tensor]:
    """The examples in a file.

    Raises:
        InputError: the file isn't there, or lacks `inputs` (or `labels`, if asked for).
        FormatError: it is no safetensors file.
    """
    tensors, _ = load_tensors(path)
    for name in ("inputs", "labels") if labelled else ("inputs",):
        if name not in tensors:
            raise InputError(f"{path} has no tensor `{name}`; a perceptron's examples are `inputs` and `labels`")
    return tensors

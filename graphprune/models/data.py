"""Examples for perceptrons: a safetensors file with `inputs` (examples, features) and, to evaluate, `labels`."""

from pathlib import Path

import torch

from graphprune.core.errors import InputError
from graphprune.core.io import load_tensors
from graphprune.models.architecture import Perceptron


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
    if labelled and tensors["labels"].shape != tensors["inputs"].shape[:1]:
        raise InputError(f"{path} has labels of shape {tuple(tensors['labels'].shape)}; it needs one an input")
    return tensors


def check_inputs(perceptron: Perceptron, inputs: torch.Tensor) -> None:
    """Checks that a perceptron can read some inputs.

    Raises:
        InputError: there are none, they have another width, or one is NaN or infinite.
    """
    width = perceptron.sizes[0]
    if inputs.ndim != 2 or inputs.shape[1] != width:
        raise InputError(f"the inputs have shape {tuple(inputs.shape)}, the perceptron takes (examples, {width})")
    if not len(inputs):
        raise InputError("there are no examples")
    if not bool(torch.isfinite(inputs).all()):
        raise InputError("the inputs have a value that is NaN or infinite")

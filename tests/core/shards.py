"""The files of a graph on disk, and how they are damaged."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("blocks-*"))


def with_tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    """Replaces the tensors of a file by others."""

    def damage(path: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        save_file(change(tensors), path)

    return damage

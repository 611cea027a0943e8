"""Parameters that say how often they are read and how many bytes of them are in memory."""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from graphprune.models.model import Model


class Resident(Mapping[str, torch.Tensor]):
    """Parameters that are made anew whenever they are read, as those of a checkpoint are.

    Attributes:
        reads: how often each has been read.
        now: bytes that somebody still holds.
        most: the largest that has been.
    """

    def __init__(self, below: Mapping[str, torch.Tensor]) -> None:
        self.below = below
        self.shapes = {name: tuple(value.shape) for name, value in below.items()}
        self.reads: Counter[str] = Counter()
        self.now = self.most = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        values = self.below[name].numpy().copy()  # torch keeps the array as long as any tensor on it
        self.reads[name] += 1
        self.now += values.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(values, self._drop, values.nbytes)
        return torch.from_numpy(values)

    def _drop(self, n_bytes: int) -> None:
        self.now -= n_bytes

    def __contains__(self, name: object) -> bool:
        return name in self.below

    def __iter__(self) -> Iterator[str]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)


def watched(model: Model) -> tuple[Model, Resident]:
    """The same model, and what says how much of it is in memory."""
    resident = Resident({name: model.parameters[name] for name in model.parameters})
    return replace(model, parameters=resident), resident


def block_bytes(model: Model) -> int:
    """Bytes of one decoder block in float32."""
    return 4 * model.decoder.block_parameters(model.shapes) // model.decoder.n_layers

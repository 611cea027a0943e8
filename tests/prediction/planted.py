"""A law that everybody knows: what the predictor should find, and what a search should make use of."""

from collections.abc import Callable, Sequence

import numpy as np

from graphprune.prediction.architecture import Architecture, Part, Space, Vectors
from graphprune.prediction.data import Data
from graphprune.prediction.pairs import Pair
from graphprune.prediction.sampling import sampled

N_LAYERS = 8
SPACE = Space(
    tuple(
        part
        for layer in range(N_LAYERS)
        for part in (Part(f"head.{layer}", layer, 100, 4, 0, 3), Part(f"neuron.{layer}", layer, 7, 100, 0, 99))
    ),
    N_LAYERS * (400 + 700),
)
TARGET = "perplexity.text"
STEEP = np.random.default_rng(5).uniform(0.2, 3.0, len(SPACE))
MOST, LEAST = SPACE.groups[int(STEEP.argmax())], SPACE.groups[int(STEEP.argmin())]


def nats(vectors: Vectors) -> np.ndarray:
    """Convex in every sparsity, with neighbouring blocks that hurt more together."""
    together = (vectors[:, :-2] * vectors[:, 2:]).sum(axis=1)
    return np.asarray(3 + vectors @ STEEP * 0.3 + np.square(vectors) @ STEEP * 0.7 + 0.2 * together)


def measure(architectures: Sequence[Architecture], noise: float = 0.0, seed: int = 0) -> list[Pair]:
    """As if they were pruned and read."""
    if not architectures:
        return []
    error = noise * np.random.default_rng(seed).standard_normal(len(architectures))
    values = np.exp(nats(SPACE.vectors(architectures)) + error)
    return [Pair(made, {TARGET: float(value)}) for made, value in zip(architectures, values, strict=True)]


def data(n: int, *, noise: float = 0.0, seed: int = 0, sparsity: float | None = None) -> Data:
    made = sampled(SPACE, n, design="untied", sparsity=sparsity, seed=seed)
    return Data.of(SPACE, measure(made, noise, seed))


class Counting:
    """A measurement that notes what it was asked for."""

    def __init__(self, real: Callable[[Sequence[Architecture]], list[Pair]] = measure) -> None:
        self.real, self.asked = real, list[str]()

    def __call__(self, architectures: Sequence[Architecture]) -> list[Pair]:
        self.asked += [made.key for made in architectures]
        return self.real(architectures)

"""Architectures to learn from: the paper's tied and untied draws, and designs that fill the space.

Source: Ji, Cao and Liu, Pruning LLMs via Accuracy Predictor (arXiv 2309.09507): ratios of 0.1 to 0.5, 400 architectures
in which every four adjacent blocks are alike, then 125 in which they aren't. With a budget the ratios are multiples of
it and every draw is moved onto it.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from graphprune.core.errors import InputError
from graphprune.prediction.architecture import Architecture, Space, Vectors

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
ADJACENT = 4
TIED = 400 / 525
PATIENCE = 20
Ratios = Float[np.ndarray, " ratios"]
Draw = Callable[[Space, int, Ratios, np.random.Generator], Vectors]


def _untied(space: Space, n: int, ratios: Ratios, rng: np.random.Generator) -> Vectors:
    return np.asarray(rng.choice(ratios, size=(n, len(space))))


def _tied(space: Space, n: int, ratios: Ratios, rng: np.random.Generator) -> Vectors:
    """The attention parts of adjacent blocks share a ratio, and so do their MLPs."""
    kinds = [(part.group.split(".")[0], part.layer // ADJACENT) for part in space.parts]
    columns = {kind: at for at, kind in enumerate(dict.fromkeys(kinds))}
    drawn = rng.choice(ratios, size=(n, len(columns)))
    return np.asarray(drawn[:, [columns[kind] for kind in kinds]])


def _paper(space: Space, n: int, ratios: Ratios, rng: np.random.Generator) -> Vectors:
    n_tied = round(TIED * n)
    return np.concatenate([_tied(space, n_tied, ratios, rng), _untied(space, n - n_tied, ratios, rng)])


def _sobol(space: Space, n: int, ratios: Ratios, rng: np.random.Generator) -> Vectors:
    points = qmc.Sobol(len(space), rng=rng).random_base2(max(n - 1, 1).bit_length())  # balanced only at powers of two
    return np.asarray(points[:n] * ratios.max())


def _latin(space: Space, n: int, ratios: Ratios, rng: np.random.Generator) -> Vectors:
    return np.asarray(qmc.LatinHypercube(len(space), rng=rng).random(n) * ratios.max())


DESIGNS: dict[str, Draw] = {"paper": _paper, "tied": _tied, "untied": _untied, "sobol": _sobol, "latin": _latin}


def sampled(
    space: Space, n: int, *, design: str = "paper", sparsity: float | None = None, seed: int = 0
) -> tuple[Architecture, ...]:
    """Different architectures, drawn with a seed.

    Args:
        space: to draw from.
        n: how many.
        design: `paper` (tied, then untied), `tied`, `untied`, or what fills the space: `sobol`, `latin`.
        sparsity: all meet this budget, exact to one unit; None leaves them free.
        seed: of the draw.

    Raises:
        InputError: the design is unknown, or the space has too few architectures.
        InfeasibleError: none meets the budget.
    """
    if design not in DESIGNS:
        raise InputError(f"no design is named {design!r}; there are {', '.join(DESIGNS)}")
    if n < 1:
        raise InputError(f"at least 1 architecture is drawn, not {n}")
    found: dict[str, Architecture] = {}
    for architecture in _drawn(space, n, DESIGNS[design], sparsity, np.random.default_rng(seed)):
        found.setdefault(architecture.key, architecture)
        if len(found) == n:
            return tuple(found.values())
    raise InputError(f"only {len(found)} different architectures were found, not {n}; ask for fewer, or protect less")


def _drawn(
    space: Space, n: int, draw: Draw, sparsity: float | None, rng: np.random.Generator
) -> Iterator[Architecture]:
    mean = float(np.mean(RATIOS))
    ratios = np.array(RATIOS) * (1.0 if sparsity is None else sparsity / mean)
    for _ in range(PATIENCE):
        for vector in draw(space, n, ratios, rng):
            yield space.realised(vector, sparsity)

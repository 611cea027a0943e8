"""Pairs as numbers: features of the architectures, damage of the targets.

Math: every target becomes a damage, lower = better: the logarithm of a perplexity, ``1 - x`` of an accuracy, anything
else (a latency) as it is. Features are the sparsities, their mean by cost, and as an option what a measure on the graph
says is removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log

import numpy as np
from jaxtyping import Float, Int

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.masks.items import removable
from graphprune.methods import Cut
from graphprune.models.model import Model
from graphprune.prediction.architecture import Space, Vectors
from graphprune.prediction.measure import ACCURACY, PERPLEXITY
from graphprune.prediction.pairs import Pair
from graphprune.prediction.regressors import REGRESSORS, Damage, Features, Regressor
from graphprune.pruning import kinds_of

Columns = Float[np.ndarray, "candidates targets"]
LEAST = 10


@dataclass(frozen=True)
class GraphFeatures:
    """What a measure on the graph says is removed, by group: the least that so many pieces can carry.

    Path masses of the units of a group add up, since no path goes through two of them, and so do credits.

    Attributes:
        curves: by group, the share of the whole model's score that goes with the lowest 0, 1, 2, ... pieces.
    """

    curves: Mapping[str, Float[np.ndarray, " pieces"]]

    @classmethod
    def of(cls, model: Model, scores: Scores, choice: Cut | None = None) -> "GraphFeatures":
        """From scores of units, such as `credit` or a centrality's.

        Raises:
            InputError: the scores don't cover the units, or add up to nothing.
        """
        choice = choice or Cut()
        kinds = kinds_of(choice, scores.kinds)
        pieces = removable(scores, model.units, kinds, head_mode=choice.heads, floor=0)
        total = sum(part.mean * part.size for part in pieces)
        if total <= 0:
            raise InputError(f"the scores of {scores.method} add up to {total:g}; features are shares of their sum")
        return cls({part.group: np.concatenate([[0.0], part.scores.cumsum(dim=0).numpy() / total]) for part in pieces})

    def __call__(self, space: Space, vectors: Vectors) -> Features:
        """A column a group, and their sum."""
        columns = []
        for group, sparsity in zip(space.groups, vectors.T, strict=True):
            curve = self.curves[group]
            columns.append(np.interp(sparsity * space.sizes[space.groups.index(group)], np.arange(len(curve)), curve))
        found = np.column_stack(columns)
        return np.column_stack([found, found.sum(axis=1)])


@dataclass(frozen=True)
class Data:
    """Pairs as numbers.

    Attributes:
        space: the architectures are from.
        targets: what is predicted, by name.
        vectors: sparsities of every pair.
        damage: of every pair, a column a target.
        graph: what a measure on the graph says of them, if features of it are wanted.
    """

    space: Space
    targets: tuple[str, ...]
    vectors: Vectors
    damage: Columns
    graph: GraphFeatures | None = None

    @classmethod
    def of(
        cls,
        space: Space,
        pairs: Sequence[Pair],
        targets: Sequence[str] | None = None,
        *,
        graph: GraphFeatures | None = None,
        needed: int = LEAST,
    ) -> "Data":
        """The pairs that have a quality; candidates that gave no finite number are left out.

        Raises:
            InputError: there are too few, a target is missing from some, or a number is NaN or infinite.
        """
        usable = [pair for pair in pairs if pair.quality]
        if len(usable) < needed:
            raise InputError(f"a predictor needs at least {needed} measured architectures, not {len(usable)}")
        names = tuple(targets or usable[0].quality)
        rows = []
        for pair in usable:
            missing = next((name for name in names if name not in pair.quality), None)
            if missing is not None:
                raise InputError(
                    f"{missing} was not measured of every architecture; there are {', '.join(pair.quality)}"
                )
            rows.append([damage_of(name, pair.quality[name]) for name in names])
        vectors = space.vectors([pair.architecture for pair in usable])
        return cls(space, names, vectors, np.array(rows), graph)

    def __len__(self) -> int:
        return len(self.vectors)

    def features(self, vectors: Vectors) -> Features:
        """Sparsities, their mean by cost, and what the graph says."""
        columns = [vectors, self.sparsities(vectors)]
        return np.column_stack(columns if self.graph is None else [*columns, self.graph(self.space, vectors)])

    def sparsities(self, vectors: Vectors) -> Float[np.ndarray, " candidates"]:
        """The share of all prunable parameters that goes."""
        return np.asarray(vectors @ (self.space.sizes * self.space.costs) / self.space.prunable)

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Data":
        return replace(self, vectors=self.vectors[rows], damage=self.damage[rows])

    def fitted(self, kind: str) -> tuple[Regressor, ...]:
        """A regressor a target."""
        X = self.features(self.vectors)
        return tuple(REGRESSORS[kind]().fit(X, column) for column in self.damage.T)


def damage_of(target: str, value: float) -> float:
    """What a quality costs, lower = better.

    Raises:
        InputError: it is NaN or infinite, or no perplexity.
    """
    if not isfinite(value) or (target.startswith(PERPLEXITY) and value <= 0):
        raise InputError(f"{target} of an architecture is {value}, which nothing can be learned from")
    if target.startswith(PERPLEXITY):
        return log(value)
    return 1 - value if target.startswith(ACCURACY) else value


def quality_of(target: str, damage: Damage) -> Damage:
    """The inverse of `damage_of`."""
    if target.startswith(PERPLEXITY):
        return np.asarray(np.exp(damage))
    return 1 - damage if target.startswith(ACCURACY) else damage

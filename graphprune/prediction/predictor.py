"""What an architecture costs, learned from pairs (Ji, Cao and Liu, arXiv 2309.09507), with intervals and importance.

Math: intervals are CV+ (Barber et al. 2021, Predictive inference with the jackknife+). With the folds' predictors
``m_-k`` and the errors ``r_i = |y_i - m_-k(i)(x_i)|`` they go from the lower quantile of ``m_-k(i)(x) - r_i`` to the
upper one of ``m_-k(i)(x) + r_i``. They hold for candidates drawn as the pairs were; those that a search picked because
they look good are not, nor are those that remove more or less than any of the pairs (see `Predictor.covers`).
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Int

from graphprune.core.errors import InputError
from graphprune.core.io import digest
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD
from graphprune.prediction.architecture import Space, Vector, Vectors
from graphprune.prediction.data import Columns, Data, quality_of
from graphprune.prediction.regressors import REGRESSORS, Features, Regressor

DEFAULT = "both"
FOLDS, REPEATS = 10, 5
STEP = 0.1
NEAR = 0.01  # of the prunable parameters: how far beyond the pairs a candidate may lie and not be extrapolated
FLAT = 1e-6  # of the steepest slope: what a group's is at least, whose units would all tie otherwise


@dataclass(frozen=True)
class Predictor:
    """What was learned from all pairs, and from all but a fold of them.

    Attributes:
        data: the pairs.
        kind: which regressor.
        whole: a regressor a target, of all pairs.
        folds: likewise without each of the folds.
        fold_of: the fold that each pair is in.
    """

    data: Data
    kind: str
    whole: tuple[Regressor, ...]
    folds: tuple[tuple[Regressor, ...], ...]
    fold_of: Int[np.ndarray, " pairs"]

    @property
    def space(self) -> Space:
        return self.data.space

    @property
    def targets(self) -> tuple[str, ...]:
        return self.data.targets

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest share of the prunable parameters that a pair removes."""
        seen = self.data.sparsities(self.data.vectors)
        return float(seen.min()), float(seen.max())

    def covers(self, vectors: Vectors) -> Bool[np.ndarray, " candidates"]:
        """Whether candidates remove as much as some pair does, give or take a hundredth; others are extrapolated."""
        least, most = self.reach
        asked = self.data.sparsities(vectors)
        return np.asarray((asked > least - NEAR) & (asked < most + NEAR))

    def damage(self, vectors: Vectors) -> Columns:
        """The predicted damage, a column a target."""
        return _predicted(self.whole, self.data.features(vectors))

    def predict(self, vectors: Vectors) -> Columns:
        """The predicted quality: perplexities as such."""
        return _as_quality(self.targets, self.damage(vectors))

    def intervals(self, vectors: Vectors, level: float = 0.9) -> tuple[Columns, Columns]:
        """Between which qualities the measured one lies, with the given probability; lower and upper end.

        Raises:
            InputError: the level is no probability, or needs more pairs.
        """
        found = [_as_quality(self.targets, end) for end in self.damage_intervals(vectors, level)]
        return np.minimum(*found), np.maximum(*found)

    def damage_intervals(self, vectors: Vectors, level: float = 0.9) -> tuple[Columns, Columns]:
        """The same of the damage."""
        n = len(self.data)
        if not 0 < level < 1:
            raise InputError(f"the level of an interval is between 0 and 1, not {level:g}")
        rank = ceil(level * (n + 1))
        if rank > n:
            raise InputError(f"intervals that hold at {level:g} need {ceil(level / (1 - level))} pairs, not {n}")
        errors = np.abs(self.data.damage - self.held_out())[:, None, :]
        predicted = np.array([_predicted(fold, self.data.features(vectors)) for fold in self.folds])[self.fold_of]
        low = -np.sort(errors - predicted, axis=0)[rank - 1]  # the upper end of what is turned around
        return low, np.sort(predicted + errors, axis=0)[rank - 1]

    def held_out(self) -> Columns:
        """The predicted damage of every pair by the fold that hasn't seen it."""
        return self._by_folds(self.data.vectors)

    def _by_folds(self, vectors: Vectors) -> Columns:
        """Row i by the fold that hasn't seen pair i."""
        X, result = self.data.features(vectors), np.empty_like(self.data.damage)
        for number, fold in enumerate(self.folds):
            rows = self.fold_of == number
            result[rows] = _predicted(fold, X[rows])
        return result

    def importance(
        self, target: str | None = None, *, repeats: int = REPEATS, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """By group, how much the held-out mean squared error of the damage grows when its sparsities are shuffled.

        The mean over shuffles, and their standard deviation.
        """
        at, rng = self._column(target), np.random.default_rng(seed)
        truth = self.data.damage[:, at]
        base = float(np.square(self.held_out()[:, at] - truth).mean())
        found = {}
        for column, group in enumerate(self.space.groups):
            grown = []
            for _ in range(repeats):
                vectors = self.data.vectors.copy()
                vectors[:, column] = rng.permutation(vectors[:, column])
                grown.append(float(np.square(self._by_folds(vectors)[:, at] - truth).mean()) - base)
            found[group] = (float(np.mean(grown)), float(np.std(grown)))
        return found

    def _column(self, target: str | None) -> int:
        if target is not None and target not in self.targets:
            raise InputError(f"{target} is not predicted; there are {', '.join(self.targets)}")
        return 0 if target is None else self.targets.index(target)

    def scores(self, units: Scores, *, at: Vector | None = None, target: str | None = None) -> Scores:
        """The predicted damage of removing each unit, and each sub-block, by finite differences; higher = keep.

        Math: a group's slope is ``(f(s + h e_g) - f(s - h e_g)) / 2h`` at sparsities ``s``, between those of the pairs.
        A predictor of sparsities can't tell units apart, so each gets a share of the slope as the other scores have it;
        where the damage doesn't grow, of a slope that is next to nothing, so that the units keep their order.
        A sub-block's score is what it costs to take it from its least to its largest sparsity among the pairs.

        Args:
            units: scores of the units that the candidates were chosen by.
            at: sparsities around which damage is predicted; the mean of the pairs by default.
            target: which one; the first by default.
        """
        column, vectors = self._column(target), self.data.vectors
        middle = vectors.mean(axis=0) if at is None else at
        slopes, whole = np.zeros(len(self.space.parts)), np.zeros(len(self.space.parts))
        for index in range(len(self.space.parts)):
            least, most = float(vectors[:, index].min()), float(vectors[:, index].max())
            ends = np.clip([middle[index] - STEP, middle[index] + STEP, least, most], least, most)
            probes = np.repeat(middle[None], 4, axis=0)
            probes[:, index] = ends
            low, high, first, last = self.damage(probes)[:, column].tolist()
            slopes[index] = max(high - low, 0.0) / max(float(ends[1] - ends[0]), 1e-9)
            whole[index] = max(last - first, 0.0)
        flat = FLAT * float(slopes.max(initial=0.0)) or FLAT
        values: dict[str, torch.Tensor] = {}
        for part, slope, cost in zip(self.space.parts, np.maximum(slopes, flat), whole, strict=True):
            given = units.values[part.group].double().clamp_min(0)
            values[part.group] = (float(slope) * given / max(float(given.sum()), 1e-30)).float()
            module = "attn" if part.group.startswith(HEAD) else "mlp"
            values[f"block.{part.layer}.{module}"] = torch.tensor([float(cost)])
        options = {"kind": self.kind, "target": self.targets[column], "pairs": len(self.data), "units": units.method}
        inputs = digest([units.inputs, options, self.data.vectors.tolist(), self.data.damage.tolist()])
        return Scores(values, "predictor", options, units.model, inputs)


def learn(data: Data, *, kind: str = DEFAULT, n_folds: int = FOLDS, seed: int = 0) -> Predictor:
    """A predictor from pairs.

    Args:
        data: the pairs.
        kind: of `REGRESSORS`.
        n_folds: how often it is learned again without some of them, for intervals and reports.
        seed: of the folds.

    Raises:
        InputError: the kind is unknown, or scikit-learn isn't installed.
    """
    if kind not in REGRESSORS:
        raise InputError(f"no predictor is named {kind!r}; there are {', '.join(REGRESSORS)}")
    fold_of = np.random.default_rng(seed).permutation(np.arange(len(data)) % min(n_folds, len(data)))
    folds = tuple(data.taken(np.flatnonzero(fold_of != fold)).fitted(kind) for fold in range(fold_of.max() + 1))
    return Predictor(data, kind, data.fitted(kind), folds, fold_of)


def _predicted(regressors: tuple[Regressor, ...], X: Features) -> Columns:
    return np.column_stack([regressor.predict(X) for regressor in regressors])


def _as_quality(targets: tuple[str, ...], damage: Columns) -> Columns:
    return np.column_stack([quality_of(name, column) for name, column in zip(targets, damage.T, strict=True)])

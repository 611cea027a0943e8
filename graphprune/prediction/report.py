"""How good a predictor is: on pairs that it hasn't seen, and over the number of those that it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau, spearmanr

from graphprune.core.errors import InputError
from graphprune.prediction.data import LEAST, Data
from graphprune.prediction.predictor import DEFAULT, FOLDS, REPEATS, Predictor, learn
from graphprune.prediction.regressors import REGRESSORS

OUTER, TESTED = 5, 5
SHARES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured damage.

    Attributes:
        spearman, kendall: of the ranks.
        r2: the share of the variance that is explained.
        mae: mean absolute error; nats a token for a perplexity.
    """

    spearman: float
    kendall: float
    r2: float
    mae: float

    @classmethod
    def of(cls, predicted: Float[np.ndarray, " pairs"], measured: Float[np.ndarray, " pairs"]) -> "Agreement":
        """0 for ranks where either never changes."""
        error, spread = predicted - measured, float(np.square(measured - measured.mean()).sum())
        is_flat = np.ptp(predicted) == 0 or np.ptp(measured) == 0
        return cls(
            0.0 if is_flat else float(spearmanr(predicted, measured).statistic),
            0.0 if is_flat else float(kendalltau(predicted, measured).statistic),
            1 - float(np.square(error).sum()) / spread if spread > 0 else 0.0,
            float(np.abs(error).mean()),
        )


def agreement(predictor: Predictor) -> dict[str, Agreement]:
    """By target, on held-out pairs."""
    columns = zip(predictor.targets, predictor.held_out().T, predictor.data.damage.T, strict=True)
    return {name: Agreement.of(predicted, measured) for name, predicted, measured in columns}


def compared(data: Data, *, seed: int = 0) -> dict[str, Agreement]:
    """Every kind of predictor on held-out pairs, averaged over targets."""
    found = {}
    for kind in REGRESSORS:
        rows = [vars(each) for each in agreement(learn(data, kind=kind, seed=seed)).values()]
        found[kind] = Agreement(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})
    return found


def best_kind(comparison: Mapping[str, Agreement]) -> str:
    """The kind whose held-out ranks agree best; the earlier one of two that are alike."""
    return max(comparison, key=lambda kind: comparison[kind].spearman)


def coverage(data: Data, *, kind: str = DEFAULT, level: float = 0.9, seed: int = 0) -> float:
    """The share of held-out pairs that lie in their intervals, over all targets, by an outer cross validation."""
    fold_of = np.random.default_rng(seed).permutation(np.arange(len(data)) % OUTER)
    inside = []
    for fold in range(OUTER):
        seen, unseen = data.taken(np.flatnonzero(fold_of != fold)), data.taken(np.flatnonzero(fold_of == fold))
        predictor = learn(seen, kind=kind, n_folds=FOLDS, seed=seed)
        low, high = predictor.damage_intervals(unseen.vectors, level)
        inside.append((low <= unseen.damage) & (unseen.damage <= high))
    return float(np.concatenate(inside).mean())


def learning_curve(
    data: Data, sizes: Sequence[int] | None = None, *, kind: str = DEFAULT, repeats: int = REPEATS, seed: int = 0
) -> dict[int, tuple[float, float]]:
    """By number of pairs, the mean Spearman correlation on those left out, over draws and targets; and its deviation.

    Raises:
        InputError: a size leaves too few to learn from, or too few to test on.
    """
    rng, n = np.random.default_rng(seed), len(data)
    chosen = sizes or sorted({max(LEAST, round(share * n)) for share in SHARES if round(share * n) <= n - TESTED})
    found = {}
    for size in chosen:
        if not LEAST <= size <= n - TESTED:
            raise InputError(f"a learning curve over {n} pairs goes from {LEAST} to {n - TESTED}, not {size}")
        values = []
        for _ in range(repeats):
            order = rng.permutation(n)
            seen, unseen = data.taken(order[:size]), data.taken(order[size:])
            X = data.features(unseen.vectors)
            for regressor, measured in zip(seen.fitted(kind), unseen.damage.T, strict=True):
                values.append(Agreement.of(regressor.predict(X), measured).spearman)
        found[size] = (float(np.mean(values)), float(np.std(values)))
    return found

"""Laws from features to a damage: boosted trees, a convex law, and trees on what that leaves.

- `trees`: boosted trees that never fall as a feature rises (no sparsity helps).
- `linear`: ``b + sum_jk a_jk x_j^k`` over the powers ``k = 1, 2, 4, 8`` with ``a >= 0``, by non-negative least squares
  with a small ridge: convex, and steep where almost all of a layer goes.
- `both`: trees on what `linear` leaves, so that the law is smooth between the pairs and goes on beyond them.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from graphprune.core.errors import InputError

Features = Float[np.ndarray, "candidates features"]
Damage = Float[np.ndarray, " candidates"]
RIDGE, POWERS = 1e-4, (1, 2, 4, 8)


@runtime_checkable  # the shape checker asks
class Regressor(Protocol):
    """A law from features to a damage."""

    def fit(self, X: Features, y: Damage) -> "Regressor": ...

    def predict(self, X: Features) -> Damage: ...


class Trees:
    """Boosted trees; monotone ones never fall as a feature rises."""

    def __init__(self, *, monotone: bool = True, n_trees: int = 200) -> None:
        self.monotone, self.n_trees = monotone, n_trees

    def fit(self, X: Features, y: Damage) -> "Trees":
        self._model = boosting()(
            max_iter=self.n_trees, learning_rate=0.05, max_depth=3, min_samples_leaf=max(2, len(y) // 20),
            l2_regularization=0.1, early_stopping=False, monotonic_cst=[int(self.monotone)] * X.shape[1],
        ).fit(X, y)  # fmt: skip
        return self

    def predict(self, X: Features) -> Damage:
        return np.asarray(self._model.predict(X))


class Linear:
    """A convex law that no sparsity lowers: non-negative least squares on powers of the features."""

    def fit(self, X: Features, y: Damage) -> "Linear":
        A = _powers(X)
        free = np.column_stack([A, np.ones(len(A)), -np.ones(len(A))])  # an intercept of either sign
        ridge = np.sqrt(RIDGE * len(A)) * np.eye(A.shape[1], free.shape[1])
        self._weights, _ = nnls(np.concatenate([free, ridge]), np.concatenate([y, np.zeros(A.shape[1])]))
        return self

    def predict(self, X: Features) -> Damage:
        return np.asarray(_powers(X) @ self._weights[:-2] + self._weights[-2] - self._weights[-1])


class Both:
    """Trees on what the convex law leaves."""

    def fit(self, X: Features, y: Damage) -> "Both":
        self._law = Linear().fit(X, y)
        self._rest = Trees(monotone=False, n_trees=100).fit(X, y - self._law.predict(X))
        return self

    def predict(self, X: Features) -> Damage:
        return np.asarray(self._law.predict(X) + self._rest.predict(X))


REGRESSORS: dict[str, Callable[[], Regressor]] = {"trees": Trees, "linear": Linear, "both": Both}


def boosting() -> Any:
    """scikit-learn's boosted trees.

    Raises:
        InputError: it isn't installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError:
        raise InputError("scikit-learn is not installed; `pip install graphprune[search]` installs it") from None
    return HistGradientBoostingRegressor


def _powers(X: Features) -> Float[np.ndarray, "candidates powers"]:
    return np.column_stack([X**power for power in POWERS])

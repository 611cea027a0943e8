"""SparseLLM as its definition reads: one objective, minimised over one block of variables at a time by its values.

Tokens are rows, biases are added, everything is float64. Nothing is shared with the package but the order of the steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import erf, expit

Array = np.ndarray[Any, np.dtype[np.float64]]
Keep = np.ndarray[Any, np.dtype[np.bool_]]
Values = dict[str, Array]
PHIS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda s: np.maximum(s, 0.0),
    "silu": lambda s: s * expit(s),
    "tanh": np.tanh,
    "gelu": lambda s: s * (1 + erf(s / np.sqrt(2))) / 2,
    "identity": lambda s: s,
}


@dataclass(frozen=True)
class Net:
    """A gated MLP (gate, up, down), or linear layers with activations between them.

    Attributes:
        weights: of its layers.
        biases: of its layers, zero where there are none.
        phi: the name of the activation.
        gated: which of the two.
    """

    weights: Sequence[Array]
    biases: Sequence[Array]
    phi: str
    gated: bool

    def linear(self, layer: int, X: Array) -> Array:
        return X @ self.weights[layer].T + self.biases[layer]

    def values(self, X: Array) -> Values:
        """What is computed on the way: of a gated MLP ``s``, ``z`` and ``p``, else ``z0``, ``a0``, ``z1``, ..."""
        phi, found = PHIS[self.phi], Values()
        if self.gated:
            s, z = self.linear(0, X), self.linear(1, X)
            return {"s": s, "z": z, "p": phi(s) * z}
        for layer in range(len(self.weights) - 1):
            found[f"z{layer}"] = self.linear(layer, found[f"a{layer - 1}"] if layer else X)
            found[f"a{layer}"] = phi(found[f"z{layer}"])
        return found

    @property
    def read_last(self) -> str:
        """The name of what the last layer reads."""
        return "p" if self.gated else f"a{len(self.weights) - 2}"

    def output(self, X: Array) -> Array:
        """Without the last bias."""
        return self.values(X)[self.read_last] @ self.weights[-1].T

    def error(self, weights: Sequence[Array], X: Array) -> float:
        """The relative squared error of the output with other weights."""
        Y = self.output(X)
        return float(np.square(replace(self, weights=weights).output(X) - Y).sum() / np.square(Y).sum())


@dataclass(frozen=True)
class Relaxed:
    """A network whose inner values are variables of their own.

    Attributes:
        net: the network with the weights that it has now.
        X: what it reads.
        Y: what it should give, its last bias subtracted.
        alpha: of each hidden layer.
        beta: of the output.
        gamma: of each activation.
    """

    net: Net
    X: Array
    Y: Array
    alpha: Sequence[float]
    beta: float
    gamma: Sequence[float]

    def costs(self, at: Values) -> Array:
        """The objective of every token."""
        net, phi = self.net, PHIS[self.net.phi]
        parts = [self.beta * np.square(self.Y - at[net.read_last] @ net.weights[-1].T)]
        if net.gated:
            parts.append(self.gamma[0] * np.square(at["p"] - phi(at["s"]) * at["z"]))
            parts.append(self.alpha[0] * np.square(at["s"] - net.linear(0, self.X)))
            parts.append(self.alpha[1] * np.square(at["z"] - net.linear(1, self.X)))
        else:
            for layer in range(len(net.weights) - 1):
                z, a, read = at[f"z{layer}"], at[f"a{layer}"], at[f"a{layer - 1}"] if layer else self.X
                parts.append(self.gamma[layer] * np.square(a - phi(z)))
                parts.append(self.alpha[layer] * np.square(z - net.linear(layer, read)))
        result: Array = np.sum([part.sum(axis=1) for part in parts], axis=0)
        return result

    def objective(self, at: Values) -> float:
        return float(self.costs(at).sum())

    def with_quadratic(self, at: Values, name: str) -> Values:
        """The values with the block that the objective is a quadratic function of at its minimum.

        Its gradient and curvature are differences of its values, which are exact for a quadratic function.
        """
        width = at[name].shape[1]
        unit = np.eye(width)

        def cost(move: Array) -> Array:
            return self.costs(at | {name: at[name] + move})

        here, plus = cost(np.zeros(width)), [cost(e) for e in unit]
        gradient = np.stack([(p - cost(-e)) / 2 for p, e in zip(plus, unit, strict=True)], axis=1)
        curvature = np.zeros((len(here), width, width))
        for i in range(width):
            for j in range(width):
                curvature[:, i, j] = cost(unit[i] + unit[j]) - plus[i] - plus[j] + here
        return at | {name: at[name] - np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]}

    def with_scalars(self, at: Values, name: str) -> Values:
        """The values with the block whose elements have nothing to do with each other at its global minimum.

        Found on ever finer grids; the objective has one minimum on each side of zero.
        """
        best = at[name].copy()
        tokens = np.arange(len(best))
        for column in range(best.shape[1]):
            found, least = np.zeros(len(best)), np.full(len(best), np.inf)
            for start in (-20.0, 0.0):  # each side
                low, high = np.full(len(best), start), np.full(len(best), start + 20.0)
                for _ in range(12):
                    grid = np.linspace(low, high, 33)
                    moved = [
                        at[name] + (g - at[name][:, column])[:, None] * np.eye(best.shape[1])[column] for g in grid
                    ]
                    costs = np.stack([self.costs(at | {name: values}) for values in moved])
                    lowest = costs.argmin(axis=0)
                    low, high = grid[np.maximum(lowest - 1, 0), tokens], grid[np.minimum(lowest + 1, 32), tokens]
                better = costs.min(axis=0) < least
                found, least = np.where(better, grid[lowest, tokens], found), np.minimum(least, costs.min(axis=0))
            best[:, column] = found
        return at | {name: best}

    def with_step(
        self, at: Values, name: str, activated: str, factor: Array | float, alpha: float, gamma: float
    ) -> Values:
        """The values after one Gauss-Newton step of what an activation reads, if it lowers the objective.

        The slope is a difference of values, and the step the least-squares solution of the linearised residuals.
        """
        phi, s = PHIS[self.net.phi], at[name]
        slope = (phi(s + 1e-6) - phi(s - 1e-6)) / 2e-6 * factor
        missed = at[activated] - phi(s) * factor
        step = np.zeros_like(s)
        for place in np.ndindex(s.shape):
            J = np.array([[np.sqrt(gamma) * slope[place]], [np.sqrt(alpha)]])
            step[place] = np.linalg.lstsq(J, np.array([np.sqrt(gamma) * missed[place], 0.0]))[0][0]

        def cost(moved: Array) -> Array:
            return gamma * np.square(at[activated] - phi(moved) * factor) + alpha * np.square(moved - s)

        return at | {name: np.where(cost(s + step) < cost(s), s + step, s)}


Choose = Callable[[int, Array, Array], tuple[Array, Keep]]


def published(
    net: Net, X: Array, choose: Choose, rounds: int, *, alpha: float = 5.0, beta: float = 5.0, gamma: float = 5.0
) -> tuple[list[Array], list[Keep], list[float]]:
    """The published alternation of a gated MLP, or of two layers with a ReLU: weights, masks, errors of all rounds.

    Args:
        net: the dense network.
        X: what it reads, a token a row.
        choose: prunes a layer, given its number, weights and what it reads (a token a row).
        rounds: the local one among them.
        alpha: of the hidden layers.
        beta: of the last layer.
        gamma: of the activation.
    """
    phi, Y, (first, last) = PHIS[net.phi], net.output(X), (range(len(net.weights) - 1), len(net.weights) - 1)
    pruned = [choose(layer, net.weights[layer], X) for layer in first]
    weights, keep = [W for W, _ in pruned], [stays for _, stays in pruned]
    behind = replace(net, weights=[*weights, net.weights[-1]]).values(X)[net.read_last]
    W, stays = choose(last, net.weights[-1], behind)
    weights, keep = [*weights, W], [*keep, stays]
    errors, at = [net.error(weights, X)], net.values(X)
    names = ["s", "z"] if net.gated else ["z0"]
    for _ in range(rounds - 1):
        now, down = replace(net, weights=weights), weights[-1]
        given = phi(at["s"]) * at["z"] if net.gated else phi(at["z0"])
        left = beta * down.T @ down + gamma * np.eye(down.shape[1])
        p = np.linalg.solve(left, (beta * Y @ down + gamma * given).T).T.astype(np.float64)
        if net.gated:
            m, gate = now.linear(1, X), phi(at["s"])
            z = (alpha * m + gamma * gate * p) / (alpha + gamma * gate**2)
            s, mean = at["s"], now.linear(0, X)
            for _ in range(2):
                slope = expit(s) * (1 + s * (1 - expit(s)))  # of the SiLU
                s = s - 0.01 * (2 * alpha * (s - mean) - 2 * gamma * (p - phi(s) * z) * z * slope)
            at = {"s": s, "z": z, "p": p}
        else:
            at = {"z0": _relu_minimum(p, now.linear(0, X), alpha, gamma), "a0": p}
        weights, keep = [], []
        for layer, name in enumerate(names):
            W, stays = choose(layer, _ridge(at[name] - net.biases[layer], X), X)
            weights, keep = [*weights, W], [*keep, stays]
        W, stays = choose(last, _ridge(Y, p), p)
        weights, keep = [*weights, W], [*keep, stays]
        errors.append(net.error(weights, X))
    return weights, keep, errors


def _relu_minimum(p: Array, m: Array, alpha: float, gamma: float) -> Array:
    """The better of the two candidates, each replaced by zero where it has the wrong sign."""
    positive, negative = (gamma * p + alpha * m) / (gamma + alpha), m
    tried = np.stack([np.where(positive >= 0, positive, 0.0), np.where(negative <= 0, negative, 0.0)])
    costs = gamma * np.square(p - np.maximum(tried, 0.0)) + alpha * np.square(tried - m)
    best: Array = np.where(costs[0] < costs[1], tried[0], tried[1])
    return best


def _ridge(given: Array, read: Array) -> Array:
    """``given`` regressed on ``read``, with a thousandth of an input's mean square on the diagonal."""
    H = read.T @ read
    result: Array = np.linalg.solve(H + 1e-3 * np.diag(H).mean() * np.eye(len(H)), read.T @ given).T
    return result

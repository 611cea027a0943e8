"""Small networks that are solved as a whole: a decoder's MLP, gated or not, or a whole perceptron.

Both are linear layers with activations between them, and both can tell

- ``sources``: per hidden layer, the first that reads the same;
- ``reads`` and ``hidden``: what every hidden layer reads and gives, biases added;
- ``activations``: what is tied by each ``gamma``, the last of which is ``features``, what the last layer reads;
- ``gains``: what ``wanted`` needs to know of the weights, the same for all tokens;
- ``wanted``: what every hidden layer should give for the last to give ``Y``, its bias subtracted: one round of
  auxiliary variables, beginning where the weights put them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from graphprune.solvers.auxiliary import (
    Activation,
    activation_input,
    factor_of,
    read_by,
    reading_gain,
    relu_input,
    with_slope,
)

Tokens = Float[torch.Tensor, "tokens _width"]
Matrices = Sequence[Float[torch.Tensor, "_rows _columns"]]
Bias = Float[torch.Tensor, "..."] | None  # of a layer's rows; of every token, where each has its own


@dataclass(frozen=True)
class Scales:
    """What a unit of squared error counts for, per linear layer, per activation and at the output (`auxiliary`).

    Attributes:
        alpha: of each hidden linear layer.
        beta: of the output.
        gamma: of each activation, or product of one with a factor.
    """

    alpha: tuple[float, ...]
    beta: float
    gamma: tuple[float, ...]


@dataclass(frozen=True)
class Wanted:
    """What a hidden layer should give.

    Attributes:
        read: what it reads.
        given: what it should give, its bias subtracted.
        moved: how much that is more than what it gives now.
    """

    read: Tokens
    given: Tokens
    moved: Tokens


def linear(X: Tokens, W: torch.Tensor, bias: Bias) -> Tokens:
    """``X W^T + b`` in float32; the product is computed in the type of ``X``."""
    product = (X @ W.to(X.dtype).t()).float()
    return product if bias is None else product + bias.float()


@dataclass(frozen=True)
class Gated:
    """``W_down (phi(W_gate x) * W_up x)``; its layers are gate, up, down.

    Attributes:
        phi: the activation.
        biases: of the three.
    """

    phi: Activation
    biases: tuple[Bias, ...] = (None, None, None)

    @property
    def sources(self) -> tuple[int, ...]:
        return (0, 0)

    def hidden(self, weights: Matrices, X: Tokens) -> list[Tokens]:
        return [linear(X, W, b) for W, b in zip(weights[:2], self.biases[:2], strict=True)]

    def features(self, weights: Matrices, X: Tokens) -> Tokens:
        s, z = self.hidden(weights, X)
        return self.phi(s) * z

    def activations(self, weights: Matrices, X: Tokens) -> list[Tokens]:
        return [self.features(weights, X)]

    def reads(self, weights: Matrices, X: Tokens) -> list[Tokens]:  # noqa: ARG002 - a chain's depend on them
        return [X, X]

    def gains(self, weights: Matrices, scales: Scales) -> Matrices:
        return [reading_gain(weights[2], scales.gamma[0] / scales.beta)]

    def wanted(self, weights: Matrices, gains: Matrices, X: Tokens, Y: Tokens, scales: Scales) -> list[Wanted]:
        s, z = self.hidden(weights, X)
        (gamma,) = scales.gamma
        value, slope = with_slope(self.phi, s)
        p = read_by(weights[2].to(X.dtype), gains[0], Y, value * z)
        up = factor_of(p, value, z, scales.alpha[1], gamma)
        gate = activation_input(self.phi, p, up, s, scales.alpha[0], gamma, (value, slope))
        return [Wanted(X, without(gate, self.biases[0]), gate - s), Wanted(X, without(up, self.biases[1]), up - z)]


@dataclass(frozen=True)
class Chain:
    """Linear layers one after the other, an activation behind each but the last: OPT's MLP, or a whole perceptron.

    Attributes:
        phis: the activations.
        biases: of all layers.
    """

    phis: tuple[Activation, ...]
    biases: tuple[Bias, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(range(len(self.phis)))

    def hidden(self, weights: Matrices, X: Tokens) -> list[Tokens]:
        return self._run(weights, X)[0]

    def features(self, weights: Matrices, X: Tokens) -> Tokens:
        return self._run(weights, X)[1][-1]

    def activations(self, weights: Matrices, X: Tokens) -> list[Tokens]:
        return self._run(weights, X)[1]

    def reads(self, weights: Matrices, X: Tokens) -> list[Tokens]:
        return [X, *self._run(weights, X)[1][:-1]]

    def _run(self, weights: Matrices, X: Tokens) -> tuple[list[Tokens], list[Tokens]]:
        given, activated = list[Tokens](), list[Tokens]()
        for W, bias, phi in zip(weights[:-1], self.biases[:-1], self.phis, strict=True):
            given.append(linear(activated[-1].to(X.dtype) if activated else X, W, bias))
            activated.append(phi(given[-1]))
        return given, activated

    def gains(self, weights: Matrices, scales: Scales) -> Matrices:
        costs = (*scales.alpha[1:], scales.beta)
        return [reading_gain(W, gamma / c) for W, gamma, c in zip(weights[1:], scales.gamma, costs, strict=True)]

    def wanted(self, weights: Matrices, gains: Matrices, X: Tokens, Y: Tokens, scales: Scales) -> list[Wanted]:
        z, a = self._run(weights, X)
        result, target = list[Wanted](), Y
        for layer in reversed(range(len(z))):
            gamma, alpha = scales.gamma[layer], scales.alpha[layer]
            a[layer] = read_by(weights[layer + 1].to(X.dtype), gains[layer], target, a[layer])
            if layer + 1 < len(z):
                result[-1] = replace(result[-1], read=a[layer])
            if self.phis[layer] is torch.relu:
                should = relu_input(a[layer], z[layer], alpha, gamma)
            else:
                should = activation_input(self.phis[layer], a[layer], 1.0, z[layer], alpha, gamma)
            target = without(should, self.biases[layer])
            result.append(Wanted(X, target, should - z[layer]))
        return result[::-1]


def without(given: Tokens, bias: Bias) -> Tokens:
    return given if bias is None else given - bias.float()


Network = Gated | Chain

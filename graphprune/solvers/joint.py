"""A small network pruned as a whole: its layers make up for each other (SparseLLM, Bai et al. 2024, made to descend).

The published alternation refits dense weights from auxiliary variables and prunes them anew each time, which throws
away what was won. Here masks are chosen once, and everything that follows lowers the error of the network's output:

1. the local step: every layer pruned on its own, what the paper begins with and what the result is never worse than;
2. masks of hidden layers chosen by what an error of each of their rows does to the output, survivors refitted to the
   dense outputs by least squares; the last layer fitted to the dense network's output, not to that of its own inputs;
3. then again and again: auxiliary variables from where the weights put them, one exact or safeguarded minimisation
   each; hidden weights refitted to them inside their masks; a search along that direction for the least error of the
   output. In the end the last layer is fitted anew, and all of it kept if it errs less over all tokens.

Auxiliary variables live as long as a chunk of tokens is looked at, so that memory doesn't grow with their number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float

from graphprune.core.errors import InputError
from graphprune.solvers.hessian import Hessian, inverse
from graphprune.solvers.network import Matrices, Network, Scales, linear, without
from graphprune.solvers.refit import lack, refit

Tokens = Float[torch.Tensor, "_tokens _width"]
Weights = Float[torch.Tensor, "_rows _columns"]
Keep = Bool[torch.Tensor, "_rows _columns"]
Variant = Literal["exact", "published"]
JointMethod = Literal["sparsellm", "reconstruct"]
Choose = Callable[[int, Weights, Hessian], tuple[Keep, Weights]]
PROBE_TOKENS, SEARCH_TOKENS = 2048, 1024
LONGEST = 64.0
STEPS, TURN_STEPS = 10, 5  # of conjugate gradients


@dataclass(frozen=True)
class JointOptions:
    """How a network is pruned as a whole.

    Attributes:
        iterations: rounds, the local step among them; no round follows one that paid too little.
        alpha: what missing a hidden layer's output counts for, times one over its mean square; 1 if not given. As it is
            in the published variant, where it is 5.
        beta: likewise the network's output.
        gamma: likewise an activation.
        chunk: tokens whose auxiliary variables are in memory at a time.
        tolerance: a round that lowers the error by less than this share of it is the last.
        variant: `exact`, or the paper's own alternation, see `published`.
    """

    iterations: int = 4
    alpha: float | None = None
    beta: float | None = None
    gamma: float | None = None
    chunk: int = 256
    tolerance: float = 0.03
    variant: Variant = "exact"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"at least 1 iteration is made, the local step, not {self.iterations}")
        for name in ("alpha", "beta", "gamma"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is a penalty above 0, not {value:g}")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"the tolerance is a share from 0 to below 1, not {self.tolerance:g}")
        if self.chunk < 1:
            raise InputError(f"a chunk has at least 1 token, not {self.chunk}")
        if self.variant not in get_args(Variant):
            raise InputError(f"the variant is {' or '.join(get_args(Variant))}, not {self.variant!r}")


@dataclass(frozen=True)
class Text:
    """What a network reads and should give.

    Attributes:
        inputs: batch after batch, in the type that forward products are computed in.
        outputs: of the dense network, its last bias subtracted.
        squares: the sum of their squares.
    """

    inputs: Sequence[Tokens]
    outputs: Sequence[Tokens]
    squares: float

    @classmethod
    def of(cls, network: Network, dense: Matrices, inputs: Sequence[Tokens], chunk: int) -> "Text":
        """Both, in chunks of so many tokens."""
        pieces = [piece for batch in inputs for piece in torch.split(batch, chunk)]
        weights = cast(dense, pieces)
        outputs = [linear(network.features(weights, X).to(X.dtype), weights[-1], None) for X in pieces]
        return cls(pieces, outputs, sum(float(Y.square().sum(dtype=torch.float64)) for Y in outputs))

    def probe(self, n_tokens: int = PROBE_TOKENS) -> tuple[Tokens, Tokens]:
        """Some of it, spread evenly: the same whatever the chunks are."""
        total = sum(len(X) for X in self.inputs)
        stride, start, picked = -(-total // n_tokens), 0, []
        for X, Y in zip(self.inputs, self.outputs, strict=True):
            first = -start % stride
            picked.append((X[first::stride], Y[first::stride]))
            start += len(X)
        return torch.cat([X for X, _ in picked]), torch.cat([Y for _, Y in picked])


class Moments:
    """What least squares needs of what a layer reads and should give.

    Args:
        weights: of the layer.
        read: the Hessian of what it reads, if that is known already.
        squares: of what it should give, the sum, if the error is asked for.
    """

    def __init__(self, weights: Weights, read: Hessian | None = None, squares: float = math.nan) -> None:
        self.hessian = read or Hessian.empty(weights.shape[1], device=weights.device)
        self.known = read is not None
        self.cross = torch.zeros_like(weights)
        self.squares = squares

    @classmethod
    def of_outputs(cls, weights: Weights, read: Hessian) -> "Moments":
        """Towards what a layer itself gives."""
        result = cls(weights, read)
        result.cross = weights @ read.total
        return result

    def add(self, read: Tokens, given: Tokens) -> None:
        if not self.known:
            self.hessian.add(read)
        self.cross.addmm_(given.t(), read.float())

    def move(self, read: Tokens, by: Tokens) -> None:
        """Adds to what is given for what is read, whose Hessian is known.

        The product is computed in the type of what is read: it decides where a search looks, not what it finds.
        """
        self.cross += by.to(read.dtype).t() @ read

    def error(self, weights: Weights) -> float:
        """``|W X - T|^2 / |T|^2``."""
        missed = self.squares + float(lack(weights, self.hessian.total, self.cross))
        return max(missed, 0.0) / max(self.squares, 1e-300)

    def problem(self, damping: float, towards: Weights) -> tuple[Weights, Weights]:
        """The damped Hessian and the target of a ridge regression that pulls towards some weights, in float32."""
        H = self.hessian.damped(damping)
        ridge = damping * float((self.hessian.squares / self.hessian.tokens).mean())
        return H.float(), self.cross / self.hessian.tokens + ridge * towards

    def fitted(self, damping: float, towards: Weights) -> Weights:
        """The ridge regression itself.

        Raises:
            InputError: the Hessian is not positive definite.
        """
        H, target = self.problem(damping, towards)
        return (target.double() @ inverse(H.double())).float()


@dataclass(frozen=True)
class Solution:
    """A pruned network.

    Attributes:
        weights: of every layer, zero where they go.
        keep: which stay.
        errors: of the output, relative and squared: of the local step, with the masks of the whole, after all rounds.
        moments: of what the last layer reads.
    """

    weights: Matrices
    keep: Sequence[Keep]
    errors: tuple[float, ...]
    moments: Moments


@dataclass(frozen=True)
class JointProblem:
    """A network to be pruned.

    Attributes:
        network: its shape.
        dense: its weights, in float32.
        text: what it reads and gives.
        choose: which weights of a layer go, given its number, weights and Hessian; and what becomes of the others.
        damping: of the Hessians, as a share of their mean diagonal.
        read: the Hessian of what the first layer reads.
        by_row: whether what is chosen may depend on the scale of a layer's rows.
    """

    network: Network
    dense: Matrices
    text: Text
    choose: Choose
    damping: float
    read: Hessian
    by_row: bool = True

    def solve(self, options: JointOptions) -> Solution:
        """The pruned network, never worse on its text than each layer pruned on its own.

        Raises:
            InputError: a Hessian is not positive definite.
        """
        local = self.local()
        if options.iterations == 1:
            return local
        start = min(local, self.masked(), key=lambda found: found.errors[-1])
        return self.improved(replace(start, errors=(*local.errors, *start.errors)), options)

    def improved(self, start: Solution, options: JointOptions) -> Solution:
        """Rounds of auxiliary variables from some weights on, masks as they are, as long as they pay.

        Args:
            start: where to begin, and the errors to go on from.
            options: how many rounds, penalties.
        """
        if options.iterations == 1:
            return start
        weights, scales = start.weights, self._scales(options)
        for _ in range(options.iterations - 1):
            weights, gain = self._turned(weights, start.keep, scales)
            if gain < options.tolerance:
                break
        moments = self.of_last(weights)
        last = self._fitted(-1, weights[-1], start.keep[-1], moments, STEPS)
        least, error = start.errors[-1], moments.error(last)
        if error >= least:
            return replace(start, errors=(*start.errors, least))
        return Solution([*weights[:-1], last], start.keep, (*start.errors, error), moments)

    def local(self) -> Solution:
        """Every layer pruned on its own, behind those before it."""
        weights, keep = [*self.dense], list[Keep]()
        for layer, source in enumerate(self.network.sources):
            if source == layer:
                hessian = self.hessian(weights, layer)
            stays, weights[layer] = self.choose(layer, self.dense[layer], hessian)
            keep.append(stays)
        moments = self.of_last(weights)
        stays, weights[-1] = self.choose(len(keep), self.dense[-1], moments.hessian)
        return Solution(weights, [*keep, stays], (moments.error(weights[-1]),), moments)

    def masked(self) -> Solution:
        """Masks by what they do to the output, and weights fitted to the dense network."""
        weights, keep, credit = [*self.dense], list[Keep](), self._credit()
        for layer, source in enumerate(self.network.sources):
            if source == layer:
                moments = self._towards_dense(weights, layer)
            scale = _row_scale(credit[layer]) if self.by_row else 1.0
            stays, chosen = self.choose(layer, self.dense[layer] * scale, moments[layer].hessian)
            weights[layer] = self._fitted(layer, chosen / scale, stays, moments[layer], STEPS)
            keep.append(stays)
        last = self.of_last(weights)
        stays, chosen = self.choose(len(keep), last.fitted(self.damping, self.dense[-1]), last.hessian)
        weights[-1] = self._fitted(-1, chosen, stays, last, STEPS)
        return Solution(weights, [*keep, stays], (last.error(weights[-1]),), last)

    def _turned(self, now: Matrices, keep: Sequence[Keep], scales: Scales) -> tuple[list[Weights], float]:
        """One round: auxiliary variables, hidden weights towards them, as far as it pays; and what it gains."""
        towards = [*now]
        for layer, aim in enumerate(self._aims(now, scales)):
            towards[layer] = self._fitted(layer, now[layer], keep[layer], aim, TURN_STEPS)
        return self._searched(now, towards)

    def _fitted(self, layer: int, start: Weights, keep: Keep, moments: Moments, steps: int) -> Weights:
        """A layer's weights inside their mask; those of inputs that are never there stay as they are."""
        H, target = moments.problem(self.damping, self.dense[layer])
        silent = moments.hessian.squares == 0
        return torch.where(silent, self.dense[layer] * keep, refit(start, keep, H, target, steps=steps))

    def _searched(self, old: Matrices, new: Matrices) -> tuple[list[Weights], float]:
        """The weights from the old ones along the new ones that err least on a sample of the text.

        And the share of the old ones' error that they don't make.
        """
        X, Y = self.text.probe(SEARCH_TOKENS)

        def at(length: float) -> list[Weights]:
            return [a + length * (b - a) for a, b in zip(old, new, strict=True)]

        def error(length: float) -> float:
            weights = at(length)
            given = linear(self.network.features(weights, X).to(X.dtype), weights[-1], None)
            return float((Y - given).square().sum(dtype=torch.float64))

        before = least = error(0.0)
        best, length = 0.0, 1.0
        while length <= LONGEST and (found := error(length)) < least:
            best, least, length = length, found, 2 * length
        length = 0.5
        while not best and length >= 1 / LONGEST:
            if (found := error(length)) < least:
                best, least = length, found
            length /= 2
        return at(best), 1 - least / max(before, 1e-300)

    def hessian(self, weights: Matrices, layer: int) -> Hessian:
        """Of what a hidden layer reads behind some weights."""
        if not layer:
            return self.read
        hessian = Hessian.empty(self.dense[layer].shape[1], device=self.dense[layer].device)
        for X in self.text.inputs:
            hessian.add(self.network.reads(weights, X)[layer])
        return hessian

    def of_last(self, weights: Matrices) -> Moments:
        """What the last layer reads behind some weights, and should give."""
        result, weights = Moments(self.dense[-1], squares=self.text.squares), cast(weights, self.text.inputs)
        for X, Y in zip(self.text.inputs, self.text.outputs, strict=True):
            result.add(self.network.features(weights, X), Y)
        return result

    def _towards_dense(self, weights: Matrices, first: int) -> dict[int, Moments]:
        """Of all hidden layers that read what one of them reads, towards what they give in the dense network."""
        layers = [layer for layer, source in enumerate(self.network.sources) if source == first]
        if not first:  # what they read is what they read in the dense network
            return {layer: Moments.of_outputs(self.dense[layer], self.read) for layer in layers}
        result = {layer: Moments(self.dense[layer]) for layer in layers}
        for X in self.text.inputs:
            given, read = self.network.hidden(self.dense, X), self.network.reads(weights, X)
            for layer, moments in result.items():
                moments.add(read[layer], without(given[layer], self.network.biases[layer]))
        return result

    def _aims(self, weights: Matrices, scales: Scales) -> list[Moments]:
        """Of all hidden layers and their auxiliary variables."""
        sources = self.network.sources
        result = [
            Moments(W) if source else Moments.of_outputs(W, self.read)
            for W, source in zip(weights, sources, strict=False)
        ]
        gains = cast(self.network.gains(weights, scales), self.text.inputs)
        weights = cast(weights, self.text.inputs)
        for X, Y in zip(self.text.inputs, self.text.outputs, strict=True):
            wanted = self.network.wanted(weights, gains, X, Y, scales)
            for moments, aim in zip(result, wanted, strict=True):
                if moments.known:
                    moments.move(X, aim.moved)
                else:
                    moments.add(aim.read, aim.given)
        return result

    def _scales(self, options: JointOptions) -> Scales:
        """Penalties over the mean squares of what they are about, in the dense network."""
        X, Y = self.text.probe()
        hidden, activated = self.network.hidden(self.dense, X), self.network.activations(self.dense, X)
        return Scales(
            tuple((options.alpha or 1.0) / _mean_square(z) for z in hidden),
            (options.beta or 1.0) / _mean_square(Y),
            tuple((options.gamma or 1.0) / _mean_square(a) for a in activated),
        )

    def _credit(self) -> list[Float[torch.Tensor, " rows"]]:
        """What a unit of squared error of each hidden layer's row does to the output's, to second order.

        Math: the mean over tokens of ``sum_k (dy_k/dz_i)^2``, the diagonal of the Gauss-Newton matrix, estimated with
        one vector of random signs a token (Hutchinson): the square of the gradient of ``v^T y``.
        """
        X, Y = self.text.probe()
        generator = torch.Generator().manual_seed(0)
        signs = (torch.randint(0, 2, Y.shape, generator=generator) * 2 - 1).to(Y)
        with torch.enable_grad():
            nudges = [torch.zeros(len(X), len(W), device=W.device, requires_grad=True) for W in self.dense[:-1]]
            biases = [n if b is None else n + b for n, b in zip(nudges, self.network.biases[:-1], strict=True)]
            nudged = replace(self.network, biases=(*biases, None))
            given = nudged.features([W.detach() for W in self.dense], X.clone().float()) @ self.dense[-1].t()
            gradients = torch.autograd.grad((given * signs).sum(), nudges)
        return [g.square().mean(dim=0) for g in gradients]


def cast(weights: Matrices, inputs: Sequence[Tokens]) -> Matrices:
    """The weights in the type that forward products are computed in, once for all of the text."""
    return [W.to(inputs[0].dtype) for W in weights]


def _row_scale(credit: Float[torch.Tensor, " rows"]) -> Float[torch.Tensor, "rows 1"]:
    """The root of the rows' credit; a row that does nothing (a dead ReLU) counts for next to nothing."""
    root = credit.sqrt()
    return root.clamp_min(max(1e-6 * float(root.max()), 1e-30))[:, None]


def _mean_square(values: Tokens) -> float:
    return max(float(values.square().mean()), 1e-30)

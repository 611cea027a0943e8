"""SparseLLM's alternation as it was published, to compare with (Bai et al. 2024, sections 4.2-4.3).

Each round refits *dense* weights to the auxiliary variables by ridge regression (the paper: pseudo-inverses) and prunes
them anew; the auxiliary variables go on from one round to the next, under penalties that know nothing of the
activations' scale, and the gate's is moved by two gradient steps of fixed length. Nothing here is made to descend. The
Hessian is damped once a round, where the authors' code damps it again every round, and everything is in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphprune.core.errors import InputError
from graphprune.solvers.auxiliary import factor_of, read_by, reading_gain, relu_input, with_slope
from graphprune.solvers.joint import JointOptions, JointProblem, Moments, Solution
from graphprune.solvers.network import Chain, Gated, linear, without

RIDGE = 1e-3
RATE, GRADIENT_STEPS = 0.01, 2
PENALTY = 5.0


@dataclass
class _Auxiliary:
    """What the hidden layers should give for some tokens, and what the last layer should read."""

    hidden: list[torch.Tensor]
    read: torch.Tensor


def published(problem: JointProblem, options: JointOptions) -> Solution:
    """The network after the published number of rounds, whatever its error, and the errors of all of them.

    The first round is the local step. Of an MLP with a gate the auxiliary variables are ``s``, ``z`` and ``p``, without
    one ``z`` and ``p``: so many numbers as the MLP is wide, for every token.

    Raises:
        InputError: the network is neither gated nor two layers with a ReLU between them, or a Hessian is not positive
            definite.
    """
    network, text = problem.network, problem.text
    if not isinstance(network, Gated) and not (isinstance(network, Chain) and network.phis == (torch.relu,)):
        raise InputError("the published variant is for gated MLPs, and for two layers with a ReLU between them")
    found = problem.local()
    auxiliaries = [
        _Auxiliary(network.hidden(problem.dense, X), network.features(problem.dense, X)) for X in text.inputs
    ]
    for _ in range(options.iterations - 1):
        _move(problem, auxiliaries, found.weights, options)
        found = _pruned(problem, auxiliaries, found.errors)
    return found


def _pruned(problem: JointProblem, auxiliaries: list[_Auxiliary], before: tuple[float, ...]) -> Solution:
    """Dense weights refitted to the auxiliary variables, and pruned anew."""
    aims = [Moments(W, problem.read) for W in problem.dense[:-1]] + [Moments(problem.dense[-1])]
    for X, Y, auxiliary in zip(problem.text.inputs, problem.text.outputs, auxiliaries, strict=True):
        for layer, given in enumerate(auxiliary.hidden):
            aims[layer].add(X, without(given, problem.network.biases[layer]))
        aims[-1].add(auxiliary.read, Y)
    weights, keep = list[torch.Tensor](), list[torch.Tensor]()
    for layer, aim in enumerate(aims):
        dense = aim.fitted(RIDGE, torch.zeros_like(problem.dense[layer]))
        stays, solved = problem.choose(layer, dense, aim.hessian)
        weights.append(solved)
        keep.append(stays)
    moments = problem.of_last(weights)
    return Solution(weights, keep, (*before, moments.error(weights[-1])), moments)


def _move(
    problem: JointProblem, auxiliaries: list[_Auxiliary], weights: Sequence[torch.Tensor], options: JointOptions
) -> None:
    """One round of all auxiliary variables, in place."""
    alpha, beta, gamma = (getattr(options, name) or PENALTY for name in ("alpha", "beta", "gamma"))
    last = weights[-1]
    gain = reading_gain(last, gamma / beta)
    for X, Y, auxiliary in zip(problem.text.inputs, problem.text.outputs, auxiliaries, strict=True):
        near = [linear(X, W, b) for W, b in zip(weights[:-1], problem.network.biases, strict=False)]
        if isinstance(problem.network, Gated):
            phi, (s, z) = problem.network.phi, auxiliary.hidden
            p = auxiliary.read = read_by(last, gain, Y, phi(s) * z)
            z = factor_of(p, phi(s), near[1], alpha, gamma)
            for _ in range(GRADIENT_STEPS):
                value, slope = with_slope(phi, s)
                s = s - RATE * 2 * (alpha * (s - near[0]) - gamma * (p - value * z) * slope * z)
            auxiliary.hidden = [s, z]
        else:
            auxiliary.read = read_by(last, gain, Y, torch.relu(auxiliary.hidden[0]))
            auxiliary.hidden = [relu_input(auxiliary.read, near[0], alpha, gamma)]

"""Small networks against a plain forward, and their auxiliary variables against one objective, block by block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from graphprune.solvers.auxiliary import read_by, reading_gain
from graphprune.solvers.network import Chain, Gated, Network, Scales, Wanted
from graphprune.solvers.refit import refit
from tests.oracles.sparsellm import Net, Relaxed, Values

PHIS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "identity": lambda s: s.clone(),
}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}  # products are in float32
GATED = "gated"
CHAINS = {"two": (6, 7, 4), "three": (6, 7, 5, 4), "four": (5, 6, 7, 4, 3), "narrow": (6, 3, 5)}


@dataclass(frozen=True)
class Made:
    """The same network twice, and what it reads.

    Attributes:
        network: the package's.
        weights: of it, in float32.
        net: the oracle's.
        X: tokens.
    """

    network: Network
    weights: list[torch.Tensor]
    net: Net
    X: torch.Tensor

    @property
    def read(self) -> Any:
        return self.X.double().numpy()


def made(sizes: Sequence[int] | None, phi: str, *, seed: int = 0, tokens: int = 12, bias: bool = True) -> Made:
    """Linear layers of these sizes, or a gated MLP of 6, 8 and 5 where none are given."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(8, 6), (8, 6), (5, 8)] if sizes is None else list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [1.5 * torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes]
    biases = [0.5 * torch.randn(rows, generator=generator) for rows, _ in shapes]
    X = torch.randn(tokens, shapes[0][1], generator=generator) @ torch.randn(
        shapes[0][1], shapes[0][1], generator=generator
    )
    net = Net(
        [W.double().numpy() for W in weights],
        [b.double().numpy() * bias for b in biases],
        phi,
        sizes is None,
    )
    own = tuple(biases) if bias else (None,) * len(biases)
    network = Gated(PHIS[phi], own) if sizes is None else Chain((PHIS[phi],) * (len(sizes) - 2), own)
    return Made(network, weights, net, X)


def sizes_of(what: str) -> Sequence[int] | None:
    return None if what == GATED else CHAINS[what]


def numpy(tensor: torch.Tensor) -> Any:
    return tensor.double().numpy()


everything = pytest.mark.parametrize(
    ("what", "phi"),
    [(GATED, "silu"), (GATED, "gelu"), ("two", "relu"), ("two", "silu"), ("three", "relu"), ("three", "tanh"),
     ("four", "relu"), ("narrow", "relu")],
)  # fmt: skip


@everything
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_computed_is_a_plain_forward(what: str, phi: str, bias: bool) -> None:
    m = made(sizes_of(what), phi, bias=bias)
    values, hidden = m.net.values(m.read), m.network.hidden(m.weights, m.X)
    names = ["s", "z"] if what == GATED else [f"z{i}" for i in range(len(hidden))]
    for name, found in zip(names, hidden, strict=True):
        np.testing.assert_allclose(numpy(found), values[name], **CLOSE)
    np.testing.assert_allclose(numpy(m.network.features(m.weights, m.X)), values[m.net.read_last], **CLOSE)
    reads, activated = m.network.reads(m.weights, m.X), m.network.activations(m.weights, m.X)
    if what == GATED:
        assert all(torch.equal(X, m.X) for X in reads)
        assert m.network.sources == (0, 0)
        assert len(activated) == 1
    else:
        assert torch.equal(reads[0], m.X)
        assert m.network.sources == tuple(range(len(hidden)))
        assert len(activated) == len(reads) == len(hidden)
        for layer, read in enumerate(reads[1:]):
            np.testing.assert_allclose(numpy(read), values[f"a{layer}"], **CLOSE)
    np.testing.assert_allclose(numpy(activated[-1]), values[m.net.read_last], **CLOSE)


@dataclass(frozen=True)
class Posed:
    """What a network should give although some of its weights have gone, and what missing it costs."""

    made: Made
    keep: list[torch.Tensor]
    relaxed: Relaxed
    scales: Scales

    @property
    def Y(self) -> torch.Tensor:  # noqa: N802 - the objective's letter
        return torch.from_numpy(self.relaxed.Y).float()


def posed(what: str, phi: str, seed: int) -> Posed:
    """A network that has lost half its weights, and penalties that differ from each other."""
    m = made(sizes_of(what), phi, seed=seed)
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed + 1)
    keep = [torch.rand(W.shape, generator=generator) < 0.6 for W in m.weights]
    pruned = [W * stays for W, stays in zip(m.weights, keep, strict=True)]
    scales = Scales(
        tuple(random.uniform(0.3, 3.0, size=len(pruned) - 1).tolist()),
        float(random.uniform(0.3, 3.0)),
        tuple(random.uniform(0.3, 3.0, size=1 if what == GATED else len(pruned) - 1).tolist()),
    )
    net = replace(m.net, weights=[numpy(W) for W in pruned])
    relaxed = Relaxed(net, m.read, m.net.output(m.read), scales.alpha, scales.beta, scales.gamma)
    return Posed(replace(m, weights=pruned), keep, relaxed, scales)


def wanted(p: Posed) -> list[Wanted]:
    gains = p.made.network.gains(p.made.weights, p.scales)
    return p.made.network.wanted(p.made.weights, gains, p.made.X, p.Y, p.scales)


def stepped(p: Posed) -> list[tuple[str, Values]]:
    """All blocks of variables after each is moved to where the whole objective is least, from the feasible point on."""
    relaxed, net = p.relaxed, p.relaxed.net
    at = net.values(p.made.read)
    found = [("", at)]

    def note(name: str, moved: Values) -> Values:
        found.append((name, moved))
        return moved

    if net.gated:
        at = note("p", relaxed.with_quadratic(at, "p"))
        at = note("z", relaxed.with_quadratic(at, "z"))
        note("s", relaxed.with_step(at, "s", "p", at["z"], relaxed.alpha[0], relaxed.gamma[0]))
        return found
    for layer in reversed(range(len(net.weights) - 1)):
        z, a = f"z{layer}", f"a{layer}"
        at = note(a, relaxed.with_quadratic(at, a))
        if net.phi == "relu":
            at = note(z, relaxed.with_scalars(at, z))
        else:
            at = note(z, relaxed.with_step(at, z, a, 1.0, relaxed.alpha[layer], relaxed.gamma[layer]))
    return found


@everything
@pytest.mark.parametrize("seed", [0, 1])
def test_what_hidden_layers_should_give_minimises_one_objective_block_by_block(what: str, phi: str, seed: int) -> None:
    p = posed(what, phi, seed)
    _, at = stepped(p)[-1]
    start, found = p.relaxed.net.values(p.made.read), wanted(p)
    names = ["s", "z"] if what == GATED else [f"z{i}" for i in range(len(found))]
    for layer, (name, aim) in enumerate(zip(names, found, strict=True)):
        given = numpy(aim.given) + p.relaxed.net.biases[layer]
        np.testing.assert_allclose(given, at[name], rtol=1e-3, atol=2e-4)
        read = at[f"a{layer - 1}"] if layer and what != GATED else p.made.read
        np.testing.assert_allclose(numpy(aim.read), read, rtol=1e-3, atol=2e-4)
    assert all(np.abs(at[name] - start[name]).max() > 0.01 for name in names[-1:])  # those below hardly move


def refitted(W: torch.Tensor, keep: torch.Tensor, read: Any, given: Any) -> Any:
    """Weights in a mask, towards what a layer should give; the Hessian isn't damped."""
    X, T = torch.from_numpy(read), torch.from_numpy(given)
    return refit(W.double(), keep, X.T @ X, T.T @ X, steps=20).numpy()


@everything
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_never_rises_from_one_subproblem_to_the_next(what: str, phi: str, seed: int) -> None:
    """Through the package's own values: those it gives replace the oracle's, one block of them after the other."""
    p = posed(what, phi, seed)
    net, weights, keep, found = p.relaxed.net, p.made.weights, p.keep, wanted(p)
    at = net.values(p.made.read)
    costs = [p.relaxed.objective(at)]
    given = [numpy(aim.given) + net.biases[layer] for layer, aim in enumerate(found)]
    last = reading_gain(weights[-1], p.scales.gamma[-1] / p.scales.beta)
    top = numpy(read_by(weights[-1], last, p.Y, p.made.network.features(weights, p.made.X)))
    if what == GATED:
        moves = [("p", top), ("z", given[1]), ("s", given[0])]
    else:
        read = [*(numpy(aim.read) for aim in found[1:]), top]
        moves = []
        for layer in reversed(range(len(given))):
            moves += [(f"a{layer}", read[layer]), (f"z{layer}", given[layer])]
    for name, value in moves:
        at = at | {name: value}
        costs.append(p.relaxed.objective(at))
    relaxed = p.relaxed
    for layer in range(len(weights)):
        read_here = at[net.read_last] if layer == len(found) else numpy(found[layer].read)
        aim_here = relaxed.Y if layer == len(found) else numpy(found[layer].given)
        moved = [*relaxed.net.weights]
        moved[layer] = refitted(weights[layer], keep[layer], read_here, aim_here)
        relaxed = replace(relaxed, net=replace(relaxed.net, weights=moved))
        costs.append(relaxed.objective(at))
    assert len(costs) == 1 + len(moves) + len(weights)
    for before, after in pairwise(costs):
        assert after <= before * (1 + 1e-6)
    assert costs[-1] < 0.9 * costs[0]


def test_the_oracles_own_steps_never_raise_the_objective() -> None:
    for what, phi in ((GATED, "silu"), ("three", "relu"), ("three", "tanh")):
        p = posed(what, phi, 3)
        costs = [p.relaxed.objective(at) for _, at in stepped(p)]
        assert all(after <= before for before, after in pairwise(costs))
        assert costs[-1] < costs[0]


def test_a_network_that_gives_what_it_should_wants_nothing_else() -> None:
    for what, phi in ((GATED, "silu"), ("three", "relu"), ("two", "tanh")):
        m = made(sizes_of(what), phi)
        hidden = m.network.hidden(m.weights, m.X)
        scales = Scales((1.0,) * len(hidden), 1.0, (1.0,) * len(m.network.activations(m.weights, m.X)))
        Y = torch.from_numpy(m.net.output(m.read)).float()
        found = m.network.wanted(m.weights, m.network.gains(m.weights, scales), m.X, Y, scales)
        for aim, given, bias in zip(found, hidden, m.net.biases, strict=False):
            np.testing.assert_allclose(numpy(aim.given), numpy(given) - bias, rtol=1e-4, atol=1e-4)

"""A small network pruned as a whole: errors by an independent forward, layers by SparseGPT and least squares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.joint import Choose, JointOptions, JointProblem, Solution, Text
from graphprune.solvers.obs import compensated
from graphprune.solvers.sparsegpt import sparsegpt
from tests.oracles import obs, slimgpt
from tests.oracles import sparsegpt as oracle
from tests.solvers.test_network import GATED, Made, made, numpy, sizes_of
from tests.unchecked import unchecked

DAMPING = 0.01
TOKENS = 90
Remove = float | Pattern
kinds = pytest.mark.parametrize(("what", "phi"), [(GATED, "silu"), ("two", "relu"), ("three", "tanh")])


def by_sparsegpt(remove: Remove, damping: float = DAMPING) -> Choose:
    def choose(_: int, W: torch.Tensor, hessian: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
        H = hessian.damped(damping)
        if isinstance(remove, Pattern):
            solved = sparsegpt(W, H, pattern=remove)
        else:
            solved = sparsegpt(W, H, n_removed=int(remove * W.numel()))
        return solved.keep, solved.weights

    return choose


@dataclass(frozen=True)
class Case:
    """A network that is to lose weights, twice."""

    made: Made
    problem: JointProblem

    def error(self, solution: Solution) -> float:
        """Of the output, by the oracle's forward."""
        return self.made.net.error([numpy(W) for W in solution.weights], self.made.read)


def case(
    what: str | Sequence[int],
    phi: str,
    remove: Remove | Choose = 0.5,
    *,
    seed: int = 0,
    chunk: int = 1024,
    tokens: int = TOKENS,
    bias: bool = True,
    damping: float = DAMPING,
) -> Case:
    m = made(sizes_of(what) if isinstance(what, str) else what, phi, seed=seed, tokens=tokens, bias=bias)
    choose = by_sparsegpt(remove, damping) if isinstance(remove, float | Pattern) else remove
    return Case(m, posed(m, choose, chunk, damping))


def posed(m: Made, choose: Choose, chunk: int = 1024, damping: float = DAMPING) -> JointProblem:
    read = Hessian.empty(m.X.shape[1])
    read.add(m.X)
    return JointProblem(m.network, m.weights, Text.of(m.network, m.weights, [m.X], chunk), choose, damping, read)


networks = st.sampled_from([(GATED, "silu"), (GATED, "gelu"), ("two", "relu"), ("two", "silu"), ("three", "tanh")])


@settings(max_examples=30)
@given(networks, st.integers(0, 1000), st.floats(0.1, 0.9), st.integers(1, 4))
def test_the_result_never_errs_more_than_every_layer_on_its_own(
    kind: tuple[str, str], seed: int, sparsity: float, iterations: int
) -> None:
    c = case(*kind, sparsity, seed=seed)
    local, found = c.problem.local(), c.problem.solve(JointOptions(iterations=iterations))
    alone, together = c.error(local), c.error(found)
    near: dict[str, Any] = {"rel": 2e-3, "abs": 1e-5}  # sums in float32, and differences of them
    assert local.errors == pytest.approx((alone,), **near)
    assert found.errors[0] == local.errors[0]
    assert found.errors[-1] == pytest.approx(together, **near)
    assert together <= alone * (1 + 1e-4) + 1e-5
    assert all(after <= before for before, after in pairwise(found.errors))
    assert len(found.errors) == (1 if iterations == 1 else 3)
    if iterations == 1:
        assert all(torch.equal(a, b) for a, b in zip(found.weights, local.weights, strict=True))


@kinds
def test_it_pays(what: str, phi: str) -> None:
    errors = [case(what, phi, 0.6, seed=seed).problem.solve(JointOptions(iterations=6)).errors for seed in range(5)]
    assert np.mean([found[-1] / found[0] for found in errors]) < 0.7


@kinds
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_exactly_what_is_asked_for_goes_and_what_goes_is_zero(what: str, phi: str, sparsity: float) -> None:
    c = case(what, phi, sparsity)
    for found in (c.problem.solve(JointOptions()), c.problem.masked(), c.problem.local()):
        for W, stays, dense in zip(found.weights, found.keep, c.made.weights, strict=True):
            assert int((~stays).sum()) == int(sparsity * dense.numel())
            assert not W[~stays].any()
            assert W.isfinite().all()


@pytest.mark.parametrize(("sizes", "phi"), [(None, "silu"), ((8, 12, 8, 4), "relu")])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 2)], ids=str)
def test_patterns_hold(sizes: Sequence[int] | None, phi: str, pattern: Pattern) -> None:
    m = made(sizes or (8, 12, 8, 4), phi, tokens=TOKENS)
    found = posed(m, by_sparsegpt(pattern)).solve(JointOptions())
    for W, stays in zip(found.weights, found.keep, strict=True):
        assert bool((stays.view(len(stays), -1, pattern.of).sum(dim=2) == pattern.stay).all())
        assert not W[~stays].any()


def test_rounds_leave_the_masks_alone() -> None:
    problem = case(GATED, "silu").problem
    start = problem.masked()
    found = problem.improved(start, JointOptions(iterations=4))
    assert all(torch.equal(a, b) for a, b in zip(found.keep, start.keep, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(found.weights, start.weights, strict=True))


@kinds
def test_how_many_tokens_are_in_memory_at_a_time_changes_nothing(what: str, phi: str) -> None:
    solutions = [case(what, phi, chunk=chunk).problem.solve(JointOptions(chunk=chunk)) for chunk in (7, 1024)]
    for a, b in zip(*(s.keep for s in solutions), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*(s.weights for s in solutions), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert solutions[0].errors == pytest.approx(solutions[1].errors, rel=1e-3)


def test_a_sample_of_the_text_is_the_same_whatever_the_chunks_are() -> None:
    m = made(None, "silu", tokens=50)
    for n_tokens in (1, 7, 24, 25, 49, 50, 1000):
        samples = [Text.of(m.network, m.weights, [m.X[:20], m.X[20:]], chunk).probe(n_tokens) for chunk in (3, 8, 100)]
        for X, Y in samples:
            assert len(X) == len(Y) <= n_tokens
            assert torch.equal(X, samples[0][0])
            torch.testing.assert_close(Y, samples[0][1])
            np.testing.assert_allclose(numpy(Y), m.net.output(numpy(X)), rtol=1e-4, atol=1e-5)
    assert torch.equal(samples[0][0], m.X)


def test_the_same_problem_has_the_same_solution_to_the_last_bit() -> None:
    a, b = (case("three", "tanh").problem.solve(JointOptions()) for _ in range(2))
    assert a.errors == b.errors
    assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


@pytest.mark.parametrize(("what", "phi"), [(GATED, "silu"), ("two", "relu"), ("three", "relu"), ("four", "tanh")])
def test_the_local_step_is_sparsegpt_behind_the_layers_before(what: str, phi: str) -> None:
    c = case(what, phi)
    found, net, X = c.problem.local(), c.made.net, c.made.read
    for layer, W in enumerate(net.weights):
        if layer == len(net.weights) - 1:
            read = net.values(X)[net.read_last]
        else:
            read = X if not layer or what == GATED else net.values(X)[f"a{layer - 1}"]
        H = slimgpt.damped(read.T, DAMPING)
        solved, stays = oracle.prune(W, H, n_removed=W.size // 2)
        assert np.array_equal(found.keep[layer].numpy(), stays)
        np.testing.assert_allclose(numpy(found.weights[layer]), solved, rtol=2e-3, atol=2e-4)
        net = replace(net, weights=[*net.weights[:layer], solved, *net.weights[layer + 1 :]])


def only_last(keep: torch.Tensor, last: int) -> Choose:
    """Hidden layers lose nothing, the last one loses columns."""

    def choose(layer: int, W: torch.Tensor, _: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
        stays = keep.expand_as(W) if layer == last else torch.ones_like(W, dtype=torch.bool)
        return stays.clone(), W * stays

    return choose


@pytest.mark.parametrize(("what", "phi"), [("two", "identity"), (GATED, "silu"), ("three", "tanh")])
def test_a_single_layer_that_loses_columns_is_repaired_as_by_optimal_brain_surgery(what: str, phi: str) -> None:
    m = made(sizes_of(what), phi, tokens=TOKENS)
    columns = m.weights[-1].shape[1]
    keep = torch.arange(columns) % 3 != 1
    found = posed(m, only_last(keep, len(m.weights) - 1)).masked()
    read = Hessian.empty(columns)
    read.add(m.network.features(m.weights, m.X))
    expected = compensated(m.weights[-1].double(), read.damped(DAMPING), keep)
    torch.testing.assert_close(found.weights[-1].double(), expected, rtol=2e-3, atol=2e-4)
    features = m.net.values(m.read)[m.net.read_last].T
    brute = obs.ridge_refit(m.net.weights[-1], features, keep.nonzero()[:, 0].tolist(), DAMPING)
    np.testing.assert_allclose(numpy(found.weights[-1]), brute, rtol=2e-3, atol=2e-4)
    for W, dense in zip(found.weights[:-1], m.weights, strict=False):
        torch.testing.assert_close(W, dense, rtol=2e-3, atol=2e-4)


@kinds
@pytest.mark.parametrize("iterations", [2, 5])
def test_the_last_layer_is_the_least_squares_fit_to_the_dense_output_in_its_mask(
    what: str, phi: str, iterations: int
) -> None:
    """A ridge regression towards the dense weights of what the pruned layers before give; few weights, so exact."""
    c = case(what, phi, 0.5, seed=1)
    found, net = c.problem.solve(JointOptions(iterations=iterations)), c.made.net
    assert found.errors[-1] < found.errors[0]
    A = replace(net, weights=[numpy(W) for W in found.weights]).values(c.made.read)[net.read_last]
    ridge = np.sqrt(DAMPING * np.square(A).sum(axis=0).mean())
    for row, (stays, dense) in enumerate(zip(found.keep[-1].numpy(), net.weights[-1], strict=True)):
        read = np.vstack([A[:, stays], ridge * np.eye(A.shape[1])[:, stays]])
        target = np.concatenate([net.output(c.made.read)[:, row], ridge * dense])
        expected = np.linalg.lstsq(read, target)[0]
        np.testing.assert_allclose(numpy(found.weights[-1][row])[stays], expected, rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize(("what", "phi"), [(GATED, "silu"), ("two", "relu"), ("four", "tanh")])
def test_credit_is_the_mean_square_of_the_outputs_derivatives(what: str, phi: str) -> None:
    """Estimated with random signs: with 4,000 tokens the noise is a few hundredths."""
    c = case(what, phi, tokens=4000)
    m, step = c.made, 1e-5
    dense = m.net.output(m.read)
    for layer, found in enumerate(c.problem._credit()):
        for row in range(len(found)):
            nudged = [*m.net.biases]
            nudged[layer] = nudged[layer] + step * np.eye(len(found))[row]
            slope = (replace(m.net, biases=nudged).output(m.read) - dense) / step
            assert found[row].item() == pytest.approx(np.square(slope).sum(axis=1).mean(), rel=0.15, abs=1e-6)


def test_masks_go_by_what_a_row_does_to_the_output_unless_they_must_not() -> None:
    """A row that the last layer hardly reads keeps fewer weights than by the errors of the layer itself."""
    m = made((6, 8, 5), "tanh", tokens=TOKENS)
    m.weights[-1][:, :4] *= 0.01
    for by_row in (True, False):
        problem = replace(posed(m, by_sparsegpt(0.5)), by_row=by_row)
        kept, alone = problem.masked().keep[0].sum(dim=1), problem.local().keep[0].sum(dim=1)
        assert bool(kept[:4].sum() < 8 < kept[4:].sum()) == by_row
        assert torch.equal(kept, alone) != by_row


@pytest.mark.parametrize(("what", "phi"), [(GATED, "relu"), ("two", "relu"), (GATED, "silu")])
def test_neurons_that_never_matter_do_no_harm(what: str, phi: str) -> None:
    """One that is never active, or that the last layer doesn't read, has no credit."""
    for part in ("asleep", "unread"):
        m = made(sizes_of(what), phi, tokens=TOKENS, bias=False)
        if part == "asleep":
            m.weights[0][2] = 0.0
        else:
            m.weights[-1][:, 2] = 0.0
        problem = posed(m, by_sparsegpt(0.5))
        masked, found = problem.masked(), problem.solve(JointOptions())
        assert all(W.isfinite().all() for W in (*masked.weights, *found.weights))
        assert found.errors[-1] < found.errors[0]


def nothing_repaired(_: int, W: torch.Tensor, __: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
    stays = W.abs() >= W.abs().median()
    return stays, W * stays


def test_inputs_that_are_combinations_of_others_ask_for_more_damping() -> None:
    m = made(None, "silu", tokens=4)
    with pytest.raises(InputError, match="raise the damping"):
        posed(m, nothing_repaired, damping=0.0).solve(JointOptions())


def penalised(name: str, value: float) -> JointOptions:
    given: dict[str, Any] = {name: value}
    return JointOptions(**given)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [1e-30, 1e-8, 1e8, 1e30])
def test_penalties_however_large_or_small_do_no_harm_or_are_refused(name: str, value: float) -> None:
    problem = case(GATED, "silu", 0.9).problem  # some rows have nothing left
    try:
        found = problem.solve(penalised(name, value))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert found.errors[-1] <= found.errors[0]
        assert all(W.isfinite().all() for W in found.weights)


def test_penalties_count() -> None:
    """Each of them changes the result, so none is ignored."""
    plain = case(GATED, "silu", 0.6).problem.solve(JointOptions())
    for name in ("alpha", "beta", "gamma"):
        other = case(GATED, "silu", 0.6).problem.solve(penalised(name, 30.0))
        assert any(not torch.equal(a, b) for a, b in zip(plain.weights, other.weights, strict=True))
    one = case(GATED, "silu", 0.6).problem.solve(JointOptions(alpha=1.0, beta=1.0, gamma=1.0))
    assert all(torch.equal(a, b) for a, b in zip(plain.weights, one.weights, strict=True))


def test_penalties_are_relative_to_the_scale_of_what_they_are_about() -> None:
    """Inputs twice as large, and weights half as large, are the same problem."""
    m = made((6, 8, 5), "identity", tokens=TOKENS, bias=False)
    scaled = replace(m, weights=[0.5 * m.weights[0], 4 * m.weights[1]], X=2 * m.X)
    a, b = (posed(x, by_sparsegpt(0.5)).solve(JointOptions()) for x in (m, scaled))
    for x, y, factor in zip(a.weights, b.weights, (0.5, 4.0), strict=True):
        torch.testing.assert_close(factor * x, y, rtol=1e-3, atol=1e-3)


def test_text_is_what_the_dense_network_gives_without_its_last_bias() -> None:
    m = made(None, "silu", tokens=20)
    text = Text.of(m.network, m.weights, [m.X[:12], m.X[12:]], 5)
    assert [len(X) for X in text.inputs] == [5, 5, 2, 5, 3]
    assert torch.equal(torch.cat([*text.inputs]), m.X)
    np.testing.assert_allclose(numpy(torch.cat([*text.outputs])), m.net.output(m.read), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": 0}, "at least 1 iteration is made, the local step, not 0"),
        ({"iterations": -3}, "not -3"),
        ({"alpha": 0.0}, "alpha is a penalty above 0, not 0"),
        ({"beta": -1.0}, "beta is a penalty above 0, not -1"),
        ({"gamma": float("nan")}, "gamma is a penalty above 0, not nan"),
        ({"alpha": float("inf")}, "alpha is a penalty above 0, not inf"),
        ({"chunk": 0}, "a chunk has at least 1 token, not 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        JointOptions(**options)


def test_an_unknown_variant_is_refused() -> None:
    with unchecked(), pytest.raises(InputError, match="the variant is exact or published, not 'newest'"):
        JointOptions(variant="newest")  # type: ignore[arg-type]

"""Elimination and repair against brute force over all removal sets."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.solvers.hessian import Hessian, inverse
from graphprune.solvers.obs import Greedy, compensated, group_sizes, unit_errors
from tests.oracles import obs as oracle

EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}


def problem(rows: int, columns: int, seed: int, tokens: int = 60) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    """Weights and correlated inputs, as arrays and as weights with the damped-by-nothing Hessian."""
    random = np.random.default_rng(seed)
    W = random.normal(size=(rows, columns))
    X = random.normal(size=(columns, columns)) @ random.normal(size=(columns, tokens))
    hessian = Hessian.empty(columns, dtype=torch.float64)
    hessian.add(torch.from_numpy(X.T))
    return W, X, torch.from_numpy(W), hessian.damped(0.0)


def singles(columns: int) -> torch.Tensor:
    return torch.arange(columns)[:, None]


@pytest.mark.parametrize("seed", range(5))
def test_the_error_of_one_removal_is_that_of_the_refit(seed: int) -> None:
    W, X, weights, hessian = problem(3, 8, seed)
    found = unit_errors(weights, inverse(hessian), singles(8))
    for j in range(8):
        refitted = oracle.refit(W, X, set(range(8)) - {j})
        assert float(found[j]) == pytest.approx(oracle.error(W, refitted, X), rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_removal_is_the_best_of_all(seed: int) -> None:
    W, X, weights, hessian = problem(3, 8, seed)
    order, errors = Greedy(weights, hessian, singles(8)).remove([1])
    (best,), error = oracle.best_set(W, X, 1)
    assert order.tolist() == [best]
    assert float(errors.sum()) == pytest.approx(error, rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [[1, 1, 1, 1], [4], [2, 2], [3, 1]])
def test_whatever_is_removed_the_rest_is_the_least_squares_refit(seed: int, steps: list[int]) -> None:
    W, X, weights, hessian = problem(3, 8, seed)
    greedy = Greedy(weights, hessian, singles(8))
    order, errors = greedy.remove(steps)
    kept = set(range(8)) - set(order.tolist())
    refitted = oracle.refit(W, X, kept)
    torch.testing.assert_close(greedy.weights, torch.from_numpy(refitted), **EXACT)
    assert float(errors.sum()) == pytest.approx(oracle.error(W, refitted, X), rel=1e-7)
    keep = torch.tensor([j in kept for j in range(8)])
    torch.testing.assert_close(compensated(weights, hessian, keep), greedy.weights, **EXACT)


@pytest.mark.parametrize("n_removed", range(1, 7))
def test_greedy_removal_is_within_reach_of_the_best_set_and_no_better(n_removed: int) -> None:
    ratios = []
    for seed in range(6):
        W, X, weights, hessian = problem(3, 8, seed)
        found = float(Greedy(weights, hessian, singles(8)).remove([1] * n_removed)[1].sum())
        ratios.append(found / oracle.best_set(W, X, n_removed)[1])
    assert min(ratios) > 1 - 1e-9
    assert np.median(ratios) < 1.5


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_error_of_a_head_is_that_of_the_joint_refit(seed: int) -> None:
    W, X, weights, hessian = problem(4, 12, seed)
    heads = torch.arange(12).view(4, 3)
    exact = unit_errors(weights, inverse(hessian), heads, "exact")
    grouped = unit_errors(weights, inverse(hessian), heads, "grouped")
    for h in range(4):
        refitted = oracle.refit(W, X, set(range(12)) - set(heads[h].tolist()))
        assert float(exact[h]) == pytest.approx(oracle.error(W, refitted, X), rel=1e-8)
    assert (grouped - exact).abs().max() > 1e-3  # it leaves the weights inside a head as they are


@pytest.mark.parametrize("error", ["grouped", "exact"])
def test_heads_go_whole_and_the_rest_is_refitted(error: Any) -> None:
    W, X, weights, hessian = problem(4, 12, 3)
    greedy = Greedy(weights, hessian, torch.arange(12).view(4, 3), error=error)
    order, errors = greedy.remove([1, 1])
    gone = {3 * head + i for head in order.tolist() for i in range(3)}
    refitted = oracle.refit(W, X, set(range(12)) - gone)
    torch.testing.assert_close(greedy.weights, torch.from_numpy(refitted), **EXACT)
    assert float(errors.sum()) == pytest.approx(oracle.error(W, refitted, X), rel=1e-7)


def test_the_inverse_stays_that_of_what_is_left() -> None:
    """The second removal's error is that of a fresh inversion without the first."""
    _, _, weights, hessian = problem(3, 8, 1)
    greedy = Greedy(weights, hessian, singles(8))
    first, _ = greedy.remove([1])
    left = [j for j in range(8) if j != int(first)]
    fresh = unit_errors(greedy.weights[:, left], inverse(hessian[left][:, left]), singles(7))
    second, errors = greedy.remove([1])
    assert left[int(fresh.argmin())] == int(second)
    assert float(errors) == pytest.approx(float(fresh.min()), rel=1e-8)


@given(st.integers(0, 1000), st.integers(1, 7))
def test_repair_never_makes_it_worse(seed: int, n_removed: int) -> None:
    _, _, weights, hessian = problem(3, 8, seed)
    keep = torch.ones(8, dtype=torch.bool)
    keep[torch.from_numpy(np.random.default_rng(seed).permutation(8)[:n_removed])] = False
    repaired, cut = compensated(weights, hessian, keep), weights * keep
    costs = [float(torch.trace((weights - w) @ hessian @ (weights - w).t())) for w in (repaired, cut)]
    assert costs[0] <= costs[1] * (1 + 1e-9)
    assert bool((repaired[:, ~keep] == 0).all())


def test_ties_go_by_lower_id() -> None:
    weights, hessian = torch.ones(2, 6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    assert Greedy(weights, hessian, singles(6)).remove([2, 1])[0].tolist() == [0, 1, 2]


def test_a_choice_of_ones_own_decides_what_goes() -> None:
    _, _, weights, hessian = problem(3, 8, 0)
    greedy = Greedy(weights, hessian, singles(8), choose=lambda errors, n: errors.nan_to_num(posinf=-1).topk(n).indices)
    order, _ = greedy.remove([1, 1])
    first = unit_errors(weights, inverse(hessian), singles(8)).argmax()
    assert int(order[0]) == int(first)
    assert len(set(order.tolist())) == 2


def test_columns_that_are_always_zero_go_first_and_cost_nothing() -> None:
    _, X, weights, _ = problem(3, 8, 2)
    X[5] = 0.0
    hessian = Hessian.empty(8, dtype=torch.float64)
    hessian.add(torch.from_numpy(X.T))
    damped = hessian.damped(0.01)
    plain = hessian.damped(0.0)
    assert float(plain[5, 5]) == 1.0
    assert float(damped[5, 5]) > 0
    order, errors = Greedy(weights * (torch.arange(8) != 5), plain, singles(8)).remove([1])
    assert order.tolist() == [5]
    assert float(errors.sum()) == 0


def test_the_hessian_does_not_depend_on_how_tokens_come() -> None:
    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, parts = Hessian.empty(5, dtype=torch.float64), Hessian.empty(5, dtype=torch.float64)
    whole.add(rows)
    parts.add(rows[:8].view(2, 4, 5))
    parts.add(rows[8:])
    assert whole.tokens == parts.tokens == 24
    torch.testing.assert_close(parts.damped(0.01), whole.damped(0.01), **EXACT)
    expected = rows.t() @ rows / 24
    torch.testing.assert_close(whole.damped(0.0), expected, **EXACT)
    torch.testing.assert_close(whole.damped(0.5), expected + 0.5 * expected.diagonal().mean() * torch.eye(5), **EXACT)


def test_what_cannot_be_solved_is_refused_with_the_remedy() -> None:
    hessian = Hessian.empty(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="no token"):
        hessian.damped(0.01)
    hessian.add(torch.ones(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 0, not -1"):
        hessian.damped(-1.0)
    with pytest.raises(InputError, match="raise the damping"):
        Greedy(torch.ones(2, 4, dtype=torch.float64), hessian.damped(0.0), singles(4))
    order, _ = Greedy(torch.ones(2, 4, dtype=torch.float64), hessian.damped(0.01), singles(4)).remove([1])
    assert order.tolist() == [0]
    with pytest.raises(InputError, match="NaN or infinite"):
        hessian.add(torch.full((1, 4), float("nan"), dtype=torch.float64))
    with pytest.raises(ValueError, match="5 units can't be removed, 4 are left"):
        Greedy(torch.ones(2, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64), singles(4)).remove([5])


def test_group_sizes_halve_to_the_floor_and_add_up() -> None:
    assert group_sizes(1000, 512, 64) == [512, 256, 128, 64, 40]
    assert group_sizes(3, 8, 8) == [3]
    assert group_sizes(0, 8, 8) == []
    with pytest.raises(ValueError, match="floor of at least 1"):
        group_sizes(4, 8, 0)

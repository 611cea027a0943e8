"""SparseGPT against its definition written out, and against least squares."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.masks.weights import keep_highest, keep_pattern
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import compensated
from graphprune.solvers.sparsegpt import sparsegpt
from tests.oracles import obs
from tests.oracles import sparsegpt as oracle

EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
ROWS, COLUMNS = 5, 12


def problem(seed: int, rows: int = ROWS, columns: int = COLUMNS, tokens: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the Hessian of correlated inputs."""
    weights, inputs = arrays(seed, rows, columns, tokens)
    hessian = Hessian.empty(columns, dtype=torch.float64)
    hessian.add(torch.from_numpy(inputs.T))
    return torch.from_numpy(weights), hessian.damped(0.0)


def arrays(seed: int, rows: int = ROWS, columns: int = COLUMNS, tokens: int = 60) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    W = random.normal(size=(rows, columns))
    return W, random.normal(size=(columns, columns)) @ random.normal(size=(columns, tokens))


def direct(weights: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor) -> float:
    return oracle.error(weights.double().numpy(), pruned.double().numpy(), hessian.numpy())


def random_keep(seed: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [1, 4, 5, 128])
@pytest.mark.parametrize("n_removed", [0, 1, 23, 30, 59, 60])
def test_chosen_weights_and_their_repair_are_those_of_the_definition(seed: int, block: int, n_removed: int) -> None:
    weights, hessian = problem(seed)
    found = sparsegpt(weights, hessian, n_removed=n_removed, block=block)
    expected, keep = oracle.prune(weights.numpy(), hessian.numpy(), n_removed=n_removed, block=block)
    assert torch.equal(found.keep, torch.from_numpy(keep))
    torch.testing.assert_close(found.weights, torch.from_numpy(expected), **EXACT)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [1, 6, 128])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(1, 2), Pattern(2, 3)], ids=str)
def test_patterns_are_those_of_the_definition_whatever_the_block(seed: int, block: int, pattern: Pattern) -> None:
    weights, hessian = problem(seed)
    found = sparsegpt(weights, hessian, pattern=pattern, block=block)
    expected, keep = oracle.prune(weights.numpy(), hessian.numpy(), pattern=(pattern.stay, pattern.of))
    assert torch.equal(found.keep, torch.from_numpy(keep))
    torch.testing.assert_close(found.weights, torch.from_numpy(expected), **EXACT)
    assert bool((found.keep.view(ROWS, -1, pattern.of).sum(dim=2) == pattern.stay).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [1, 5, 128])
def test_the_repair_of_a_given_mask_is_that_of_the_definition_whatever_the_block(seed: int, block: int) -> None:
    weights, hessian = problem(seed)
    keep = random_keep(seed)
    found = sparsegpt(weights, hessian, keep=keep, block=block)
    expected, _ = oracle.prune(weights.numpy(), hessian.numpy(), keep=keep.numpy())
    torch.testing.assert_close(found.weights, torch.from_numpy(expected), **EXACT)
    assert torch.equal(found.keep, keep)


@pytest.mark.parametrize("asked", [{"n_removed": 31, "block": 5}, {"pattern": Pattern(2, 4)}, {"keep": random_keep(1)}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_error_is_that_of_the_weights(asked: dict[str, Any], dtype: torch.dtype) -> None:
    weights, hessian = problem(4)
    weights = weights.to(dtype)
    found = sparsegpt(weights, hessian, **asked)
    assert found.weights.dtype == dtype
    assert found.error > 0.1
    assert found.error == pytest.approx(
        direct(weights, found.weights, hessian), rel=1e-10 if dtype == torch.float64 else 1e-5
    )


def test_a_kept_mask_repairs_as_its_own_choice_did() -> None:
    weights, hessian = problem(5)
    chosen = sparsegpt(weights, hessian, n_removed=30)
    again = sparsegpt(weights, hessian, keep=chosen.keep)
    assert torch.equal(again.weights, chosen.weights)
    assert again.error == chosen.error


@pytest.mark.parametrize("seed", range(5))
def test_the_first_column_of_one_row_is_refitted_by_least_squares(seed: int) -> None:
    """All other columns are still free when the first goes, so the greedy repair is the best there is."""
    W, X = arrays(seed, rows=1)
    weights, hessian = problem(seed, rows=1)
    keep = torch.ones(1, COLUMNS, dtype=torch.bool)
    keep[0, 0] = False
    found = sparsegpt(weights, hessian, keep=keep)
    refitted = obs.refit(W, X, range(1, COLUMNS))
    torch.testing.assert_close(found.weights, torch.from_numpy(refitted), **EXACT)
    assert found.error == pytest.approx(obs.error(W, refitted, X), rel=1e-8)


@pytest.mark.parametrize("column", range(COLUMNS))
def test_one_removed_weight_is_made_up_for_by_those_to_its_right_as_well_as_they_can(column: int) -> None:
    weights, hessian = problem(3, rows=1)
    keep = torch.arange(COLUMNS)[None] != column
    found = sparsegpt(weights, hessian, keep=keep)
    assert torch.equal(found.weights[:, :column], weights[:, :column])
    right = oracle.least_squares(
        weights[:, column:].numpy(), hessian[column:, column:].numpy(), keep[:, column:].numpy()
    )
    torch.testing.assert_close(found.weights[:, column:], torch.from_numpy(right), **EXACT)


@given(st.integers(0, 1000))
def test_the_greedy_repair_is_worse_than_least_squares(seed: int) -> None:
    weights, hessian = problem(seed)
    keep = random_keep(seed)
    best = oracle.least_squares(weights.numpy(), hessian.numpy(), keep.numpy())
    found = sparsegpt(weights, hessian, keep=keep).error
    assert found > direct(weights, torch.from_numpy(best), hessian) * (1 + 1e-6)


def test_a_random_mask_can_be_worse_with_the_greedy_repair_than_without() -> None:
    """What goes from one column is partly loaded on weights that go later, where it is lost again."""
    weights, hessian = problem(0)
    keep = random_keep(0)
    assert sparsegpt(weights, hessian, keep=keep).error > 1.05 * direct(weights, weights * keep, hessian)


@pytest.mark.parametrize("seed", range(5))
def test_it_errs_less_than_wandas_mask_which_errs_less_repaired(seed: int) -> None:
    """On inputs as layers have them, a few directions in common and noise: 0.47 to 0.73 of the error."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(64, 16)) @ random.normal(size=(16, 400)) / 4 + 0.6 * random.normal(size=(64, 400))
    tokens = Hessian.empty(64, dtype=torch.float64)
    tokens.add(torch.from_numpy(X.T))
    hessian = tokens.damped(0.01)
    weights = torch.from_numpy(random.normal(size=(16, 64)))
    wanda = weights.abs() * hessian.diagonal().sqrt()
    half, grouped = keep_highest(wanda, 512, per="row"), keep_pattern(wanda, Pattern(2, 4))
    for keep, asked in ((half, {"n_removed": 512, "block": 16}), (grouped, {"pattern": Pattern(2, 4)})):
        unrepaired = direct(weights, weights * keep, hessian)
        own, repaired = sparsegpt(weights, hessian, **asked).error, sparsegpt(weights, hessian, keep=keep).error
        assert own < repaired < 0.8 * unrepaired


def test_whole_columns_go_as_structured_surgery_has_them() -> None:
    """Leftmost columns removed from every row leave all others free, so both repairs are least squares."""
    weights, hessian = problem(6)
    stays = torch.arange(COLUMNS) >= 4
    found = sparsegpt(weights, hessian, keep=stays.expand(ROWS, COLUMNS), block=3)
    torch.testing.assert_close(found.weights, compensated(weights, hessian, stays), **EXACT)


@pytest.mark.parametrize("fill", [0.0, 1.0, -2.5])
@pytest.mark.parametrize("n_removed", [0, 1, 17, 29, 30, 60])
def test_exactly_the_budget_goes_also_with_ties_and_zeros(fill: float, n_removed: int) -> None:
    _, hessian = problem(7)
    for square in (hessian, torch.eye(COLUMNS, dtype=torch.float64)):
        found = sparsegpt(torch.full((ROWS, COLUMNS), fill), square, n_removed=n_removed, block=5)
        assert int((~found.keep).sum()) == n_removed
        assert not found.weights[~found.keep].any()
        if fill and square is not hessian:
            assert bool((found.weights[found.keep] == fill).all())


def test_every_block_loses_its_share_and_ties_go_by_lower_id() -> None:
    weights, hessian = torch.ones(3, 8), torch.eye(8, dtype=torch.float64)
    keep = sparsegpt(weights, hessian, n_removed=9, block=4).keep
    # 4.5 are due after half of the columns, 9 in the end: 5 and 4 go, row after row inside each block
    expected = torch.ones(3, 8, dtype=torch.bool)
    expected[0, :4] = expected[1, 0] = expected[0, 4:] = False
    assert torch.equal(keep, expected)


def test_with_independent_inputs_nothing_is_made_up_for() -> None:
    weights, _ = problem(8)
    found = sparsegpt(weights, torch.eye(COLUMNS, dtype=torch.float64), n_removed=30)
    assert torch.equal(found.keep, keep_highest(weights.abs(), 30, per="matrix"))
    assert torch.equal(found.weights, weights * found.keep)
    assert found.error == pytest.approx(float(weights[~found.keep].square().sum()))


def test_columns_that_are_always_zero_move_nothing_and_cost_nothing() -> None:
    weights, _ = problem(9)
    _, X = arrays(9)
    X[5] = 0.0
    hessian = Hessian.empty(COLUMNS, dtype=torch.float64)
    hessian.add(torch.from_numpy(X.T))
    alive, keep = torch.arange(COLUMNS) != 5, random_keep(9)
    keep[:, 5] = False
    for damped in (hessian.damped(0.0), hessian.damped(0.01)):
        found = sparsegpt(weights, damped, keep=keep)
        without = sparsegpt(weights[:, alive], damped[alive][:, alive], keep=keep[:, alive])
        torch.testing.assert_close(found.weights[:, alive], without.weights, **EXACT)
        share = float(damped[5, 5]) * float(weights[:, 5].square().sum())
        assert found.error == pytest.approx(without.error + share)
        chosen = sparsegpt(weights * alive, damped, n_removed=ROWS)
        assert torch.equal(chosen.keep, alive.expand(ROWS, COLUMNS))
        assert chosen.error == 0
        assert torch.equal(chosen.weights, weights * alive)


def test_float32_chooses_and_repairs_as_float64_does() -> None:
    weights, hessian = problem(10, rows=32, columns=64, tokens=400)
    weights = weights.float()
    choices: list[dict[str, Any]] = [{"n_removed": 1024, "block": 16}, {"pattern": Pattern(2, 4)}]
    for asked in choices:
        single, double = sparsegpt(weights, hessian, **asked), sparsegpt(weights.double(), hessian, **asked)
        assert torch.equal(single.keep, double.keep)
        torch.testing.assert_close(single.weights.double(), double.weights, rtol=1e-4, atol=1e-4)
        assert single.error == pytest.approx(double.error, rel=1e-5)


def test_half_precision_weights_come_back_in_their_own_type_and_the_callers_stay() -> None:
    weights, hessian = problem(11)
    half = weights.bfloat16()
    keep = random_keep(11)
    before, kept = half.clone(), keep.clone()
    found = sparsegpt(half, hessian, keep=keep)
    assert found.weights.dtype == torch.bfloat16
    assert torch.equal(found.weights, sparsegpt(half.float(), hessian, keep=keep).weights.bfloat16())
    for dense in (weights, weights.float()):
        copy = dense.clone()
        sparsegpt(dense, hessian, n_removed=20)
        assert torch.equal(dense, copy)
    assert torch.equal(half, before)
    assert torch.equal(keep, kept)


def test_what_cannot_be_solved_is_refused() -> None:
    weights, hessian = problem(12)
    unclear: list[dict[str, Any]] = [
        {},
        {"n_removed": 1, "pattern": Pattern(2, 4)},
        {"n_removed": 0, "keep": random_keep(0)},
    ]
    for asked in unclear:
        with pytest.raises(ValueError, match="one of n_removed, pattern and keep"):
            sparsegpt(weights, hessian, **asked)
    for n_removed in (-1, 61):
        with pytest.raises(ValueError, match=f"{n_removed} of 60 weights can't be removed"):
            sparsegpt(weights, hessian, n_removed=n_removed)
    with pytest.raises(ValueError, match="at least 1 column wide, not 0"):
        sparsegpt(weights, hessian, n_removed=1, block=0)
    with pytest.raises(InputError, match="12 wide, which 8 doesn't divide"):
        sparsegpt(weights, hessian, pattern=Pattern(4, 8))
    with pytest.raises(InputError, match="raise the damping"):
        sparsegpt(weights, torch.ones(COLUMNS, COLUMNS, dtype=torch.float64), n_removed=1)

"""Conjugate gradients inside a mask against one least-squares problem a row."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.solvers.refit import lack, refit
from tests.oracles import sparsegpt as oracle

Made = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def made(seed: int, rows: int = 5, columns: int = 9, share: float = 0.5) -> Made:
    """Weights, a mask, correlated inputs (columns, tokens) and a target (rows, tokens), in float64."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(columns, columns)) @ random.normal(size=(columns, 60))
    parts = (random.normal(size=(rows, columns)), random.random((rows, columns)) < share, inputs)
    W, keep, X = (torch.from_numpy(part) for part in parts)
    return W, keep, X, W @ X + 3 * torch.from_numpy(random.normal(size=(rows, 60)))


def solved(W: torch.Tensor, H: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(oracle.least_squares(W.numpy(), H.numpy(), keep.numpy()))


@given(st.integers(0, 1000), st.floats(0.1, 0.95))
def test_the_outputs_of_other_weights_are_reached_as_by_least_squares_in_every_row(seed: int, share: float) -> None:
    W, keep, X, _ = made(seed, share=share)
    H = X @ X.T / 60
    found = refit(W, keep, H, W @ H, steps=60)
    torch.testing.assert_close(found, solved(W, H, keep), rtol=1e-5, atol=1e-6)
    assert not found[~keep].any()


@given(st.integers(0, 1000))
def test_any_target_is_reached_as_by_least_squares_from_any_start(seed: int) -> None:
    W, keep, X, T = made(seed)
    H = X @ X.T
    begin = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=W.shape))
    found = refit(begin, keep, H, T @ X.T, steps=60)
    for row, kept, target in zip(found, keep, T, strict=True):
        expected = np.linalg.lstsq(X[kept].T.numpy(), target.numpy())[0]
        np.testing.assert_allclose(row[kept].numpy(), expected, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 1000), st.floats(0.2, 1.0))
def test_every_step_lowers_the_error_until_it_is_least(seed: int, share: float) -> None:
    W, keep, X, T = made(seed, share=share)
    H, target = X @ X.T, T @ X.T
    least = float((solved(torch.linalg.solve(H, target, left=False), H, keep) @ X - T).square().sum())
    errors = [float((refit(W, keep, H, target, steps=steps) @ X - T).square().sum()) for steps in range(7)]
    assert errors[0] == float(((W * keep) @ X - T).square().sum())
    for before, after in pairwise(errors):
        arrived = before - least < 1e-8 * before
        assert after < before or arrived
        assert after >= least * (1 - 1e-9)


def test_as_many_steps_as_weights_that_stay_are_enough() -> None:
    W, _, X, _ = made(0)
    keep = torch.zeros(5, 9, dtype=torch.bool)
    keep[:, :3] = True
    H = X @ X.T
    expected = solved(W, H, keep)
    torch.testing.assert_close(refit(W, keep, H, W @ H, steps=3), expected)
    assert (refit(W, keep, H, W @ H, steps=2) - expected).abs().max() > 1e-3


def test_rows_with_nothing_left_are_zero_and_others_are_not_disturbed() -> None:
    W, keep, X, _ = made(3)
    keep[[0, 2]] = False
    H = X @ X.T
    found = refit(W, keep, H, W @ H, steps=60)
    assert not found[[0, 2]].any()
    torch.testing.assert_close(found, solved(W, H, keep))


def test_weights_that_are_there_already_stay() -> None:
    W, _, X, _ = made(4)
    H = X @ X.T
    torch.testing.assert_close(refit(W, torch.ones_like(W, dtype=torch.bool), H, W @ H), W)


def test_a_column_whose_inputs_are_always_zero_does_no_harm() -> None:
    W, keep, X, _ = made(5)
    X[4] = 0.0
    keep[:, 4] = torch.tensor([True, False, True, False, True])
    H = X @ X.T / 60
    H[4, 4] = 0.7  # what the damping gives it
    found = refit(W, keep, H, W @ H, steps=60)
    others = [i for i in range(9) if i != 4]
    alone = refit(W[:, others], keep[:, others], H[others][:, others], W[:, others] @ H[others][:, others], steps=60)
    torch.testing.assert_close(found[:, others], alone)
    torch.testing.assert_close(found[:, 4], W[:, 4] * keep[:, 4])


def test_float32_comes_as_near_as_its_digits_allow() -> None:
    W, keep, X, _ = made(6)
    H = X @ X.T / 60 + 0.01 * torch.eye(9)
    found = refit(W.float(), keep, H.float(), (W @ H).float(), steps=30)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), solved(W, H, keep), rtol=1e-3, atol=1e-4)


@given(st.integers(0, 1000))
def test_what_is_lacking_is_the_error_but_for_the_targets_square(seed: int) -> None:
    W, _, X, T = made(seed)
    expected: Any = ((W @ X - T).square().sum() - T.square().sum()).item()
    assert np.isclose(lack(W, X @ X.T, T @ X.T).item(), expected, rtol=1e-9, atol=1e-6)
    single = lack(W.float(), (X @ X.T).float(), (T @ X.T).float())
    assert single.dtype == torch.float64

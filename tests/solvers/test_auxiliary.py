"""Every auxiliary variable against a numerical minimiser of the objective that its docstring states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from torch.nn import functional

from graphprune.solvers.auxiliary import activation_input, factor_of, read_by, reading_gain, relu_input, with_slope

PHIS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "quick": lambda s: s * torch.sigmoid(1.702 * s),
}
penalties = st.floats(-3, 3).map(lambda exponent: 10.0**exponent)
values = st.floats(-4, 4)
names = st.sampled_from(sorted(PHIS))


def normal(random: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.normal(size=shape))


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize(("rows", "columns"), [(3, 6), (6, 3), (4, 4), (1, 5)])
@pytest.mark.parametrize("tie", [0.05, 2.0])
def test_what_a_layer_should_read_is_what_a_minimiser_finds(rows: int, columns: int, tie: float) -> None:
    random = np.random.default_rng(rows)
    W, target, near = normal(random, rows, columns), normal(random, 4, rows), normal(random, 4, columns)
    gain = reading_gain(W, tie)
    assert gain.shape == W.shape
    found = read_by(W, gain, target, near)
    for token in range(4):
        t, n, matrix = target[token].numpy(), near[token].numpy(), W.numpy()

        def objective(a: Any, t: Any = t, n: Any = n, matrix: Any = matrix) -> Any:
            return np.square(t - matrix @ a).sum() + tie * np.square(a - n).sum()

        expected = minimize(objective, n, method="BFGS", options={"gtol": 1e-9}).x
        np.testing.assert_allclose(found[token].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_gain_is_the_same_however_it_is_computed() -> None:
    """Whichever of rows and columns are fewer is what is factorised; both are the same matrix."""
    random = np.random.default_rng(0)
    for shape in ((3, 8), (8, 3)):
        W = normal(random, *shape)
        gram = W @ W.T + 0.3 * torch.eye(len(W), dtype=torch.float64)
        torch.testing.assert_close(reading_gain(W, 0.3), torch.linalg.inv(gram) @ W)


def test_a_layer_without_weights_leaves_what_it_reads_alone() -> None:
    random = np.random.default_rng(1)
    W, near = torch.zeros(3, 5, dtype=torch.float64), normal(random, 4, 5)
    assert torch.equal(read_by(W, reading_gain(W, 1.0), normal(random, 4, 3), near), near)


@given(values, values, values, penalties, penalties)
def test_a_factor_is_what_a_minimiser_finds(
    product: float, other: float, near: float, tie: float, weight: float
) -> None:
    found = factor_of(scalar(product), scalar(other), scalar(near), tie, weight).item()

    def objective(z: Any) -> Any:
        return weight * (product - z * other) ** 2 + tie * (z - near) ** 2

    expected = minimize_scalar(objective)
    assert objective(found) <= expected.fun * (1 + 1e-9) + 1e-12
    step = 1e-4 * (1 + abs(found))
    assert objective(found) <= min(objective(found - step), objective(found + step))


@given(values, values, penalties, penalties)
def test_a_relu_reads_the_global_minimum(activated: float, near: float, tie: float, weight: float) -> None:
    found = relu_input(scalar(activated), scalar(near), tie, weight).item()

    def objective(z: Any) -> Any:
        return weight * (activated - max(z, 0.0)) ** 2 + tie * (z - near) ** 2

    least = min(objective(z) for z in np.linspace(-10, 10, 401))
    for bounds in ((-10.0, 0.0), (0.0, 10.0)):  # a parabola on either side
        least = min(least, minimize_scalar(objective, bounds=bounds, method="bounded", options={"xatol": 1e-9}).fun)
    assert objective(found) <= least * (1 + 1e-6) + 1e-9


def test_both_branches_of_a_relu_are_taken() -> None:
    activated = torch.tensor([[2.0, 2.0, -3.0, 0.1]])
    near = torch.tensor([[-0.5, -9.0, 1.0, -5.0]])
    found = relu_input(activated, near, 1.0, 1.0)
    torch.testing.assert_close(found, torch.tensor([[0.75, -9.0, 0.0, -5.0]]))


vectors = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@given(names, vectors, vectors, vectors, st.floats(-6, 6), st.floats(-6, 6))
def test_what_an_activation_reads_never_raises_its_objective(
    name: str, activated: list[float], near: list[float], factor: list[float], tie: float, weight: float
) -> None:
    phi = PHIS[name]
    p, s, f = (torch.tensor([part], dtype=torch.float64) for part in (activated, near, factor))
    for other in (f, 1.0):
        found = activation_input(phi, p, other, s, 10.0**tie, 10.0**weight)
        before = 10.0**weight * (p - phi(s) * other).square()
        after = 10.0**weight * (p - phi(found) * other).square() + 10.0**tie * (found - s).square()
        assert found.isfinite().all()
        assert bool((after <= before * (1 + 1e-12)).all())


smooth = st.sampled_from(sorted(set(PHIS) - {"relu"}))


@given(smooth, st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_where_the_objective_slopes_it_is_lowered(name: str, activated: float, near: float, factor: float) -> None:
    """With a tie that outweighs the activation's curvature; otherwise the step need not be short enough."""
    phi, tie = PHIS[name], 100.0
    p, s, f = scalar(activated), scalar(near), scalar(factor)

    def cost(moved: torch.Tensor) -> float:
        return float((p - phi(moved) * f).square() + tie * (moved - s).square())

    slope = (cost(s + 1e-5) - cost(s - 1e-5)) / 2e-5
    found = activation_input(phi, p, f, s, tie, 1.0)
    if abs(slope) > 1e-3:
        assert cost(found) < cost(s)
        assert (found - s).item() * slope < 0


def test_a_step_that_is_too_long_is_not_made() -> None:
    """Steps of the hyperbolic tangent, which flattens: the flatter it is, the longer they are."""
    near = torch.linspace(-4, 4, 801, dtype=torch.float64)[None]
    p, tie = torch.full_like(near, 0.5), 1e-6

    def cost(s: torch.Tensor) -> torch.Tensor:
        return (p - torch.tanh(s)).square() + tie * (s - near).square()

    found = activation_input(torch.tanh, p, 1.0, near, tie, 1.0)
    slope = 1 - torch.tanh(near).square()
    step = slope * (p - torch.tanh(near)) / (tie + slope.square())
    moved = ((found - near) / step).round(decimals=6)
    assert set(moved[step.abs() > 1e-6].tolist()) == {0.0, 1.0}
    assert bool((cost(near + step)[moved == 0] >= cost(near)[moved == 0]).all())


@given(names, st.lists(st.floats(-8, 8), min_size=1, max_size=6))
def test_slopes_are_finite_differences(name: str, points: list[float]) -> None:
    s = torch.tensor([points], dtype=torch.float64)
    s = torch.where(s.abs() < 1e-4, 0.5, s)  # a ReLU has none at 0
    value, slope = with_slope(PHIS[name], s)
    torch.testing.assert_close(value, PHIS[name](s))
    difference = (PHIS[name](s + 1e-6) - PHIS[name](s - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-7)
    assert not value.requires_grad
    assert not slope.requires_grad


def test_slopes_are_there_where_gradients_are_off() -> None:
    s = torch.tensor([[0.3, -1.0]])
    with torch.no_grad():
        _, slope = with_slope(torch.tanh, s)
    torch.testing.assert_close(slope, 1 - torch.tanh(s).square())

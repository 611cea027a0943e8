"""Gradient steps on what stays: never worse, masks as they are, the same bits every time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune import Model
from graphprune.calibration.text import spread, windows
from graphprune.core.mask import WEIGHT
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Recipe
from graphprune.models.model import build_causal_lm
from graphprune.pruning import Evidence, apply
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.reconstruct import reconstructed
from tests.solvers.test_joint import case, networks
from tests.solvers.test_network import GATED
from tests.solvers.test_sequential import TEXTS


@settings(max_examples=20)
@given(networks, st.integers(0, 1000), st.floats(0.2, 0.9), st.integers(1, 4))
def test_the_result_never_errs_more_than_what_it_began_with(
    kind: tuple[str, str], seed: int, sparsity: float, passes: int
) -> None:
    c = case(*kind, sparsity, seed=seed)
    for start in (c.problem.local(), c.problem.masked()):
        found = reconstructed(c.problem, start, passes)
        assert found.errors[0] == start.errors[0]
        assert found.errors[-1] <= start.errors[-1]
        assert c.error(found) <= c.error(start) * (1 + 1e-4) + 1e-5
        assert found.errors[-1] == pytest.approx(c.error(found), rel=2e-3, abs=1e-5)
        for W, stays, before in zip(found.weights, found.keep, start.keep, strict=True):
            assert torch.equal(stays, before)
            assert not W[~stays].any()
            assert not W.requires_grad


@pytest.mark.parametrize(("what", "phi"), [(GATED, "silu"), ("two", "relu"), ("three", "tanh")])
def test_it_pays_and_more_passes_pay_more(what: str, phi: str) -> None:
    c = case(what, phi, 0.6, tokens=600)
    start = c.problem.local()
    few, many = (reconstructed(c.problem, start, passes).errors[-1] for passes in (5, 60))
    assert many < few <= start.errors[-1]
    assert many < 0.8 * start.errors[-1]


def test_steps_that_do_not_lower_the_error_are_not_made() -> None:
    c = case(GATED, "silu", 0.0)
    start = c.problem.local()
    assert start.errors[-1] < 1e-6
    assert reconstructed(c.problem, start, 3) is start


def test_the_same_problem_has_the_same_solution_to_the_last_bit() -> None:
    found = []
    for seed in (1, 200):
        with torch.random.fork_rng():
            torch.rand(seed)  # whatever has been drawn before has no part in it
            c = case(GATED, "silu", tokens=700)
            found.append(reconstructed(c.problem, c.problem.local(), 3))
    assert found[0].errors == found[1].errors
    assert len(found[0].errors) == 2
    assert all(torch.equal(a, b) for a, b in zip(found[0].weights, found[1].weights, strict=True))


def test_where_nothing_is_left_nothing_moves() -> None:
    c = case(GATED, "silu", 1.0)
    found = reconstructed(c.problem, c.problem.local(), 2)
    assert not any(W.any() for W in found.weights)
    assert found.errors[-1] == pytest.approx(1.0)


def test_a_trained_models_mlps_err_less_than_by_second_order_repair_alone(tiny: Model) -> None:
    text = (TEXTS / "calibration.txt").read_text(encoding="utf-8")
    rows = spread(windows(tiny.tokenizer, text, 128), 10)
    evidence = Evidence.of_text(tiny, rows, dtype=torch.float32)
    local = apply(Recipe.of("sparsegpt"), 0.7, evidence)
    moved = apply(Recipe.of("sparsegpt", compensation="reconstruct", joint=JointOptions(iterations=5)), 0.7, evidence)
    assert moved.operated is not None
    errors = [moved.operated.notes[f"mlp_error.{layer}"].tolist() for layer in range(6)]
    assert all(after <= before for before, *_, after in errors)
    assert np.mean([after / before for before, *_, after in errors]) < 0.9
    for name in moved.operated.parameters:
        assert not moved.model.parameters[name][~moved.mask.keep[f"{WEIGHT}{name}"]].any()
    values = [
        perplexity(build_causal_lm(tiny.config, found.model.parameters, None, torch.float32), rows)
        for found in (local, moved)
    ]
    assert values[1] < values[0]

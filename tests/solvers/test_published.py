"""The published alternation against one that is written out round by round."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.published import published
from tests.oracles import slimgpt, sparsellm
from tests.oracles import sparsegpt as oracle
from tests.solvers.test_joint import DAMPING, case
from tests.solvers.test_network import numpy

NETWORKS: dict[str, tuple[Sequence[int] | None, str]] = {"gated": (None, "silu"), "plain": ((6, 8, 4), "relu")}


def options(iterations: int, **given: Any) -> JointOptions:
    return JointOptions(iterations=iterations, variant="published", **given)


def choosing(share: float, pattern: tuple[int, int] | None = None) -> sparsellm.Choose:
    def choose(_: int, W: Any, read: Any) -> Any:
        how: dict[str, Any] = {"pattern": pattern} if pattern else {"n_removed": int(share * W.size)}
        return oracle.prune(W, slimgpt.damped(read.T, DAMPING), **how)

    return choose


@pytest.mark.parametrize("what", NETWORKS)
@pytest.mark.parametrize("iterations", [1, 2, 4])
@pytest.mark.parametrize("penalties", [{}, {"alpha": 1.0, "beta": 3.0, "gamma": 0.5}], ids=["5", "others"])
def test_every_round_is_as_published(what: str, iterations: int, penalties: dict[str, float]) -> None:
    sizes, phi = NETWORKS[what]
    c = case(sizes or "gated", phi, 0.4, tokens=150)
    found = published(c.problem, options(iterations, **penalties))
    weights, keep, errors = sparsellm.published(c.made.net, c.made.read, choosing(0.4), iterations, **penalties)
    assert len(found.errors) == len(errors) == iterations
    for stays, expected in zip(found.keep, keep, strict=True):
        assert np.array_equal(stays.numpy(), expected)
    for W, values in zip(found.weights, weights, strict=True):
        np.testing.assert_allclose(numpy(W), values, rtol=5e-3, atol=5e-4)
    assert found.errors == pytest.approx(errors, rel=1e-2)


def test_a_pattern_is_chosen_anew_in_every_round() -> None:
    c = case((8, 12, 4), "relu", Pattern(2, 4), tokens=150)
    found = published(c.problem, options(3))
    weights, keep, _ = sparsellm.published(c.made.net, c.made.read, choosing(0, (2, 4)), 3)
    for stays, expected, W, values in zip(found.keep, keep, found.weights, weights, strict=True):
        assert np.array_equal(stays.numpy(), expected)
        np.testing.assert_allclose(numpy(W), values, rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("what", NETWORKS)
def test_masks_change_from_round_to_round_and_the_last_is_taken_whatever_its_error(what: str) -> None:
    """Or the tests above would say nothing about either."""
    sizes, phi = NETWORKS[what]
    changed, rises = 0, 0
    for seed in range(6):
        c = case(sizes or "gated", phi, 0.6, seed=seed)
        first, last = published(c.problem, options(1)), published(c.problem, options(4))
        assert first.errors[0] == last.errors[0]
        assert last.errors[-1] == pytest.approx(c.error(last), rel=2e-3)
        changed += any(not bool((a == b).all()) for a, b in zip(first.keep, last.keep, strict=True))
        rises += any(after > before for before, after in pairwise(last.errors))
    assert changed > 2
    assert rises


@pytest.mark.parametrize("chunk", [7, 40])
def test_the_auxiliary_variables_of_every_chunk_are_its_own(chunk: int) -> None:
    whole = published(case("gated", "silu").problem, options(3))
    pieces = published(case("gated", "silu", chunk=chunk).problem, options(3))
    for a, b in zip(whole.weights, pieces.weights, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize(("sizes", "phi"), [((6, 8, 5, 4), "relu"), ((6, 8, 4), "silu"), ((6, 8, 4), "tanh")])
def test_other_networks_are_refused(sizes: Sequence[int], phi: str) -> None:
    with pytest.raises(InputError, match="for gated MLPs, and for two layers with a ReLU between them"):
        published(case(sizes, phi).problem, options(2))

"""Two scorers: what both remove, and where they differ."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from graphprune import plots
from graphprune.core.scores import Scores
from graphprune.plots.compared import ranked_alike


def made(seed: int, *, model: str = "") -> Scores:
    generator = torch.Generator().manual_seed(seed)
    values = {f"neuron.{layer}": torch.rand(40, generator=generator) for layer in range(3)}
    return Scores(values, f"made {seed}", model=model)


def test_places_are_shares_of_the_kind_that_rank_lower() -> None:
    (ranked,) = ranked_alike(made(0), made(1))
    everything = torch.cat([*made(0).values.values()]).numpy()
    np.testing.assert_allclose(ranked.places[0], (rankdata(everything) - 1) / 119)
    assert ranked.name(41) == "neuron.1.1"


def test_a_scorer_removes_what_it_removes_and_its_reverse_removes_the_others() -> None:
    a = made(0)
    reverse = Scores({name: 1 - values for name, values in a.values.items()}, "reverse")
    same = plots.overlap(a, a, labels=("a", "a")).data[0]
    assert list(same.y) == [1.0] * len(same.x)
    other = plots.overlap(a, reverse, labels=("a", "b")).data[0]
    assert all(y == 0 for x, y in zip(other.x, other.y, strict=True) if x < 0.5)


def test_unrelated_orders_are_a_third_apart_and_equal_ones_not_at_all() -> None:
    apart = plots.disagreement(made(0), made(1), labels=("a", "b")).data[0]
    assert list(apart.x) == [0, 1, 2]
    assert np.mean(apart.y) == pytest.approx(1 / 3, abs=0.06)
    assert list(plots.disagreement(made(0), made(0), labels=("a", "b")).data[0].y) == [0, 0, 0]


def test_scores_that_cannot_be_compared_say_why() -> None:
    with pytest.raises(ValueError, match="different models"):
        ranked_alike(made(0, model="one"), made(1, model="two"))
    with pytest.raises(ValueError, match="no units in common"):
        ranked_alike(made(0), Scores({"head.0": torch.rand(2)}, "heads"))

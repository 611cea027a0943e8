"""Audits: what is caught, what is let pass, and on which numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from graphprune import CalibrationStats, Model, Scores, calibrate, score
from graphprune.comparison.audit import (
    Exchanged,
    alternatives,
    baselines_of,
    equals_baseline,
    flips,
    loses_to_random,
    mostly_depth,
    switched_off,
)
from graphprune.scorers import SCORERS, make_scorer
from graphprune.scorers.inputs import ScoringInputs
from tests import families
from tests.plots.made import unit_scores


@pytest.fixture(scope="module")
def model() -> Model:
    return families.decoder("llama")


@pytest.fixture(scope="module")
def stats(model: Model) -> CalibrationStats:
    return calibrate(model, families.token_ids(6, 12))


def changed(scores: Scores, **values: Any) -> Scores:
    return replace(scores, values={**scores.values, **values})


def test_a_baseline_is_recognised_by_another_name(model: Model, stats: CalibrationStats) -> None:
    scores = score(model, "activation", stats=stats)
    renamed = replace(scores, method="novel", values={name: 3 * v.log() for name, v in scores.values.items()})
    found = equals_baseline("novel", renamed, baselines_of(model, stats))
    assert (found.flagged, found.number) == (True, 1.0)
    assert found.text == "ranks the units in the same order as activation"


def test_a_baseline_upside_down_is_recognised(model: Model) -> None:
    scores = score(model, "magnitude")
    upside = replace(scores, method="novel", values={name: -v for name, v in scores.values.items()})
    found = equals_baseline("novel", upside, baselines_of(model, None))
    assert (found.flagged, found.number) == (True, -1.0)


def test_a_baseline_that_is_scaled_in_every_layer_is_recognised(model: Model, stats: CalibrationStats) -> None:
    scores = score(model, "activation", stats=stats)
    values = {name: v / v.max() / (1 + i) for i, (name, v) in enumerate(scores.values.items())}
    assert equals_baseline("novel", replace(scores, method="novel", values=values), baselines_of(model, stats)).flagged


def test_nearly_a_baseline_is_one_and_something_else_is_not() -> None:
    base = {"neuron.0": torch.arange(1000.0)}
    near = Scores({"neuron.0": torch.arange(1000.0)}, "near")
    near.values["neuron.0"][:2] = torch.tensor([1.0, 0.0])
    found = equals_baseline("near", near, {"magnitude": base})
    assert found.flagged
    assert found.number is not None
    assert 0.999 < found.number < 1
    other = Scores({"neuron.0": torch.rand(1000, generator=torch.Generator().manual_seed(0))}, "other")
    assert equals_baseline("other", other, {"magnitude": base}).flagged is False


def test_likeness_in_one_kind_and_the_reverse_in_another_is_none() -> None:
    base = {"head.0": torch.arange(8.0), "neuron.0": torch.arange(8.0)}
    mixed = Scores({"head.0": torch.arange(8.0), "neuron.0": -torch.arange(8.0)}, "mixed")
    assert equals_baseline("mixed", mixed, {"magnitude": base}).flagged is False


def test_constant_scores_cannot_be_told_from_a_baseline() -> None:
    flat = Scores({"neuron.0": torch.ones(8)}, "flat")
    found = equals_baseline("flat", flat, {"magnitude": {"neuron.0": torch.arange(8.0)}})
    assert (found.flagged, found.number) == (None, None)


def test_a_scorer_is_not_held_against_itself(model: Model) -> None:
    found = equals_baseline("magnitude", score(model, "magnitude"), {"magnitude": score(model, "magnitude").values})
    assert found.flagged is None


def test_losing_to_random_is_a_matter_of_measurement() -> None:
    assert loses_to_random("a", 0.2, None, 50.0).flagged is None
    assert loses_to_random("a", 0.2, 60.0, 50.0).flagged is True
    assert loses_to_random("a", 0.2, 60.0, 50.0).number == pytest.approx(1.2)
    assert loses_to_random("a", 0.2, 40.0, 50.0).flagged is False


def test_what_changes_from_seed_to_seed_is_counted() -> None:
    first = Scores({"neuron.0": torch.arange(10.0), "neuron.1": torch.arange(10.0)}, "a")
    other = changed(first, **{"neuron.1": torch.tensor([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 0])})  # 0 and 9 change places
    found = flips("a", [first, other], 0.2)
    assert found.number == pytest.approx(1 / 4)
    assert found.flagged
    assert flips("a", [first, first, first], 0.2).number == 0
    assert flips("a", [first], 0.2).flagged is None
    assert flips("a", [], 0.2).flagged is False
    assert "text" in flips("a", [first, other], 0.2, check="text").text


def test_depth_is_the_variance_of_ranks_between_blocks() -> None:
    scores = unit_scores(0)
    found = mostly_depth("a", scores)
    shares = []
    for kind, size in (("head", 4), ("neuron", 24)):
        ranks = rankdata(torch.cat([scores.values[f"{kind}.{i}"] for i in range(2)]).numpy())
        means = [ranks[:size].mean(), ranks[size:].mean()]
        shares.append(size * sum((m - ranks.mean()) ** 2 for m in means) / ((ranks - ranks.mean()) ** 2).sum())
    assert found.number == pytest.approx(max(shares))
    deep = changed(scores, **{"neuron.1": scores.values["neuron.1"] + 1})
    assert mostly_depth("deep", deep).flagged
    assert mostly_depth("deep", deep).number == pytest.approx(0.75, abs=0.01)
    flat = changed(scores, **{name: torch.zeros_like(v) for name, v in scores.values.items()})
    assert mostly_depth("flat", flat).number == 0


def test_exchanged_parameters_are_the_same_weights_at_other_places(model: Model) -> None:
    other = Exchanged(model.parameters)
    assert set(other) == set(model.parameters)
    assert len(other) == len(model.parameters)
    for name in model.parameters:
        before, after = model.parameters[name], other[name]
        assert torch.equal(after, other[name])
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
        assert other.shapes[name] == tuple(before.shape)
        assert torch.equal(before, after) == (before.ndim < 2)


def test_llmrank_without_its_graph_is_caught_and_with_it_is_not(model: Model, stats: CalibrationStats) -> None:
    inputs = ScoringInputs(model, stats)
    found = switched_off("llmrank", make_scorer("llmrank", gamma=0.0), inputs)
    assert (found.flagged, found.number) == (True, 1.0)
    assert "with gamma=0.0 no edge has a part in its ranking; with gamma=1.0 it has" in found.text
    on = switched_off("llmrank", make_scorer("llmrank"), inputs)
    assert on.flagged is False
    assert on.number is not None
    assert on.number < 0.9
    off = equals_baseline("llmrank", score(model, "llmrank", stats=stats, gamma=0.0), baselines_of(model, stats))
    assert off.text == "ranks the units in the same order as activation of up"


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "taylor"])
def test_no_default_of_ours_switches_a_scorer_off(name: str, model: Model, stats: CalibrationStats) -> None:
    found = switched_off(name, make_scorer(name), ScoringInputs(model, stats))
    assert found.flagged is False
    assert ("looks at no edge" in found.text) == (name in {"random", "activation"})


def test_every_option_is_tried_away_from_its_value() -> None:
    tried = list(alternatives(make_scorer("graphrank")))
    assert {option for option, _ in tried} == {"direction", "weight", "alpha", "personalization", "normalisation"}
    assert ("direction", "backward") not in tried
    assert ("direction", "forward") not in tried  # it refuses that with the outputs as its start
    assert tried[0][0] == "alpha"
    assert not list(alternatives(make_scorer("wanda")))


def test_baselines_without_calibration_are_the_weights_and_chance(model: Model, stats: CalibrationStats) -> None:
    assert set(baselines_of(model, None)) == {"magnitude", "magnitude, L2", "random"}
    found = baselines_of(model, stats)
    assert set(found) == {"magnitude", "magnitude, L2", "random", "activation", "activation of up"}
    assert np.allclose(found["activation of up"]["neuron.1"], stats.rms("up.1"))
    perceptron = families.perceptron()
    measured = calibrate(perceptron, torch.randn(32, 6, generator=torch.Generator().manual_seed(1)))
    assert "activation" in baselines_of(perceptron, measured)

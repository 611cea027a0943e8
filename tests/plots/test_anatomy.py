"""The model as a picture, sparsity by block, and what a mask divides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphprune import plots
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.models.model import Model


def scored(model: Model) -> Scores:
    generator = torch.Generator().manual_seed(0)
    return Scores({group.name: torch.rand(group.size, generator=generator) for group in model.units}, "wanda")


def half(model: Model) -> Mask:
    """Without the first half of the neurons of block 1."""
    mask = Mask.full(model.units)
    gone = mask.keep["neuron.1"].clone()
    gone[: len(gone) // 2] = False
    return replace(mask, keep={**mask.keep, "neuron.1": gone})


def test_bars_are_as_long_as_their_parameters_and_what_goes_is_apart(model: Model) -> None:
    figure = plots.anatomy(model.units, scores=scored(model), mask=half(model))
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    group = model.units["neuron.1"]
    everything = group.size * group.parameters_per_unit
    assert list(bars["MLP"].x) == [everything, everything / 2]
    assert list(bars["MLP that goes"].x) == [0, everything / 2]
    assert sum(sum(trace.x) for trace in bars.values()) == model.units.prunable_parameters()
    assert [each[0] for each in bars["attention"].customdata] == ["head.0", "head.1"]


def test_colours_are_shares_of_the_highest_mean_of_the_kind(model: Model) -> None:
    scores = scored(model)
    figure = plots.anatomy(model.units, scores=scores)
    means = np.array([float(scores.values[f"neuron.{i}"].double().mean()) for i in range(2)])
    (bar,) = [trace for trace in figure.data if trace.name == "MLP"]
    np.testing.assert_allclose(np.array(bar.marker.color, dtype=float), means / means.max())


def test_every_unit_is_counted_once_as_staying_or_going(model: Model) -> None:
    figure = plots.kept_and_removed(scored(model), half(model), ["neuron.0", "neuron.1"])
    counts = {trace.name.split(":")[0]: int(sum(trace.y)) for trace in figure.data}
    size = model.units["neuron.1"].size
    assert counts == {"stays": 2 * size - size // 2, "goes": size // 2}


def test_what_cannot_be_drawn_says_why(model: Model) -> None:
    with pytest.raises(ValueError, match="at least one"):
        plots.kept_and_removed(scored(model), half(model), [])
    with pytest.raises(ValueError, match=r"resid\.0 has no scores"):
        plots.kept_and_removed(scored(model), half(model), ["resid.0"])

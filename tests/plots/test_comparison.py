"""Figures of a comparison, by their data."""

import numpy as np
import pytest

from graphprune.plots import agreement_matrix, block_agreement, overlap_curves
from tests.plots.made import compared


def test_the_matrix_shows_every_pair_with_similar_scorers_beside_each_other() -> None:
    found = compared()
    (trace,) = agreement_matrix(found, "kendall", "neuron.0").data
    labels = [found.labels[i] for i in found.order]
    assert list(trace.x) == list(trace.y) == labels
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            assert trace.z[i][j] == found.agreed(a, b, "kendall", "neuron.0").value
    assert (trace.zmin, trace.zmax) == (-1, 1)
    assert "over calibration seeds" in trace.hovertext[labels.index("a")][labels.index("b")]
    assert "one calibration seed" in trace.hovertext[labels.index("a")][labels.index("flat")]


def test_what_is_not_defined_is_blank_and_explained() -> None:
    figure = agreement_matrix(compared(), scope="neuron.1")
    (trace,) = figure.data
    at = list(trace.x).index("flat")
    assert np.isnan([row[at] for row in trace.z]).all()
    assert trace.hovertext[0][at].endswith("flat scores all units of neuron.1 alike")
    assert "blank" in figure.layout.title.subtitle.text


def test_overlaps_have_no_negative_colours() -> None:
    (trace,) = agreement_matrix(compared(), "jaccard", budget=0.3).data
    assert (trace.zmin, trace.zmax) == (0, 1)


def test_a_curve_is_the_overlap_at_every_budget_beside_that_by_chance() -> None:
    found = compared()
    figure = overlap_curves(found, "a", scope="neuron")
    curves = {trace.name: trace for trace in figure.data}
    assert set(curves) == {"b", "flat", "by chance"}
    for i, budget in enumerate((0.1, 0.3, 0.5)):
        agreed = found.agreed("a", "b", "jaccard", "neuron", budget=budget)
        assert agreed.value is not None
        assert agreed.high is not None
        assert curves["b"].y[i] == agreed.value
        assert curves["b"].error_y.array[i] == pytest.approx(agreed.high - agreed.value)
        assert curves["by chance"].y[i] == pytest.approx(budget / (2 - budget))
    assert curves["flat"].error_y.array is None


def test_blocks_are_columns_and_kinds_are_panels() -> None:
    found = compared()
    heads, neurons = block_agreement(found, "a", "rbo").data
    assert list(heads.x) == list(neurons.x) == [0, 1]
    row = list(neurons.y).index("b")
    assert neurons.z[row][1] == found.agreed("a", "b", "rbo", "neuron.1").value
    assert heads.z[row][0] == found.agreed("a", "b", "rbo", "head.0").value
    assert "a" not in heads.y


def test_who_was_not_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="'z' was not compared"):
        overlap_curves(compared(), "z")

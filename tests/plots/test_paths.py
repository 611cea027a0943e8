"""Paths, a row each."""

from math import log

import pytest

from graphprune import plots

PATHS = [
    (["resid.0.3", "neuron.0.1", "neuron.0.1", "resid.2.0"], log(0.5)),
    (["resid.0.3", "head.0.0", "head.0.0", "resid.1.2", "neuron.0.1", "resid.2.0"], log(0.125)),
]


def test_a_row_shows_the_units_that_a_path_passes_once_and_frames_the_selected() -> None:
    figure = plots.strongest_paths("neuron.0.1", PATHS)
    marks = {trace.name: trace for trace in figure.data if trace.name}
    assert [each[0] for each in marks["neurons"].customdata] == ["neuron.0.1", "neuron.0.1"]
    assert list(marks["neurons"].y) == [1, 2]
    assert (list(marks["attention heads"].x), list(marks["neurons"].x)) == ([0.5], [1.5, 1.5])
    assert marks["neurons"].marker.line.width[0] > marks["attention heads"].marker.line.width[0]
    assert list(marks["residual stream"].text) == ["3", "0", "3", "2", "0"]
    assert (list(marks["neurons"].text), list(marks["attention heads"].text)) == (["", ""], ["head.0.0"])
    assert list(figure.layout.yaxis.ticktext) == ["1.00", "0.25"]
    assert "the best carries 50.0%" in figure.layout.title.subtitle.text


def test_paths_too_weak_for_a_number_are_told_by_their_power() -> None:
    figure = plots.strongest_paths("neuron.0.1", [(PATHS[0][0], -2000.0)])
    assert "carries 1e-869 of" in figure.layout.title.subtitle.text


def test_a_unit_without_paths_says_so() -> None:
    with pytest.raises(ValueError, match=r"through head\.0"):
        plots.strongest_paths("head.0.1", [])

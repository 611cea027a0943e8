"""A study as curves."""

import pytest

from graphprune.plots import study_curves
from graphprune.studies.table import Table
from tests.plots.made import studied


def test_a_panel_a_quality_and_a_line_a_method_from_the_dense_model_on() -> None:
    figure = study_curves(studied())
    wanda, random, retained, _ = figure.data
    assert [trace.name for trace in figure.data] == ["wanda", "random"] * 2
    assert (list(wanda.x), list(wanda.y)) == ([0, 0.2, 0.4], [10, 13, 20])
    assert list(random.x) == [0, 0.2], "what is not finite is left out"
    assert list(retained.y) == [1, 0.5, 0.5]
    assert wanda.error_y.array[1] == pytest.approx(2**0.5)
    assert (wanda.error_y.visible, random.error_y.visible) == (True, False)
    assert (figure.layout.yaxis.type, figure.layout.yaxis2.type) == ("log", None)
    assert figure.layout.yaxis2.title.text == "accuracy retained, piqa"
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert figure.layout.title.text == "Methods side by side"


def test_nothing_that_was_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="at least one pruned model that was measured"):
        study_curves(Table("title", studied().rows[:1]))

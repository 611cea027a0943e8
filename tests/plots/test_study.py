"""A study as curves."""

from dataclasses import replace

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
    assert [10**end for end in figure.layout.yaxis.range] == pytest.approx([9.5, 94.5])
    assert figure.layout.yaxis2.title.text == "accuracy retained, piqa"
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert figure.layout.title.text == "Methods side by side"


def test_nothing_that_was_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="at least one pruned model that was measured"):
        study_curves(Table("title", studied().rows[:1]))


def test_what_explodes_leaves_the_picture() -> None:
    table = studied()
    worse = replace(table.rows[-1], means={"perplexity.text": 1e6})
    figure = study_curves(replace(table, rows=(*table.rows[:-1], worse)))
    assert 10 ** figure.layout.yaxis.range[1] == pytest.approx(15 * 10 * 1.05)
    assert list(figure.data[1].y) == [10, 90, 1e6]

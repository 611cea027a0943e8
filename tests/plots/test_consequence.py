"""Figures of consequences, by their data."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from graphprune.comparison.consequence import Series
from graphprune.plots import percolation_curves, predictive, robustness_curves
from tests.plots.made import consequences


def test_percolation_is_a_line_a_series_from_the_dense_graph_on() -> None:
    figure = percolation_curves(consequences(), "path_mass")
    lines = {trace.name: trace for trace in figure.data}
    assert set(lines) == {"a", "b", "c"}
    assert list(lines["b"].x) == [0, 0.2, 0.4]
    assert list(lines["b"].y) == [1, 0.7, 0.4]
    assert figure.layout.yaxis.tickformat == ".0%"


def test_robustness_tells_repaired_models_by_their_dashes() -> None:
    figure = robustness_curves(consequences())
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["a"].y) == [10, 20, 40]
    assert lines["a"].line.color == lines["a + obs"].line.color
    assert (lines["a"].line.dash, lines["a + obs"].line.dash) == ("solid", "dash")
    assert figure.layout.yaxis.type == "log"
    assert robustness_curves(consequences(), "kl").layout.yaxis.type != "log"


def test_what_is_not_finite_is_left_out() -> None:
    found = consequences()
    rows = tuple(
        replace(row, quality={"perplexity": float("inf"), "kl": 1.0}) if row.series.scorer == "c" else row
        for row in found.rows
    )
    names = [trace.name for trace in robustness_curves(replace(found, rows=rows)).data]
    assert names == ["a", "a + obs", "b"]


def test_what_tells_the_damage_is_a_bar_a_quantity() -> None:
    found = consequences()
    perplexity, kl = predictive(found).data
    assert list(perplexity.y) == [found.predicted_by("path_mass").value, found.predicted_by("entropy").value]
    assert len(kl.x) == 2


def test_what_cannot_be_drawn_is_refused() -> None:
    found = consequences()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: percolation_curves(found, "perplexity"), "the graph has path_mass"),
        (lambda: percolation_curves(found, "reach"), "reach is known of no mask"),
        (lambda: robustness_curves(found, "reach"), "perplexity and kl, not 'reach'"),
        (lambda: robustness_curves(found, series=[Series("nobody")]), "perplexity is known of no mask"),
        (lambda: predictive(replace(found, rows=())), "no quantity of the graph"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()

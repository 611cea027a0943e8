"""Figures of a predictor show its numbers, and nothing else."""

import pytest

from graphprune.plots import importance, learning_curve, predicted_and_measured

IMPORTANCE = {"head.1": (0.3, 0.02), "neuron.0": (0.1, 0.01), "head.0": (0.2, 0.05), "neuron.1": (0.4, 0.0)}


def test_importance_has_a_bar_for_every_group_in_order_of_depth() -> None:
    figure = importance(IMPORTANCE)
    attention, mlp = figure.data
    assert (attention.name, mlp.name) == ("attention heads", "neurons")
    assert list(attention.x) == list(mlp.x) == [0, 1]
    assert list(attention.y) == [0.2, 0.3]
    assert list(mlp.y) == [0.1, 0.4]
    assert list(attention.error_y.array) == [0.05, 0.02]
    assert len(importance({"neuron.0": (0.1, 0.0)}).data) == 1


def test_a_learning_curve_is_drawn_in_order_of_pairs() -> None:
    figure = learning_curve({"both": {40: (0.9, 0.02), 10: (0.6, 0.1)}, "trees": {10: (0.5, 0.2)}})
    first, second = figure.data
    assert list(first.x) == [10, 40]
    assert list(first.y) == [0.6, 0.9]
    assert list(first.error_y.array) == [0.1, 0.02]
    assert second.name == "trees"


def test_predictions_are_drawn_over_what_was_measured_with_their_intervals() -> None:
    rows: list[dict[str, float | None]] = [
        {"predicted": 20.0, "low": 18.0, "high": 23.0, "measured": 21.0},
        {"predicted": 30.0, "low": 29.0, "high": 31.0, "measured": 35.0},
        {"predicted": 40.0, "low": 39.0, "high": 41.0, "measured": None},
    ]
    figure = predicted_and_measured(rows)
    diagonal, points = figure.data
    assert list(points.x) == [21.0, 35.0]
    assert list(points.y) == [20.0, 30.0]
    assert list(points.error_y.array) == [3.0, 1.0]
    assert list(points.error_y.arrayminus) == [2.0, 1.0]
    assert list(diagonal.x) == list(diagonal.y) == [18.0, 35.0]
    assert "1 of 2 within" in figure.layout.title.subtitle.text


def test_what_can_not_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one group"):
        importance({})
    for name in ("block.0.attn", "resid.1", "head", "head.x"):
        with pytest.raises(ValueError, match="no group of heads or neurons"):
            importance({name: (0.1, 0.0)})
    with pytest.raises(ValueError, match="at least one learning curve"):
        learning_curve({"both": {}})
    with pytest.raises(ValueError, match="at least one architecture"):
        predicted_and_measured([{"predicted": 1.0, "low": 1.0, "high": 1.0, "measured": None}])

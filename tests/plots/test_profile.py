"""Profiles: what is in the cells, in which order, and how it is scaled."""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from graphprune import Mask, Model, Scores
from graphprune.centrality import distances, pagerank, path_mass
from graphprune.core.graph import ModelGraph
from graphprune.plots import profile
from tests.plots.made import measured, outside

PANELS = ["residual stream", "attention heads", "neurons"]


def panels(figure: go.Figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def numbers(figure: go.Figure) -> np.ndarray[Any, Any]:
    """What the cells stand for, all panels side by side."""
    return np.concatenate([np.asarray(trace.customdata, dtype=float) for trace in figure.data], axis=1)


def colours(figure: go.Figure) -> np.ndarray[Any, Any]:
    return np.concatenate([np.asarray(trace.z, dtype=float) for trace in figure.data], axis=1)


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_a_cell_is_the_sum_or_the_mean_over_the_units_of_a_layer(graph: ModelGraph, aggregate: Any) -> None:
    result = measured(graph, aggregate=aggregate)
    figure = profile(graph, [result])
    assert panels(figure) == PANELS
    assert [list(trace.x) for trace in figure.data] == [[0, 1, 2, 3, 4], [0, 1], [0, 1]]
    spans = [("resid", i) for i in range(5)] + [("attn", 0), ("attn", 1), ("neuron", 0), ("neuron", 1)]
    parts = [graph.nodes.of(result.scores, kind, layer) for kind, layer in spans]
    expected = [float(part.sum() if aggregate == "sum" else part.mean()) for part in parts]
    np.testing.assert_allclose(numbers(figure), [expected], rtol=1e-6)


def test_every_row_is_scaled_to_its_own_highest_cell_over_all_panels(graph: ModelGraph) -> None:
    result = measured(graph)
    results = {
        "as it is": result,
        "larger": replace(result, scores=1000 * result.scores),
        "other": measured(graph, seed=1),
    }
    figure = profile(graph, results)
    shown, raw = colours(figure), numbers(figure)
    np.testing.assert_allclose(shown, raw / raw.max(axis=1, keepdims=True))
    np.testing.assert_allclose(shown[0], shown[1], rtol=1e-6)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert len({trace.coloraxis for trace in figure.data}) == 1


def test_rows_are_in_the_order_in_which_measures_are_given(graph: ModelGraph) -> None:
    results = [measured(graph, "katz"), measured(graph, "hits"), measured(graph, "path_mass")]
    figure = profile(graph, results)
    assert [list(trace.y) for trace in figure.data] == [["Katz", "HITS", "path mass"]] * 3
    assert figure.layout.yaxis.autorange == "reversed"


def test_the_pointer_shows_the_number_and_over_how_many_units(graph: ModelGraph) -> None:
    result = measured(graph)
    neurons = profile(graph, {"mine": result}).data[2]
    total = float(graph.nodes.of(result.scores, "neuron", 1).sum())
    assert neurons.text[0][1] == f"<b>mine</b><br>neurons, block 1<br>sum over 24: {total:.4g}"
    assert "%{z:.0%}" in neurons.hovertemplate


def test_a_measure_of_heads_and_neurons_alone_is_blank_in_the_stream(graph: ModelGraph, model: Model) -> None:
    scores = Scores({f"neuron.{i}": torch.full((24,), 1.0 + i) for i in range(2)}, "wanda", model=model.identity)
    figure = profile(graph, [measured(graph), scores])
    assert np.isnan(numbers(figure)[1]).tolist() == [True] * 7 + [False] * 2
    assert numbers(figure)[1, 7:].tolist() == [1.0, 2.0]  # a mean: no one says that they add up
    assert figure.data[0].text[1][0] == "<b>wanda</b><br>no scores"
    assert "grey: no score" in figure.layout.title.subtitle.text
    assert "grey" not in profile(graph, [measured(graph)]).layout.title.subtitle.text


def test_a_row_of_zeros_stays_zero_and_what_is_not_finite_is_blank(graph: ModelGraph) -> None:
    result = measured(graph)
    start, stop = graph.nodes.range("neuron", 0)
    unreached = result.scores.clone()
    unreached[start:stop] = torch.inf
    figure = profile(
        graph, {"zero": replace(result, scores=0 * result.scores), "far": replace(result, scores=unreached)}
    )
    assert (colours(figure)[0] == 0).all()
    assert np.isnan(colours(figure)[1]).tolist() == [False] * 7 + [True, False]
    assert np.nanmax(colours(figure)[1]) == 1


def test_negative_scores_are_shown_on_both_sides_of_zero(graph: ModelGraph) -> None:
    result = measured(graph)
    figure = profile(graph, [replace(result, scores=-result.scores)])
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    assert colours(figure).min() == -1


def test_kinds_choose_the_panels(graph: ModelGraph) -> None:
    figure = profile(graph, [measured(graph)], kinds=["neuron", "head"])
    assert panels(figure) == ["attention heads", "neurons"]


def test_units_and_modules_have_panels_of_their_own(graph: ModelGraph) -> None:
    units, modules = graph.quotient("unit"), graph.quotient("block")
    assert panels(profile(units, [measured(units)])) == [*PANELS[:2], "key/value heads", "neurons"]
    figure = profile(modules, [path_mass(modules)])
    assert panels(figure) == ["residual stream", "attention", "MLP"]
    assert [list(trace.x) for trace in figure.data] == [[0, 1, 2, 3, 4], [0, 1], [0, 1]]


def test_units_that_a_mask_has_removed_do_not_count(graph: ModelGraph, model: Model) -> None:
    keep = dict(Mask.full(model.units).keep)
    keep["neuron.0"] = torch.arange(24) >= 20
    result = measured(graph, aggregate="mean")
    figure = profile(graph.masked(Mask(keep)), [result], kinds=["neuron"])
    left = graph.nodes.of(result.scores, "neuron", 0)[20:]
    assert numbers(figure)[0, 0] == pytest.approx(float(left.mean()))
    assert "mean over 4:" in figure.data[0].text[0][0]


def test_a_name_that_occurs_twice_is_told_apart_by_direction(graph: ModelGraph) -> None:
    figure = profile(graph, [pagerank(graph), pagerank(graph, direction="backward"), distances(graph)])
    assert list(figure.data[0].y) == ["PageRank, forward", "PageRank, backward", "distances"]


def test_what_cannot_be_shown_is_refused_in_a_sentence(graph: ModelGraph) -> None:
    result = measured(graph)
    columns = replace(result, scores=torch.ones(graph.n_nodes, 2))
    cases: list[tuple[ModelGraph, Any, dict[str, Any], str]] = [
        (
            graph,
            [result],
            {"kinds": ["nueron"]},
            "PageRank has no scores of the kind 'nueron'; it has resid, head, neuron",
        ),
        (graph, [result, result], {}, "two measures are called 'PageRank, forward'; pass a mapping"),
        (graph, [], {}, "a figure needs at least one measure"),
        (graph, [columns], {}, "pagerank has 2 columns of scores"),
        (graph, [measured(outside(5))], {}, "pagerank has 5 scores, the graph has"),
        (outside(5), [measured(outside(5))], {}, "a graph from outside has no layers"),
        (graph, [Scores({}, "wanda", model="other")], {}, "'wanda' belong to another model"),
        (
            graph,
            [Scores({"neuron.7": torch.ones(24)}, "wanda")],
            {},
            "'wanda' don't fit the graph: it has no 24 neuron.7",
        ),
        (
            graph,
            [Scores({"neuron.0": torch.ones(23)}, "wanda")],
            {},
            "'wanda' don't fit the graph: it has no 23 neuron.0",
        ),
        (graph, [Scores({}, "wanda")], {}, "wanda has no units to show"),
    ]
    for where, results, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            profile(where, results, **options)
        assert "\n" not in str(error.value)

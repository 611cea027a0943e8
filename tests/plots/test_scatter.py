"""Score against score: pairs, axes, colours, and when points become a density."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from graphprune import Model, Scores
from graphprune.core.graph import ModelGraph
from graphprune.plots import scatter
from graphprune.plots.style import COLOURS
from tests.plots.made import measured, outside, scored
from tests.unchecked import unchecked


def test_a_point_is_a_unit_with_its_two_scores(graph: ModelGraph) -> None:
    x, y = measured(graph, "katz"), measured(graph, "hits", seed=1)
    figure = scatter(graph, x, y)
    assert [trace.name for trace in figure.data] == ["residual stream", "attention heads", "neurons"]
    neurons = figure.data[2]
    assert list(neurons.text) == [f"neuron.{layer}.{i}" for layer in range(2) for i in range(24)]
    for drawn, result in ((neurons.x, x), (neurons.y, y)):
        expected = torch.cat([graph.nodes.of(result.scores, "neuron", layer) for layer in range(2)])
        np.testing.assert_allclose(drawn, expected)
    assert len(figure.data[1].x) == 8
    assert neurons.marker.color == COLOURS["neuron"]
    assert figure.layout.xaxis.title.text == "Katz, forward (sum 1)"
    assert figure.layout.yaxis.title.text == "HITS, forward (sum 1)"
    assert figure.layout.title.text == "HITS, forward against Katz, forward"
    assert figure.layout.showlegend


def test_measures_of_different_units_are_compared_where_both_have_scores(graph: ModelGraph, model: Model) -> None:
    backward = {f"neuron.{i}": torch.arange(24.0) + i for i in (1, 0)}
    scores = Scores(backward, "wanda", model=model.identity)
    figure = scatter(graph, measured(graph), scores, labels=("mine", "other"))
    (trace,) = figure.data
    assert trace.y.tolist() == [*range(24), *range(1, 25)]  # in order of depth, however they were stored
    assert figure.layout.yaxis.title.text == "other (score)"


def test_colours_can_mean_the_block(graph: ModelGraph) -> None:
    figure = scatter(graph, measured(graph), measured(graph, seed=1), by="block")
    assert figure.data[2].marker.color.tolist() == [0] * 24 + [1] * 24
    assert figure.data[0].marker.color.tolist() == [block for block in (0, 0.5, 1, 1.5, 2) for _ in range(16)]
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert {trace.marker.coloraxis for trace in figure.data} == {"coloraxis"}
    alone = scatter(graph, measured(graph), measured(graph, seed=1), by="block", kinds=["neuron"])
    assert not alone.layout.showlegend


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 5.0, 1000.0], "log"),
        ([1.0, 5.0, 100.0], "log"),
        ([1.0, 5.0, 90.0], "linear"),
        ([0.0, 5.0, 1000.0], "linear"),
        ([-1.0, 5.0, 1000.0], "linear"),
        ([1.0, 5.0, np.inf], "linear"),
        ([2.0, 2.0, 2.0], "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_all_is_positive_and_spans_two_powers_of_ten(
    values: list[float], kind: str
) -> None:
    figure = scatter(outside(3), scored(values), scored([1, 2, 3]))
    assert figure.layout.xaxis.type == kind
    assert figure.layout.yaxis.type == "linear"
    assert scatter(outside(3), scored([1, 2, 3]), scored(values)).layout.yaxis.type == kind


def test_more_than_twenty_thousand_points_are_a_density() -> None:
    n = 20_001
    graph = ModelGraph.from_scipy(sparse.csr_array((n, n)))
    generator = np.random.default_rng(0)
    wide, narrow = generator.lognormal(0, 3, n), generator.normal(0, 1, n)
    figure = scatter(graph, scored(wide.tolist()), scored(narrow.tolist()))
    (trace,) = figure.data
    assert trace.type == "heatmap"
    assert np.nansum(trace.customdata) == n
    assert not (trace.customdata == 0).any()
    np.testing.assert_allclose(trace.z, np.log10(trace.customdata))
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "linear")
    for edges, values, scale in ((trace.x, wide, np.log10), (trace.y, narrow, np.asarray)):
        steps = np.diff(scale(np.asarray(edges)))  # even as they are drawn
        np.testing.assert_allclose(steps, steps[0])
        assert (edges[0], edges[-1]) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert trace.customdata.shape == (len(trace.y) - 1, len(trace.x) - 1)
    here = (wide >= trace.x[60]) & (wide < trace.x[61]) & (narrow >= trace.y[55]) & (narrow < trace.y[56])
    assert trace.customdata[55, 60] == here.sum() > 0
    assert not figure.layout.showlegend


def test_twenty_thousand_points_are_points() -> None:
    n = 20_000
    graph = ModelGraph.from_scipy(sparse.csr_array((n, n)))
    (trace,) = scatter(graph, scored([*range(n)]), scored([*range(n)])).data
    assert trace.type == "scattergl"
    assert len(trace.x) == n
    assert trace.text[7] == "node.7"


def test_one_node_is_one_point() -> None:
    (trace,) = scatter(outside(1), scored([3]), scored([4])).data
    assert (trace.x.tolist(), trace.y.tolist(), list(trace.text)) == ([3], [4], ["node <0>"])


def test_what_cannot_be_compared_is_refused_in_a_sentence(graph: ModelGraph) -> None:
    result = measured(graph)
    columns = replace(result, scores=torch.ones(graph.n_nodes, 2))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (result, {"kinds": ["mlp"]}, "PageRank has no scores of the kind 'mlp'; it has resid, head, neuron"),
        (result, {"by": "depth"}, "colours mean the kind or the block of a unit, not 'depth'"),
        (columns, {}, "pagerank has 2 columns of scores"),
    ]
    for y, options, message in cases:
        with unchecked(), pytest.raises(ValueError, match=message) as error:
            scatter(graph, result, y, **options)
        assert "\n" not in str(error.value)

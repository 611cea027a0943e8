"""Agreement: correlations, their order, and blanks that say why."""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from scipy.stats import spearmanr

from graphprune import Model, Scores
from graphprune.centrality import CentralityResult
from graphprune.core.graph import ModelGraph
from graphprune.plots import agreement
from tests.plots.made import measured, outside, scored


def cells(figure: go.Figure) -> dict[tuple[str, str], float]:
    (trace,) = figure.data
    z = np.asarray(trace.z, dtype=float)
    return {(row, column): z[i, j] for i, row in enumerate(trace.y) for j, column in enumerate(trace.x)}


def test_a_cell_is_the_rank_correlation_also_with_ties(graph: ModelGraph) -> None:
    results = {f"measure {seed}": measured(graph, seed=seed) for seed in range(5)}
    results["tied"] = replace(results["measure 0"], scores=(results["measure 0"].scores * 3).round())
    figure = agreement(graph, results, kinds=["neuron", "resid"])
    chosen = [(span.kind, span.layer) for span in graph.nodes.spans if span.kind in {"neuron", "resid"}]
    values = {name: torch.cat([graph.nodes.of(r.scores, *span) for span in chosen]) for name, r in results.items()}
    assert len({*values["tied"].tolist()}) < 5
    for (row, column), value in cells(figure).items():
        assert value == pytest.approx(spearmanr(values[row], values[column]).statistic, abs=1e-12)
    assert f"{len(values['tied']):,} units: residual stream, neurons" in figure.layout.title.subtitle.text


def test_values_are_printed_in_the_cells(graph: ModelGraph) -> None:
    figure = agreement(graph, {"a": measured(graph), "b": measured(graph, seed=1)})
    (trace,) = figure.data
    assert [list(row) for row in trace.text] == [[f"{value:.2f}" for value in row] for row in trace.z]
    assert trace.texttemplate == "%{text}"
    assert (trace.zmin, trace.zmax) == (-1, 1)


def test_similar_measures_stand_beside_each_other(graph: ModelGraph) -> None:
    one, other = measured(graph), measured(graph, seed=1)
    noise = measured(graph, seed=2).scores
    results = {
        "one": one,
        "other": other,
        "like one": replace(one, scores=one.scores + 0.1 * noise),
        "opposite of one": replace(one, scores=-one.scores),
        "like other": replace(other, scores=other.scores + 0.1 * noise),
    }
    order = list(agreement(graph, results).data[0].x)
    assert sorted(order) == sorted(results)
    assert abs(order.index("one") - order.index("like one")) == 1
    assert abs(order.index("other") - order.index("like other")) == 1
    assert order.index("opposite of one") in {0, 4}
    assert list(agreement(graph, results).data[0].y) == order


def test_heads_are_compared_with_other_scores_of_units(graph: ModelGraph, model: Model) -> None:
    result = measured(graph)
    heads = {f"head.{i}": graph.nodes.of(result.scores, "attn", i).view(4, -1).sum(dim=1) for i in range(2)}
    figure = agreement(graph, {"graph": result, "units": Scores(heads, "wanda", model=model.identity)})
    assert cells(figure)["graph", "units"] == pytest.approx(1)
    assert "8 units: attention heads" in figure.layout.title.subtitle.text


def test_layers_restrict_the_units(graph: ModelGraph) -> None:
    one, other = measured(graph), measured(graph, seed=1)
    figure = agreement(graph, {"a": one, "b": other}, kinds=["neuron"], layers=[1])
    here = [graph.nodes.of(r.scores, "neuron", 1) for r in (one, other)]
    assert cells(figure)["a", "b"] == pytest.approx(spearmanr(*here).statistic)
    assert "24 units: neurons of layer 1" in figure.layout.title.subtitle.text


def test_a_constant_measure_is_blank_comes_last_and_says_why(graph: ModelGraph) -> None:
    flat = replace(measured(graph), scores=torch.ones(graph.n_nodes))
    others = {f"measure {seed}": measured(graph, seed=seed) for seed in range(3)}
    figure = agreement(graph, {"flat": flat, **others}, kinds=["neuron"])
    (trace,) = figure.data
    assert list(trace.x)[-1] == "flat"
    assert np.isnan(trace.z[-1]).all()
    assert np.isnan(trace.z[:, -1]).all()
    assert not np.isnan(trace.z[:3, :3]).any()
    assert list(trace.text[-1]) == [""] * 4
    for row, column in ((0, 3), (3, 0), (3, 3)):
        assert trace.hovertext[row][column].endswith("no correlation: flat is the same at every unit")
    assert "no correlation" not in trace.hovertext[0][1]
    assert "blank" in figure.layout.title.subtitle.text
    assert "blank" not in agreement(graph, others).layout.title.subtitle.text


def test_scores_that_are_no_numbers_are_blank_and_infinite_ones_are_ranked() -> None:
    graph = outside(4)
    results = {"a": scored([1, 2, 3, 4]), "b": scored([1, 2, 3, np.inf]), "c": scored([1, np.nan, 3, 4])}
    figure = agreement(graph, results)
    assert cells(figure)["a", "b"] == pytest.approx(1)
    assert np.isnan(cells(figure)["a", "c"])
    assert figure.data[0].hovertext[0][2].endswith("no correlation: c is no number at 1 units")


def test_one_node_has_no_correlation() -> None:
    figure = agreement(outside(1), {"a": scored([1.0]), "b": scored([2.0])})
    assert np.isnan(list(cells(figure).values())).all()


def test_one_measure_agrees_with_itself(graph: ModelGraph) -> None:
    assert list(cells(agreement(graph, [measured(graph)])).values()) == [pytest.approx(1)]


def test_what_cannot_be_compared_is_refused_in_a_sentence(graph: ModelGraph) -> None:
    result = measured(graph)
    heads = Scores({"head.0": torch.ones(4)}, "wanda")
    neurons = Scores({"neuron.0": torch.ones(24)}, "activation")
    cases: list[tuple[list[CentralityResult | Scores], dict[str, Any], str]] = [
        ([result], {"kinds": ["gate"]}, "PageRank has no scores of the kind 'gate'; it has resid, head, neuron"),
        ([result, heads], {"kinds": ["neuron"]}, "wanda has no scores of the kind 'neuron'; it has head"),
        ([result], {"layers": [9, 10]}, "no units lie in the layers 9, 10"),
        ([heads, neurons], {}, "the measures have no units in common"),
    ]
    for results, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            agreement(graph, results, **options)
        assert "\n" not in str(error.value)


def test_a_correlation_that_rounds_to_zero_has_no_sign() -> None:
    n = 201
    there = np.arange(float(n))
    back = np.abs(there - n // 2)  # falls, then rises
    back[0] -= 2.5
    graph = outside(n)
    (trace,) = agreement(graph, {"a": scored(there.tolist()), "b": scored(back.tolist())}).data
    assert 0 < abs(trace.z[0][1]) < 0.005
    assert trace.text[0][1] == "0.00"
    (trace,) = agreement(graph, {"a": scored(there.tolist()), "b": scored((-back).tolist())}).data
    assert trace.text[0][1] == "0.00"

"""The highest-ranked units: order, names, colours, error bars."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from graphprune import Mask, Model
from graphprune.centrality import CentralityResult, betweenness, pagerank
from graphprune.core.graph import ModelGraph
from graphprune.plots import ranked
from graphprune.plots.style import COLOURS
from tests.plots.made import measured, outside, scored


def bars(figure: go.Figure) -> dict[str, float]:
    """Names and lengths, from the top down."""
    lengths = {name: float(x) for trace in figure.data for name, x in zip(trace.y, trace.x, strict=True)}
    assert figure.layout.yaxis.autorange == "reversed"
    return {name: lengths[name] for name in figure.layout.yaxis.categoryarray}


def test_bars_are_the_highest_units_of_all_kinds_highest_first(graph: ModelGraph) -> None:
    result = measured(graph)
    scores: dict[str, float] = {}
    for span in graph.nodes.spans:
        part = graph.nodes.of(result.scores, span.kind, span.layer)
        if span.kind == "attn":
            scores |= {f"head.{span.layer}.{i}": float(head.sum()) for i, head in enumerate(part.view(4, -1))}
        if span.kind in {"resid", "neuron"}:
            scores |= {f"{span.name}.{i}": float(value) for i, value in enumerate(part)}
    best = sorted(scores, key=lambda name: -scores[name])
    found = bars(ranked(graph, result, top=25))
    assert list(found) == best[:25]
    assert list(found.values()) == pytest.approx([scores[name] for name in best[:25]])
    assert {name.split(".")[0] for name in found} == {"head", "neuron", "resid"}
    assert len(bars(ranked(graph, result, top=10_000))) == len(scores)


def test_kinds_are_told_apart_by_colour_and_named(graph: ModelGraph) -> None:
    figure = ranked(graph, measured(graph), top=60)
    words = {"resid": "residual stream", "head": "attention heads", "neuron": "neurons"}
    assert {trace.name for trace in figure.data} == {*words.values()}
    for trace in figure.data:
        (kind,) = {name.split(".")[0] for name in trace.y}
        assert trace.name == words[kind]
        assert trace.marker.color == COLOURS[kind]
        assert trace.orientation == "h"
    assert figure.layout.showlegend
    assert figure.layout.xaxis.title.text == "PageRank (sum 1)"
    assert figure.layout.title.text == "The 60 units that rank highest by PageRank, forward"


def test_kinds_choose_the_units(graph: ModelGraph) -> None:
    assert all(name.startswith("head.") for name in bars(ranked(graph, measured(graph), kinds=["head"])))
    assert len(bars(ranked(graph, measured(graph), kinds=["head"]))) == 8


def test_ties_are_in_order_of_depth(graph: ModelGraph) -> None:
    flat = CentralityResult(torch.ones(graph.n_nodes), "pagerank", "both", "sum 1", "made up", aggregate="mean")
    assert list(bars(ranked(graph, flat, top=3))) == ["resid.0.0", "resid.0.1", "resid.0.2"]
    assert list(bars(ranked(graph, flat, top=30, kinds=["neuron"])))[22:26] == [
        "neuron.0.22",
        "neuron.0.23",
        "neuron.1.0",
        "neuron.1.1",
    ]


def test_sampled_scores_have_their_standard_errors_as_error_bars(graph: ModelGraph) -> None:
    result = measured(graph, stderr=True)
    assert result.stderr is not None
    figure = ranked(graph, result, top=40)
    for trace in figure.data:
        for name, error in zip(trace.y, trace.error_x.array, strict=True):
            kind, layer, i = name.split(".")
            part = graph.nodes.of(result.stderr, "attn" if kind == "head" else kind, int(layer))
            expected = part.view(4, -1)[int(i)].sum() if kind == "head" else part[int(i)]
            assert error == pytest.approx(float(expected))
    assert "one standard error" in figure.layout.title.subtitle.text


def test_exact_scores_have_no_error_bars(graph: ModelGraph) -> None:
    figure = ranked(graph, pagerank(graph))
    assert all(trace.error_x.array is None for trace in figure.data)
    assert "standard error" not in figure.layout.title.subtitle.text
    sampled = ranked(graph, betweenness(graph, k=20))
    assert all(np.isfinite(trace.error_x.array).all() for trace in sampled.data)


def test_units_that_a_mask_has_removed_are_left_out_and_keep_their_numbers(graph: ModelGraph, model: Model) -> None:
    keep = dict(Mask.full(model.units).keep)
    keep["neuron.0"] = torch.arange(24) >= 20
    masked = graph.masked(Mask(keep))
    found = bars(ranked(masked, pagerank(masked), top=1000, kinds=["neuron"]))
    assert {name for name in found if name.startswith("neuron.0.")} == {f"neuron.0.{i}" for i in range(20, 24)}
    assert len(found) == 28


def test_modules_are_called_by_their_names(graph: ModelGraph) -> None:
    modules = graph.quotient("block")
    found = bars(ranked(modules, measured(modules)))
    assert sorted(found) == sorted(
        [f"block.{i}.{kind}" for i in range(2) for kind in ("attn", "mlp")] + [f"resid.{i}" for i in range(5)]
    )


def test_a_graph_from_outside_has_the_callers_names() -> None:
    assert bars(ranked(outside(3), scored([1, 3, 2]))) == {"node <1>": 3, "node <2>": 2, "node <0>": 1}
    alone = ranked(outside(1), scored([5]))
    assert bars(alone) == {"node <0>": 5}
    assert alone.layout.title.text == "The unit that ranks highest by PageRank"
    assert ranked(outside(3), scored([1, 3, 2])).data[0].name == "nodes"


def test_what_cannot_be_ranked_is_refused_in_a_sentence(graph: ModelGraph) -> None:
    columns = CentralityResult(torch.ones(graph.n_nodes, 3), "pagerank", "both", "sum 1", "made up")
    cases: list[tuple[CentralityResult, dict[str, Any], str]] = [
        (measured(graph), {"top": 0}, "top must be at least 1, not 0"),
        (
            measured(graph),
            {"kinds": ["heads"]},
            "PageRank has no scores of the kind 'heads'; it has resid, head, neuron",
        ),
        (columns, {}, "pagerank has 3 columns of scores; a figure shows one of them"),
    ]
    for result, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            ranked(graph, result, **options)
        assert "\n" not in str(error.value)

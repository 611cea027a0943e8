"""Credit between modules, and the neighbours of a unit."""

import pytest

from graphprune import plots
from graphprune.plots.flow import strongest_edges

FLOWS = {
    ("resid.0", "resid.1"): 0.5, ("resid.0", "attn.0"): 0.3, ("attn.0", "resid.1"): 0.3,
    ("resid.1", "mlp.0"): 0.1, ("mlp.0", "resid.2"): 0.1, ("resid.1", "resid.2"): 0.7,
}  # fmt: skip


def test_the_strongest_edges_that_hold_the_share_stay() -> None:
    assert [*strongest_edges(FLOWS, 0.6)] == [("resid.1", "resid.2"), ("resid.0", "resid.1")]
    assert strongest_edges(FLOWS, 1.0) == FLOWS
    assert [*strongest_edges(FLOWS, 0.0)] == [("resid.1", "resid.2")]


def test_modules_lie_above_and_below_the_stream_and_select_their_units() -> None:
    figure = plots.credit_map(FLOWS, selected="neuron.0.7")
    modules = {trace.name: trace for trace in figure.data if trace.name}
    assert (list(modules["attention"].x), list(modules["attention"].y)) == ([0.5], [1.0])
    assert (list(modules["MLP"].x), list(modules["MLP"].y)) == ([1.5], [-1.0])
    assert modules["MLP"].customdata[0][0] == "neuron.0"
    assert modules["MLP"].marker.line.width[0] > modules["attention"].marker.line.width[0]
    assert "6 of 6 edges between modules, 100%" in figure.layout.title.subtitle.text


def test_a_unit_stands_between_its_sources_and_its_targets() -> None:
    figure = plots.neighbourhood("neuron.3.17", [("resid.7.1", 0.2), ("resid.7.4", 0.1)], [("resid.8.2", 0.3)])
    named = {trace.name: [each[0] for each in trace.customdata] for trace in figure.data if trace.name}
    assert named == {"takes from": ["resid.7.1", "resid.7.4"], "gives to": ["resid.8.2"]}
    widths = [trace.line.width for trace in figure.data if trace.mode == "lines"]
    assert widths[2] > widths[0] > widths[1]


def test_what_has_no_flow_says_so() -> None:
    with pytest.raises(ValueError, match="no credit flows"):
        plots.credit_map({})
    with pytest.raises(ValueError, match="through head"):
        plots.neighbourhood("head.0.1", [], [])
    with pytest.raises(ValueError, match="holds any credit"):
        plots.strongest_units([])

"""What holds for every figure."""

from collections.abc import Callable

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from graphprune import plots
from graphprune.core.graph import ModelGraph
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from tests.families import decoder
from tests.plots.made import compared, consequences, measured, studied

UNITS = decoder("llama").units
SCORES = Scores({group.name: torch.arange(1.0, group.size + 1) for group in UNITS}, "wanda")
FIGURES: dict[str, Callable[[ModelGraph], go.Figure]] = {
    "profile": lambda graph: plots.profile(graph, [measured(graph)]),
    "agreement": lambda graph: plots.agreement(graph, [measured(graph, "katz"), measured(graph, "hits")]),
    "ranked": lambda graph: plots.ranked(graph, measured(graph)),
    "scatter": lambda graph: plots.scatter(graph, measured(graph, "katz"), measured(graph, "hits")),
    "importance": lambda _: plots.importance({"head.0": (0.1, 0.0), "neuron.0": (0.2, 0.1)}),
    "learning_curve": lambda _: plots.learning_curve({"both": {10: (0.5, 0.1), 20: (0.8, 0.1)}}),
    "predicted_and_measured": lambda _: plots.predicted_and_measured(
        [{"predicted": 2.0, "low": 1.0, "high": 3.0, "measured": 2.5}]
    ),
    "quality": lambda _: plots.quality([plots.Point("wanda-0.2", "wanda", 0.2, 30.0)], dense=20.0),
    "removed": lambda graph: plots.removed({"a": Mask({"neuron.0": measured(graph).scores[:9] > 0})}),
    "agreement_matrix": lambda _: plots.agreement_matrix(compared()),
    "overlap_curves": lambda _: plots.overlap_curves(compared(), "a"),
    "percolation_curves": lambda _: plots.percolation_curves(consequences()),
    "robustness_curves": lambda _: plots.robustness_curves(consequences()),
    "predictive": lambda _: plots.predictive(consequences()),
    "block_agreement": lambda _: plots.block_agreement(compared(), "a"),
    "anatomy": lambda _: plots.anatomy(UNITS),
    "credit_map": lambda _: plots.credit_map({("resid.0", "attn.0"): 0.4, ("resid.0", "resid.1"): 0.6}),
    "neighbourhood": lambda _: plots.neighbourhood("neuron.0.1", [("resid.1.3", 0.2)], [("resid.2.1", 0.1)]),
    "strongest_paths": lambda _: plots.strongest_paths(
        "neuron.0.1", [(["resid.0.3", "neuron.0.1", "resid.2.0"], -3.0)]
    ),
    "strongest_units": lambda _: plots.strongest_units([("neuron.0.1", 0.3), ("neuron.0.2", 0.1)]),
    "kept_scatter": lambda _: plots.kept_scatter(SCORES, SCORES, Mask.full(UNITS), ["neuron.0"], labels=("a", "b")),
    "kept_and_removed": lambda _: plots.kept_and_removed(SCORES, Mask.full(UNITS), ["neuron.0"]),
    "study_curves": lambda _: plots.study_curves(studied()),
}
OF_A_GRAPH = ("profile", "agreement", "ranked", "scatter")
every_figure = pytest.mark.parametrize("name", FIGURES)


def test_the_list_of_this_file_is_complete() -> None:
    assert FIGURES.keys() == {*plots.__all__} - {"Measure", "Point"}


@every_figure
def test_says_what_it_shows_and_of_what(name: str, graph: ModelGraph) -> None:
    layout = FIGURES[name](graph).layout
    assert len(layout.title.text) > 10
    assert layout.title.text[0].isupper()
    assert layout.title.subtitle.text.startswith("llama, edges weigh |W|") == (name in OF_A_GRAPH)
    assert len(layout.title.subtitle.text) > 10
    assert layout.template.layout.font.family == "Arial, Helvetica, sans-serif"
    assert layout.height > 200


@every_figure
def test_leaves_what_other_figures_look_like_alone(name: str, graph: ModelGraph) -> None:
    before, known = pio.templates.default, [*pio.templates]
    FIGURES[name](graph)
    assert (pio.templates.default, [*pio.templates]) == (before, known)


@every_figure
def test_a_template_that_the_user_has_set_changes_nothing(
    name: str, graph: ModelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = FIGURES[name](graph)
    monkeypatch.setattr(pio.templates, "default", "plotly_dark")
    assert FIGURES[name](graph).to_json() == usual.to_json()
    assert usual.layout.template.layout.paper_bgcolor == "white"


@every_figure
def test_is_the_same_when_drawn_again(name: str, graph: ModelGraph) -> None:
    assert FIGURES[name](graph).to_json() == FIGURES[name](graph).to_json()

"""Runs: masks side by side, what was measured of each, what they cost over sparsity, what a search has learned."""

from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go

from graphprune import plots
from graphprune.core.errors import InputError

from .data import RunData
from .parts import box, controls, panel, select, table, words
from .state import State

TITLE = "Runs"


def layout(data: RunData, state: State) -> list[Any]:
    masks = data.masks_there()
    return [
        controls(
            select("mask", "Mask", masks, state.mask, clearable=True),
            select("beside", "Beside", masks, state.beside, clearable=True),
        ),
        dmc.SimpleGrid([panel("left"), panel("right")], cols={"base": 1, "lg": 2}),
        panel("side_by_side"),
        box("What was measured", words("reports")),
        panel("robustness"),
        dmc.SimpleGrid([panel("percolation"), panel("predictive")], cols={"base": 1, "lg": 2}),
        dmc.SimpleGrid([panel("learned"), panel("foretold")], cols={"base": 1, "lg": 2}),
    ]


def left(data: RunData, state: State) -> go.Figure:
    return _of(data, state, state.mask)


def right(data: RunData, state: State) -> go.Figure:
    return _of(data, state, state.beside)


def _of(data: RunData, state: State, mask: str) -> go.Figure:
    if not mask:
        raise InputError("choose a mask above to see it here" if data.masks_there() else "this run has no masks yet")
    scores = data.scores(state.score) if data.scores_there() else None
    return plots.anatomy(
        data.units(), scores=scores, mask=data.mask(mask), selected=state.unit, origin=data.name(), title=mask
    )


def side_by_side(data: RunData, state: State) -> go.Figure:
    masks = [name for name in (state.mask, state.beside) if name]
    if not masks:
        raise InputError("choose one or two masks above")
    return plots.removed({name: data.mask(name) for name in masks})


def reports(data: RunData, state: State) -> Any:  # noqa: ARG001 - all texts are written from the state
    found = data.documents("evaluations")
    if not found:
        return dmc.Text(
            "Nothing has been measured yet: the page Prune does, or "
            f"`graphprune evaluate MODEL --text FILE -o {data.folder}`.",
            size="sm", className="quiet",
        )  # fmt: skip
    rows = [
        [name, _number(report.get("perplexity"), ".2f"), _number(report.get("params"), ","),
         _number(report.get("tokens"), ","), str(report.get("text", ""))[:8]]
        for name, report in found.items()
    ]  # fmt: skip
    return table(
        ("report", "perplexity", "parameters", "tokens read", "text"), rows,
        label="lower perplexity is better; compare only reports on the same text and number of tokens",
    )  # fmt: skip


def _number(value: Any, shape: str) -> str:
    return format(value, shape) if isinstance(value, int | float) else ""


def learned(data: RunData, state: State) -> go.Figure:  # noqa: ARG001 - likewise
    for document in data.documents("predictions").values():
        if document.get("importance"):
            return plots.importance({row["group"]: (row["importance"], row["sd"]) for row in document["importance"]})
    raise InputError("no predictor has learned from this run yet; `graphprune search`, then `graphprune predict`")


def foretold(data: RunData, state: State) -> go.Figure:  # noqa: ARG001 - likewise
    for document in data.documents("searches").values():
        if document.get("predicted_then_measured"):
            return plots.predicted_and_measured(document["predicted_then_measured"])
    raise InputError("no search has predicted and then measured in this run yet; see `graphprune search`")


def robustness(data: RunData, state: State) -> go.Figure:  # noqa: ARG001 - likewise
    found = data.consequences()
    uniform = [series for series in found.series if series.allocation == "uniform"]
    figure = plots.robustness_curves(found, "kl", series=uniform or None)
    return figure.update_layout(legend={"orientation": "h", "y": -0.15})


def percolation(data: RunData, state: State) -> go.Figure:  # noqa: ARG001 - likewise
    return plots.percolation_curves(data.consequences())


def predictive(data: RunData, state: State) -> go.Figure:  # noqa: ARG001 - likewise
    return plots.predictive(data.consequences())


FIGURES = {
    "left": left, "right": right, "side_by_side": side_by_side, "robustness": robustness, "percolation": percolation,
    "predictive": predictive, "learned": learned, "foretold": foretold,
}  # fmt: skip
TEXTS = {"reports": reports}
TABLES: dict[str, Any] = {}

"""Compare: two scorers against each other, and all of them in one matrix."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import dash_ag_grid as dag
import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go
from dash import html

from graphprune import plots
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.scores import Scores
from graphprune.plots.compared import Ranked, ranked_alike

from .data import RunData
from .parts import box, controls, panel, segments, select, words
from .selection import place
from .state import State

TITLE = "Compare"
RING = "#CC79A7"
ROWS = 500  # of the table: those that differ most
KINDS = (("all", "all"), ("neuron", "neurons"), ("head", "heads"), ("resid", "stream"))


def layout(data: RunData, state: State) -> list[Any]:
    there = data.scores_there()
    return [
        controls(
            select("score", "Score", there, state.score, help_="horizontal"),
            select("against", "Against", there, state.against, help_="vertical"),
            segments("kind", "Units", KINDS, state.kind),
        ),
        dmc.SimpleGrid(
            [panel(name) for name in ("scatter", "agreement", "overlap", "disagreement")], cols={"base": 1, "lg": 2}
        ),
        box("The units they judge most differently", words("differences")),
    ]


def _two(data: RunData, state: State) -> tuple[Scores, Scores]:
    if not state.against:
        raise InputError("this run has one score file; a comparison needs two")
    return data.scores(state.score), data.scores(state.against)


def _kinds(state: State) -> list[str] | None:
    return None if state.kind == "all" else [state.kind]


def scatter(data: RunData, state: State) -> go.Figure:
    a, b = _two(data, state)
    by: Literal["block", "kind"] = "block" if state.kind in {"neuron", "head"} else "kind"
    figure = plots.scatter(data.graph(), a, b, kinds=_kinds(state), by=by, labels=(state.score, state.against))
    return figure if not state.unit else _ringed(figure, data, state, a, b)


def _ringed(figure: go.Figure, data: RunData, state: State, a: Scores, b: Scores) -> go.Figure:
    """The figure with a ring around what is selected."""
    group, position = place(data, state.unit)
    if group not in a.values or group not in b.values:
        return figure
    chosen = slice(None) if position is None else slice(position, position + 1)
    ring = {"size": 9 if position is None else 16, "symbol": "circle-open", "color": RING, "line": {"width": 2}}
    xs, ys = (each.values[group][chosen].double().numpy() for each in (a, b))
    return figure.add_trace(go.Scattergl(x=xs, y=ys, mode="markers", name=state.unit, marker=ring, hoverinfo="skip"))


def agreement(data: RunData, state: State) -> go.Figure:
    scores = {name: data.scores(name) for name in data.scores_there()}
    kind = "neuron" if state.kind == "all" else state.kind
    there = tuple((name, each) for name, each in scores.items() if kind in each.kinds)
    return go.Figure(_agreement(_Files(data.graph(), there, tuple(data.score_stamp(name) for name, _ in there)), kind))


@dataclass(frozen=True)
class _Files:
    """Scores on a graph, the same as others if they come from the same files as they were."""

    graph: ModelGraph = field(compare=False)
    scores: tuple[tuple[str, Scores], ...] = field(compare=False)
    key: tuple[object, ...]


@lru_cache(maxsize=8)
def _agreement(files: _Files, kind: str) -> go.Figure:
    return plots.agreement(files.graph, dict(files.scores), kinds=[kind])


def overlap(data: RunData, state: State) -> go.Figure:
    return plots.overlap(*_two(data, state), labels=(state.score, state.against))


def disagreement(data: RunData, state: State) -> go.Figure:
    return plots.disagreement(*_two(data, state), labels=(state.score, state.against))


def differences(data: RunData, state: State) -> Any:
    """The table; a click on a row selects the unit."""
    parts = ranked_alike(*_two(data, state), _kinds(state))
    rows = [_row(part, int(i)) for part in parts for i in np.argsort(-np.abs(part.difference), kind="stable")[:ROWS]]
    rows = sorted(rows, key=lambda row: -abs(row["difference"]))[:ROWS]
    total = sum(len(part.layer) for part in parts)
    numbers = {"filter": "agNumberColumnFilter", "width": 130}
    columns = [
        {"field": "unit", "filter": "agTextColumnFilter", "pinned": "left"},
        {"field": "kind", "filter": "agTextColumnFilter", "width": 100},
        {"field": "block", **numbers, "width": 95},
        {"field": "x", "headerName": state.score, **numbers},
        {"field": "y", "headerName": state.against, **numbers},
        {"field": "place x", "headerName": f"place by {state.score}, %", **numbers},
        {"field": "place y", "headerName": f"place by {state.against}, %", **numbers},
        {"field": "difference", **numbers},
    ]
    return [
        dmc.Text(
            f"The {len(rows)} of {total:,} units whose places differ most. A place is the share of all units of the "
            "kind that a score ranks lower: 0 % goes first.", size="sm", className="quiet", mb="xs",
        ),
        html.Div(dag.AgGrid(
            id="units", rowData=rows, columnDefs=columns, columnSize=None, csvExportParams={"fileName": "units.csv"},
            defaultColDef={"sortable": True, "resizable": True},
            dashGridOptions={
                "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
                "pagination": True, "paginationPageSize": 20,
            }, style={"height": 420},
        ), **{"data-ag-theme-mode": state.theme}),
        dmc.Button("CSV", id="units-csv", size="compact-sm", variant="light", mt="xs"),
    ]  # fmt: skip


def _row(part: Ranked, i: int) -> dict[str, Any]:
    return {
        "unit": part.name(i), "kind": part.kind,
        "block": int(part.layer[i]) // 2 if part.kind == "resid" else int(part.layer[i]),
        "x": float(f"{part.scores[0][i]:.4g}"), "y": float(f"{part.scores[1][i]:.4g}"),
        "place x": round(100 * float(part.places[0][i]), 1), "place y": round(100 * float(part.places[1][i]), 1),
        "difference": round(100 * float(part.difference[i]), 1),
    }  # fmt: skip


FIGURES = {"scatter": scatter, "agreement": agreement, "overlap": overlap, "disagreement": disagreement}
TEXTS = {"differences": differences}

"""The graph: modules and what flows between them, and on demand the units, one neighbourhood at a time."""

from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go

from graphprune import plots
from graphprune.centrality.flow import CreditFlow
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph

from .data import RunData
from .kept import Made, once
from .parts import controls, panel, slider, words
from .selection import place
from .state import State

TITLE = "Graph"


def layout(data: RunData, state: State) -> list[Any]:  # noqa: ARG001 - every page is laid out from both
    return [
        controls(
            slider("share", "Share of the credit that is drawn", state.share, low=0.0, high=1.0, step=0.01),
            slider("n", "Neighbours", float(state.n), low=4.0, high=40.0, step=1.0, percent=False),
        ),
        panel("credit_map"),
        dmc.Grid(
            [
                dmc.GridCol(panel("neighbours"), span={"base": 12, "lg": 8}),
                dmc.GridCol(panel("members"), span={"base": 12, "lg": 4}),
            ]
        ),
        words("explained"),
    ]


def _flow(data: RunData) -> CreditFlow:
    return _flow_of(data.graph_made())


@once(maxsize=2)
def _flow_of(graph: Made[ModelGraph]) -> CreditFlow:
    return CreditFlow.of(graph.value)


@once(maxsize=2)
def _modules_of(graph: Made[ModelGraph]) -> dict[tuple[str, str], float]:
    return _flow_of(graph).between_modules()


def credit_map(data: RunData, state: State) -> go.Figure:
    flows = _modules_of(data.graph_made())
    return plots.credit_map(flows, share=state.share, selected=state.unit, origin=data.name())


def neighbours(data: RunData, state: State) -> go.Figure:
    if not state.unit:
        raise InputError("select a module or a unit: click on the graph above, or type a name such as neuron.3.17")
    flow = _flow(data)
    members = flow.members(*place(data, state.unit))
    sources, targets = (flow.strongest(each, state.n) for each in (flow.into(members), flow.out_of(members)))
    return plots.neighbourhood(state.unit, sources, targets, origin=data.name())


def members(data: RunData, state: State) -> go.Figure:
    """The units of the selected group that hold most credit: a module, opened."""
    if not state.unit:
        raise InputError("select a module to see the units in it")
    group, _ = place(data, state.unit)
    flow = _flow(data)
    inside = flow.strongest(flow.credit.where(flow.members(group), 0.0), state.n)
    return plots.strongest_units(inside, title=f"The strongest in {group}", selected=state.unit)


def explained(data: RunData, state: State) -> Any:  # noqa: ARG001 - likewise
    return dmc.Text(
        "The outputs share a credit of one. Every unit hands its credit to what it reads, in proportion to the weights "
        "of its incoming edges, so the credit of a unit is the share of the output that can be traced back to it. What "
        f"a weight is was chosen at export; here: {data.graph().weight}.",
        size="sm", className="quiet",
    )  # fmt: skip


FIGURES = {"credit_map": credit_map, "neighbours": neighbours, "members": members}
TEXTS = {"explained": explained}
TABLES: dict[str, Any] = {}

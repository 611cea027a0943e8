"""The graph: modules and what flows between them, and on demand the units, one neighbourhood at a time."""

from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go

from graphprune import plots
from graphprune.centrality.flow import CreditFlow
from graphprune.centrality.strongest_paths import StrongestPaths
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.scores import Scores

from .data import RunData
from .finding import EXPLAINED, KINDS, Query, Units
from .kept import Made, once
from .parts import box, controls, grid, panel, select, slider, text_input, words
from .selection import groups, place
from .state import State
from .tables import Table

TITLE = "Graph"
MOST_PATHS = 20  # more than that are no picture


def layout(data: RunData, state: State) -> list[Any]:
    return [
        controls(
            slider("share", "Share of the credit that is drawn", state.share, low=0.0, high=1.0, step=0.01),
            slider("n", "Neighbours and paths", float(state.n), low=4.0, high=40.0, step=1.0, percent=False),
        ),
        box(
            "Find units",
            dmc.Group(
                [
                    text_input(
                        "find", "What to look for", state.find, placeholder="neuron block:3 score:>0.9", width=330
                    ),
                    select("score", "Score", data.scores_there(), state.score),
                ],
                align="end",
                mb="xs",
            ),
            dmc.Text(EXPLAINED, size="sm", className="quiet", mb="xs"),
            grid("found"),
        ),
        panel("credit_map"),
        dmc.Grid(
            [
                dmc.GridCol(panel("neighbours"), span={"base": 12, "lg": 8}),
                dmc.GridCol(panel("members"), span={"base": 12, "lg": 4}),
            ]
        ),
        panel("paths"),
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


@once(maxsize=2)
def _paths_of(graph: Made[ModelGraph]) -> StrongestPaths:
    return StrongestPaths.of(_flow_of(graph))


def credit_map(data: RunData, state: State) -> go.Figure:
    flows = _modules_of(data.graph_made())
    return plots.credit_map(flows, share=state.share, selected=state.unit, origin=data.name())


def found(data: RunData, state: State) -> Table:
    """The units that the query describes; a click on a row selects one."""
    if not state.find.strip():
        raise InputError("nothing is looked for yet")
    query = Query.parse(state.find)
    scores = data.scores(state.score) if data.scores_there() else None
    stamp = data.score_stamp(state.score) if scores is not None else None
    sizes = {name: size for name, size in groups(data).items() if name.split(".")[0] in KINDS}
    return query.among(_units(Made((data.folder, stamp), (sizes, scores))), state.score)


@once(maxsize=4)
def _units(made: Made[tuple[dict[str, int], Scores | None]]) -> Units:
    return Units.of(*made.value)


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


def paths(data: RunData, state: State) -> go.Figure:
    """The strongest paths through what is selected."""
    if not state.unit:
        raise InputError("select a unit to see the strongest paths through it")
    flow = _flow(data)
    found = _paths_of(data.graph_made()).through(flow.members(*place(data, state.unit)), min(state.n, MOST_PATHS))
    named = [([flow.unit_of(node) for node in path.nodes], path.log_credit) for path in found]
    return plots.strongest_paths(state.unit, named, origin=data.name())


def explained(data: RunData, state: State) -> Any:  # noqa: ARG001 - likewise
    return dmc.Text(
        "The outputs share a credit of one. Every unit hands its credit to what it reads, in proportion to the weights "
        "of its incoming edges, so the credit of a unit is the share of the output that can be traced back to it. What "
        f"a weight is was chosen at export; here: {data.graph().weight}.",
        size="sm", className="quiet",
    )  # fmt: skip


FIGURES = {"credit_map": credit_map, "neighbours": neighbours, "members": members, "paths": paths}
TEXTS = {"explained": explained}
TABLES = {"found": found}

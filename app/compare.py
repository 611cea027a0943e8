"""Compare: two scorers against each other, and all of them in one matrix."""

import re
from typing import Any, Literal, cast

import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go

from graphprune import plots
from graphprune.comparison.agreement import compare
from graphprune.comparison.disagreement import Within, placed
from graphprune.comparison.result import Comparison, Statistic
from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON

from .data import RunData
from .kept import Made, once
from .parts import box, controls, grid, panel, segments, select
from .selection import place
from .state import State
from .tables import Column, Table

TITLE = "Compare"
RING = "#CC79A7"
MOST = 12  # scorers of one comparison
SHOWN: tuple[Statistic, ...] = ("spearman", "jaccard")  # half a second for 46,000 units; the others take seven
KINDS = (("all", "all"), ("neuron", "neurons"), ("head", "heads"), ("resid", "stream"))
WITHIN = (("group", "their block"), ("kind", "the model"))


def layout(data: RunData, state: State) -> list[Any]:
    there = data.scores_there()
    return [
        controls(
            select("score", "Score", there, state.score, help_="horizontal"),
            select("against", "Against", there, state.against, help_="vertical"),
            segments("kind", "Units", KINDS, state.kind),
            segments("within", "Places are among those of", WITHIN, state.within),
        ),
        dmc.SimpleGrid(
            [panel(name) for name in ("scatter", "agreement", "overlap", "disagreement")], cols={"base": 1, "lg": 2}
        ),
        box("The units they judge most differently", grid("differences")),
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


def _kinds_of_both(data: RunData, state: State) -> tuple[str, ...]:
    """The kinds of units that are compared: what was chosen, else heads and neurons where both scorers have them."""
    two = _two(data, state)
    shared = [kind for kind in two[0].kinds if kind in two[1].kinds]
    return tuple(_kinds(state) or [kind for kind in (HEAD, NEURON) if kind in shared] or shared)


def _everybody(data: RunData, kinds: tuple[str, ...]) -> list[str]:
    """The run's scorers of these units, one file of each; the same whoever is chosen, so that it is worked out once."""
    seeds = re.compile(r"-seed\d+$")  # further files of one scorer
    there = [name for name in data.scores_there() if not seeds.search(name)]
    return [name for name in there if {*kinds} <= {*data.scores(name).kinds}][:MOST]


def _compared(data: RunData, state: State, *needed: str) -> Comparison:
    """All of the run's scorers if there are several, and those that are needed are among them; else the two chosen."""
    kinds = _kinds_of_both(data, state)
    names = _everybody(data, kinds)
    if len(names) < 2 or not {*needed} <= {*names}:
        names = sorted({state.score, state.against})
    scores = {name: data.scores(name) for name in names}
    return _comparison(Made(tuple(data.score_stamp(name) for name in names), scores), kinds)


@once(maxsize=8)
def _comparison(scores: Made[dict[str, Scores]], kinds: tuple[str, ...]) -> Comparison:
    return compare(scores.value, kinds=kinds, statistics=SHOWN)


def agreement(data: RunData, state: State) -> go.Figure:
    return plots.agreement_matrix(_compared(data, state))


def overlap(data: RunData, state: State) -> go.Figure:
    figure = plots.overlap_curves(_compared(data, state, state.score, state.against), state.score)
    return figure.update_layout(legend={"orientation": "h", "y": -0.2})


def disagreement(data: RunData, state: State) -> go.Figure:
    return plots.block_agreement(_compared(data, state, state.score, state.against), state.score)


def differences(data: RunData, state: State) -> Table:
    """All units that both score; a click on a row selects one."""
    names = (state.score, state.against)
    both = Made(tuple(data.score_stamp(name) for name in names), (names, _two(data, state)))
    return _differences(both, cast("Within", state.within), state.kind)


@once(maxsize=4)
def _differences(both: Made[tuple[tuple[str, str], tuple[Scores, Scores]]], within: Within, kind: str) -> Table:
    (x, y), (a, b) = both.value
    places = placed(a, b, within=within, kinds=None if kind == "all" else [kind])
    order = places.order()
    units = [f"{group}.{position}" for group, position in places.units()]
    kinds, blocks = zip(*(_kind_and_block(group) for group in places.groups), strict=True)
    values = [np.concatenate([each.values[group].double().numpy() for group in places.groups]) for each in (a, b)]
    return Table(
        (
            Column("unit", "unit", np.array(units)[order], width=150),
            Column("kind", "kind", np.repeat(kinds, places.sizes)[order], width=105),
            Column("block", "block", np.repeat(blocks, places.sizes)[order], width=100),
            Column("x", x, values[0][order]),
            Column("y", y, values[1][order]),
            Column("place_x", f"place by {x}, %", 100 * places.a[order], width=150),
            Column("place_y", f"place by {y}, %", 100 * places.b[order], width=150),
            Column("difference", "difference", 100 * places.difference[order]),
        ),
        "A place is the share of the units of its kind "
        f"{'and block ' if within == 'group' else ''}that a score ranks lower: 0 % goes first.",
        names="unit",
    )


def _kind_and_block(group: str) -> tuple[str, int]:
    kind, layer = group.split(".")[:2]
    return kind, int(layer) // 2 if kind == "resid" else int(layer)


FIGURES = {"scatter": scatter, "agreement": agreement, "overlap": overlap, "disagreement": disagreement}
TEXTS: dict[str, Any] = {}
TABLES = {"differences": differences}

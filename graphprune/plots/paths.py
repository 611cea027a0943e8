"""Paths through the graph, a row each, from the input to the output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp, log

import plotly.graph_objects as go

from graphprune.plots.style import INK, SYMBOLS, colour, kind_name, styled


@dataclass(frozen=True)
class Place:
    """A unit on a path: in which row, its name, and what is written beside it."""

    row: int
    name: str
    said: str


def strongest_paths(
    unit: str, paths: Sequence[tuple[Sequence[str], float]], *, origin: str = "", title: str | None = None
) -> go.Figure:
    """A row for each path: the stream as a line, a mark wherever the path leaves it for a head or a neuron.

    Numbers are channels of the stream, where a path enters them.

    Args:
        unit: what the paths run through; it is framed.
        paths: the units on each (`resid.3.17`, `neuron.1.4`), and the log of the credit that it carries; strongest
            first. Steps inside a unit count once.
        origin: what the figure is about, for its subtitle.
        title: of the figure.

    Raises:
        ValueError: there are no paths.
    """
    if not paths:
        raise ValueError(f"no credit flows through {unit}")
    figure = go.Figure()
    rows = [[name for name, _ in groupby(names)] for names, _ in paths]
    strongest = paths[0][1]
    for y, names in enumerate(rows, start=1):
        figure.add_trace(
            go.Scatter(
                x=[_depth(name) for name in names], y=[y] * len(names), mode="lines", hoverinfo="skip",
                line={"color": colour("resid"), "width": 2}, showlegend=False,
            )
        )  # fmt: skip
    places = [place for y, names in enumerate(rows, start=1) for place in _places(y, names, unit)]
    for kind in ("resid", "head", "neuron"):
        if here := [place for place in places if place.name.startswith(f"{kind}.")]:
            figure.add_trace(_marks(kind, here, unit))
    figure.update_yaxes(
        autorange="reversed", showgrid=False, zeroline=False, title_text="strength, the best = 1",
        tickvals=[*range(1, len(rows) + 1)], ticktext=[f"{exp(credit - strongest):.2f}" for _, credit in paths],
    )  # fmt: skip
    share = f"{exp(strongest):.1%}" if strongest > log(0.01) else f"1e{strongest / log(10):.0f}"
    said = f"the best carries {share} of the outputs' credit; numbers: channels of the stream that a path enters"
    figure = styled(
        figure, title or f"The strongest paths through {unit}", "; ".join(word for word in (origin, said) if word),
        height=max(260, 130 + 34 * len(rows)), showlegend=True, hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure.update_xaxes(
        title_text="from the input to the output", showgrid=False, zeroline=False, showticklabels=False
    )


def _marks(kind: str, here: Sequence[Place], unit: str) -> go.Scatter:
    framed = [3 if place.name == unit or place.name.startswith(f"{unit}.") else 0.5 for place in here]
    sizes = [13 if kind != "resid" else 8 if place.said else 4 for place in here]
    return go.Scatter(
        x=[_depth(place.name) for place in here], y=[place.row for place in here], name=kind_name(kind),
        mode="markers+text", text=[place.said for place in here],
        textposition="bottom right" if kind == "resid" else "top center", textfont={"size": 11},
        customdata=[[place.name] for place in here], hovertemplate="<b>%{customdata[0]}</b><extra></extra>",
        marker={
            "color": colour(kind), "opacity": 1, "size": sizes, "symbol": SYMBOLS.get(kind, "circle"),
            "line": {"color": INK, "width": framed},
        },
    )  # fmt: skip


def _places(row: int, names: Sequence[str], unit: str) -> Iterator[Place]:
    """The units of a path; the stream's channels are told where they change, heads and neurons if not selected."""
    channel = ""
    for name in names:
        kind, _, position = name.split(".")
        if kind == "resid":
            yield Place(row, name, position if position != channel else "")
            channel = position
        else:
            yield Place(row, name, "" if name == unit else name)


def _depth(name: str) -> float:
    kind, layer = name.split(".")[:2]
    return int(layer) + 0.0 if kind == "resid" else 2 * int(layer) + (1.5 if kind == "neuron" else 0.5)

"""Scatter: one measure against another, unit by unit."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from graphprune.core.graph import ModelGraph
from graphprune.plots.style import GRID, SYMBOLS, colour, colour_bar, kind_name, origin, styled
from graphprune.plots.units import Group, Measure, groups_of, label_of, shared, unit_of

POINTS = 20_000  # more than that are shown as a density
BINS = 120
DECADES = 2.0  # an axis is logarithmic from here on
DEPTHS = {"colorscale": "Cividis", "colorbar": colour_bar("block")}
DENSITY = [[0.0, "#c6dbef"], [1.0, "#08306b"]]  # a single unit is visible on white

Vector = Float[np.ndarray, " units"]


def scatter(
    graph: ModelGraph,
    x: Measure,
    y: Measure,
    *,
    kinds: Sequence[str] | None = None,
    by: Literal["kind", "block"] = "kind",
    labels: tuple[str, str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """One point for each unit: its score by one measure, and by another. More than 20,000 are shown as a density.

    An axis is logarithmic where all its scores are positive and the largest is at least a hundred times the smallest.

    Args:
        graph: the graph that was measured.
        x: the measure along the horizontal axis.
        y: the measure along the vertical one.
        kinds: of units: `resid`, `head`, `neuron`, ...; all that both measures have, if not given.
        by: what colours mean: the `kind` of a unit, or its `block`.
        labels: what to call the two measures.
        title: of the figure.

    Raises:
        ValueError: a measure has no units of a kind or several columns, or belongs to another graph.
    """
    if by not in {"kind", "block"}:
        raise ValueError(f"colours mean the kind or the block of a unit, not {by!r}")
    across, up = shared([groups_of(graph, measure, kinds) for measure in (x, y)])
    xs, ys = (np.concatenate([group.values for group in groups]) for groups in (across, up))
    spans = (decades(xs), decades(ys))
    dense = len(xs) > POINTS
    traces = [_density(xs, ys, spans)] if dense else _points(across, up, by)
    names = labels or (label_of(x, direction=True), label_of(y, direction=True))
    heading = title or f"{names[1][:1].upper()}{names[1][1:]} against {names[0]}"
    shown = ", ".join(dict.fromkeys(kind_name(group.kind) for group in across))
    figure = styled(
        go.Figure(traces), heading, f"{origin(graph)}; {len(xs):,} units: {shown}", height=520,
        showlegend=not dense and (by == "kind" or len(traces) > 1), coloraxis=DEPTHS,
        legend={"itemsizing": "constant", "orientation": "h", "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    for axis, name, measure, span in zip("xy", names, (x, y), spans, strict=True):
        figure.update_layout({f"{axis}axis": axis_of(f"{name} ({unit_of(measure)})", span)})
    return figure


def decades(values: Vector) -> float:
    """The powers of ten that the values span; 0 if the axis shall be linear."""
    if not bool(((values > 0) & np.isfinite(values)).all()):
        return 0.0
    span = float(np.log10(values.max()) - np.log10(values.min()))
    return span if span >= DECADES else 0.0


def axis_of(title: str, span: float) -> dict[str, Any]:
    """An axis for values of a span, as `decades` gives it."""
    scale: dict[str, Any] = {"type": "linear"}
    if span:
        scale = {"type": "log", "dtick": float(np.ceil(span / 10)), "exponentformat": "power"}
    return {"title_text": title, "gridcolor": GRID, "zeroline": False, **scale}


def _points(across: list[Group], up: list[Group], by: str) -> list[go.Scattergl]:
    traces = []
    for kind in dict.fromkeys(group.kind for group in across):
        here = [(a, b) for a, b in zip(across, up, strict=True) if a.kind == kind]
        marker: dict[str, Any] = {"color": colour(kind), "size": 5, "opacity": 0.5}
        if by == "block":
            blocks = np.concatenate([np.full(len(a.values), a.block) for a, _ in here])
            marker |= {"color": blocks, "coloraxis": "coloraxis", "opacity": 0.7, "symbol": SYMBOLS.get(kind, "circle")}
        traces.append(
            go.Scattergl(
                x=np.concatenate([a.values for a, _ in here]), y=np.concatenate([b.values for _, b in here]),
                text=[name for a, _ in here for name in a.names], mode="markers", name=kind_name(kind), marker=marker,
                hovertemplate="<b>%{text}</b><br>%{x:.4g}, %{y:.4g}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def _density(xs: Vector, ys: Vector, spans: tuple[float, float]) -> go.Heatmap:
    """How many units fall into each cell of a grid that is even on the axes as they are drawn."""
    finite = np.isfinite(xs) & np.isfinite(ys)
    drawn = [np.log10(v[finite]) if span else v[finite] for v, span in zip((xs, ys), spans, strict=True)]
    counts, *edges = np.histogram2d(drawn[0], drawn[1], bins=BINS)
    sides = [10**edge if span else edge for edge, span in zip(edges, spans, strict=True)]
    number = np.where(counts > 0, counts, np.nan).T.astype(np.float32)  # what is drawn needs no more, and travels
    powers = np.arange(np.ceil(np.log10(counts.max(initial=1))) + 1)
    return go.Heatmap(
        x=sides[0], y=sides[1], z=np.log10(number), customdata=number, colorscale=DENSITY, zmin=0,
        colorbar=colour_bar("units in<br>a cell", tickvals=powers, ticktext=[f"{10**p:,.0f}" for p in powers]),
        hovertemplate="%{customdata} units<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    )  # fmt: skip

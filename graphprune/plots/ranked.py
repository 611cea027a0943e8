"""Ranked: the units that a measure ranks highest."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from graphprune.core.graph import ModelGraph
from graphprune.plots.style import GRID, INK, colour, kind_name, origin, styled
from graphprune.plots.units import Measure, groups_of, label_of, unit_of


def ranked(
    graph: ModelGraph,
    result: Measure,
    *,
    top: int = 20,
    kinds: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """The highest-ranked units as bars, highest first, with their standard errors where scores were sampled.

    Units are called by kind, block and number: `neuron.3.17`, `head.2.5`; those of the residual stream by position and
    channel: `resid.7.12`. Ties are in order of depth.

    Args:
        graph: the graph that was measured.
        result: one measure.
        top: how many units, at most.
        kinds: of units: `resid`, `head`, `neuron`, ...; all that the measure has, if not given.
        title: of the figure.

    Raises:
        ValueError: the measure has no units of a kind or several columns, or ``top`` is less than 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    groups = groups_of(graph, result, kinds).values()
    values = np.concatenate([group.values for group in groups])
    names = np.array([name for group in groups for name in group.names], dtype=object)
    kind_of = np.array([group.kind for group in groups for _ in group.names], dtype=object)
    errors = [group.stderr for group in groups if group.stderr is not None]
    best = np.argsort(-values, kind="stable")[:top]
    figure = go.Figure()
    for kind in dict.fromkeys(kind_of[best]):
        here = best[kind_of[best] == kind]
        bars = go.Bar(
            x=values[here], y=names[here], orientation="h", name=kind_name(kind), marker_color=colour(kind),
            hovertemplate="<b>%{y}</b><br>%{x:.4g}<extra></extra>",
        )  # fmt: skip
        if errors:
            bars.error_x = {"type": "data", "array": np.concatenate(errors)[here], "color": INK, "thickness": 1.5}
        figure.add_trace(bars)
    label = label_of(result, direction=True)
    which = "The unit that ranks" if len(best) == 1 else f"The {len(best)} units that rank"
    error_note = "; whiskers: one standard error" if errors else ""
    figure = styled(
        figure, title or f"{which} highest by {label}",
        f"{origin(graph)}; {len(values):,} units ranked{error_note}",
        height=170 + 22 * len(best), showlegend=True, bargap=0.25, legend={"title": {"text": ""}},
    )  # fmt: skip
    figure.update_xaxes(title_text=f"{label_of(result)} ({unit_of(result)})", gridcolor=GRID, rangemode="tozero")
    order = [str(name) for name in names[best]]
    return figure.update_yaxes(categoryorder="array", categoryarray=order, autorange="reversed", showgrid=False)

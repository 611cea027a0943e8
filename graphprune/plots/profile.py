"""Profile: how measures spread their scores over the depth of a model and over kinds of unit."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from graphprune.centrality.result import CentralityResult
from graphprune.core.graph import ModelGraph
from graphprune.plots.style import COLOURS, DIVERGING, EMPTY, SEQUENTIAL, colour_bar, kind_name, origin, styled
from graphprune.plots.units import Group, Measure, groups_of, labelled

Column = tuple[str, int]  # kind and layer


def profile(
    graph: ModelGraph,
    results: Mapping[str, Measure] | Sequence[Measure],
    *,
    kinds: Sequence[str] | None = None,
    title: str = "Where each measure puts its score: by depth and by kind of unit",
) -> go.Figure:
    """A heat map with a row for each measure and a column for each layer, one panel for each kind of unit.

    A cell is the sum of the scores of a layer's units where scores add up (`CentralityResult.aggregate`), else their
    mean. Colours are shares of the highest cell of the row, over all panels, so that rows can be compared; the pointer
    shows the number itself.

    Args:
        graph: the model graph that was measured.
        results: measures, by label or as a list.
        kinds: `resid`, `head`, `neuron`, ...; all that the measures have, if not given.
        title: of the figure.

    Raises:
        ValueError: a measure has no units of a kind, or belongs to another graph.
    """
    measures = labelled(results)
    if graph.order is not None:
        raise ValueError("a graph from outside has no layers to show a profile of")
    groups = {label: _columns(groups_of(graph, measure, kinds)) for label, measure in measures.items()}
    columns = sorted({column for each in groups.values() for column in each}, key=_place)
    raw = np.array([[_cell(measures[row], groups[row].get(column)) for column in columns] for row in measures])
    scaled = _scaled(raw)
    panels = {kind: [j for j, column in enumerate(columns) if column[0] == kind] for kind, _ in columns}
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, horizontal_spacing=0.02, column_widths=[len(at) for at in panels.values()],
        subplot_titles=[kind_name(kind) for kind in panels],
    )  # fmt: skip
    gap = 1 if len(columns) < 50 else 0
    for i, (kind, at) in enumerate(panels.items()):
        hover = [[_hover(row, measures[row], groups[row].get(columns[j])) for j in at] for row in measures]
        cells = go.Heatmap(
            x=[columns[j][1] for j in at], y=[*measures], z=scaled[:, at], customdata=raw[:, at], text=hover,
            coloraxis="coloraxis", xgap=gap, ygap=1,
            hovertemplate="%{text}<br>%{z:.0%} of the row's highest<extra></extra>",
        )  # fmt: skip
        figure.add_trace(cells, row=1, col=i + 1)
        place = "position in the stream" if kind == "resid" else "block"
        figure.update_xaxes(title_text=place, dtick=_every(len(at)), showgrid=False, zeroline=False, row=1, col=i + 1)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_annotations(font_size=14)
    note = "; grey: no score" if np.isnan(scaled).any() else ""
    subtitle = f"{origin(graph)}; a cell is the sum, or mean, of the scores of a layer's units{note}"
    height = max(200 + 30 * len(measures), 260)
    return styled(figure, title, subtitle, height=height, coloraxis=_scale(raw), plot_bgcolor=EMPTY)


def _scale(raw: Float[np.ndarray, "rows columns"]) -> dict[str, object]:
    signed = bool((raw < 0).any())
    bar = colour_bar("share of the<br>row's highest", tickformat=".0%", nticks=3)
    return {"colorscale": DIVERGING if signed else SEQUENTIAL, "cmin": -1 if signed else 0, "cmax": 1, "colorbar": bar}


def _columns(groups: dict[str, Group]) -> dict[Column, Group]:
    return {(group.kind, group.layer): group for group in groups.values()}


def _place(column: Column) -> tuple[int, int]:
    return [*COLOURS].index(column[0]), column[1]


def _adds_up(measure: Measure) -> bool:
    return isinstance(measure, CentralityResult) and measure.aggregate == "sum"


def _cell(measure: Measure, group: Group | None) -> float:
    if group is None:
        return float("nan")
    return float(group.values.sum() if _adds_up(measure) else group.values.mean())


def _scaled(raw: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Rows over their own largest absolute value; what isn't finite is blank."""
    finite = np.where(np.isfinite(raw), raw, np.nan)
    largest = np.abs(np.where(np.isfinite(raw), raw, 0.0)).max(axis=1, keepdims=True)
    return np.asarray(finite / np.where(largest > 0, largest, 1.0))


def _hover(label: str, measure: Measure, group: Group | None) -> str:
    if group is None:
        return f"<b>{label}</b><br>no scores"
    where = f"position {group.layer} of the stream" if group.kind == "resid" else f"block {group.layer}"
    how = "sum" if _adds_up(measure) else "mean"
    return (
        f"<b>{label}</b><br>{kind_name(group.kind)}, {where}<br>"
        f"{how} over {len(group.values):,}: {_cell(measure, group):.4g}"
    )


def _every(n: int) -> int:
    """How many columns from one label to the next, so that there are at most a dozen or so."""
    return next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500) if n <= 14 * step or step == 500)

"""Kept and removed: how a mask divides the scores that it was made from."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.plots.scatter import POINTS, axis_of, decades
from graphprune.plots.style import GRID, colour, colour_bar, styled

BINS = 60
CELLS = 120  # along either axis, where there are more units than points can show
SHARE = [[0.0, colour("resid")], [0.5, "#bdbdbd"], [1.0, colour("head")]]


def kept_and_removed(
    scores: Scores, mask: Mask, groups: Sequence[str], *, title: str = "The scores of what stays and of what goes"
) -> go.Figure:
    """How many units have which score, those that go hatched.

    The axis is logarithmic where all scores are positive and span more than two decades. Under an allocation by block
    the two overlap, since every block has a threshold of its own.

    Args:
        scores: higher = keep.
        mask: what stays.
        groups: whose units: `neuron.3`, ...
        title: of the figure.

    Raises:
        ValueError: there are no groups, or one has no scores.
    """
    missing = [name for name in groups if name not in scores.values or name not in mask.keep]
    if not groups or missing:
        raise ValueError(f"{missing[0]} has no scores" if missing else "a figure of scores needs at least one group")
    values = np.concatenate([scores.values[name].double().numpy() for name in groups])
    stays = np.concatenate([mask.keep[name].numpy() for name in groups])
    logarithmic = bool(values.min() > 0 and values.max() >= 100 * values.min())
    axis = np.log10(values) if logarithmic else values
    edges = np.histogram_bin_edges(axis, bins=BINS)
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    for name, part, fill in (("stays", stays, colour("resid")), ("goes", ~stays, colour("head"))):
        counts = np.histogram(axis[part], bins=edges)[0]
        figure.add_trace(
            go.Bar(
                x=10**middle if logarithmic else middle, y=counts, name=f"{name}: {int(part.sum()):,}",
                width=(10 ** edges[1:] - 10 ** edges[:-1]) if logarithmic else edges[1:] - edges[:-1],
                marker={"color": fill, "pattern": {"shape": "/" if name == "goes" else ""}, "line": {"width": 0}},
                hovertemplate="score about %{x:.3g}<br>%{y} units<extra></extra>",
            )
        )  # fmt: skip
    what = groups[0] if len(groups) == 1 else f"{len(groups)} groups"
    figure = styled(
        figure, title, f"{scores.method.replace('_', ' ')}, higher = keep; {len(values):,} units of {what}",
        height=340, barmode="stack", bargap=0, showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(title_text="score", type="log" if logarithmic else "linear", gridcolor=GRID)
    return figure.update_yaxes(title_text="units", gridcolor=GRID)


def kept_scatter(
    x: Scores,
    y: Scores,
    mask: Mask,
    groups: Sequence[str],
    *,
    labels: tuple[str, str],
    title: str = "What stays and what goes, by two scores",
) -> go.Figure:
    """A point for each unit, its colour and sign by whether it stays; of more than 20,000 units the share that goes.

    Axes are logarithmic as in `scatter`. A box or a lasso can be drawn around units.

    Args:
        x: scores along the horizontal axis.
        y: along the vertical one.
        mask: what stays.
        groups: whose units.
        labels: what the scores are called.
        title: of the figure.

    Raises:
        ValueError: there are no groups, or one has no scores.
    """
    missing = [name for name in groups if name not in x.values or name not in y.values or name not in mask.keep]
    if not groups or missing:
        raise ValueError(f"{missing[0]} has no scores" if missing else "a figure of scores needs at least one group")
    xs, ys = (np.concatenate([each.values[name].double().numpy() for name in groups]) for each in (x, y))
    stays = np.concatenate([mask.keep[name].numpy() for name in groups])
    spans = (decades(xs), decades(ys))
    figure = go.Figure()
    if len(xs) > POINTS:
        figure.add_trace(_shares(xs, ys, stays, spans))
        middle = go.Scatter(x=xs[:1], y=ys[:1], mode="markers", marker={"opacity": 0}, hoverinfo="skip")
        figure.add_trace(middle)  # without a trace of points nothing can be drawn around
    else:
        names = np.array([f"{name}.{i}" for name in groups for i in range(len(x.values[name]))])
        for name, part, fill in (("stays", stays, colour("resid")), ("goes", ~stays, colour("head"))):
            figure.add_trace(
                go.Scattergl(
                    x=xs[part], y=ys[part], mode="markers", name=f"{name}: {int(part.sum()):,}", text=names[part],
                    marker={"color": fill, "size": 5, "opacity": 0.6, "symbol": "x" if name == "goes" else "circle"},
                    hovertemplate=f"<b>%{{text}}</b> {name}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
                )
            )  # fmt: skip
    figure = styled(
        figure, title, f"{len(xs):,} units, {int((~stays).sum()):,} of them go; higher = keep", height=460,
        showlegend=len(xs) <= POINTS, dragmode="select",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "itemsizing": "constant"},
    )  # fmt: skip
    for axis, label, span in zip("xy", labels, spans, strict=True):
        figure.update_layout({f"{axis}axis": axis_of(label, span)})
    return figure


def _shares(xs: np.ndarray, ys: np.ndarray, stays: np.ndarray, spans: tuple[float, float]) -> go.Heatmap:
    """The share of the units in each cell that goes; the grid is even on the axes as they are drawn."""
    drawn = [np.log10(values) if span else values for values, span in zip((xs, ys), spans, strict=True)]
    counts, *edges = np.histogram2d(drawn[0], drawn[1], bins=CELLS)
    gone = np.histogram2d(drawn[0][~stays], drawn[1][~stays], bins=edges)[0]
    share = np.where(counts > 0, gone / np.maximum(counts, 1), np.nan).T
    sides = [10**edge if span else edge for edge, span in zip(edges, spans, strict=True)]
    return go.Heatmap(
        x=sides[0], y=sides[1], z=share, zmin=0, zmax=1, colorscale=SHARE,
        colorbar=colour_bar("share<br>that goes", tickformat=".0%"),
        hovertemplate="%{z:.0%} of the units here go<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    )  # fmt: skip

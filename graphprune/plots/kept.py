"""Kept and removed: how a mask divides the scores that it was made from."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.plots.style import GRID, colour, styled

BINS = 60


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

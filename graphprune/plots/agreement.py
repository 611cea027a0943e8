"""Agreement: do measures rank the units alike?"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from graphprune.comparison.ranks import clustered_order, spearman
from graphprune.core.graph import ModelGraph
from graphprune.plots.style import DIVERGING, EMPTY, INK, SEQUENTIAL, colour_bar, kind_name, origin, styled
from graphprune.plots.units import Measure, groups_of, labelled, shared


def agreement(
    graph: ModelGraph,
    results: Mapping[str, Measure] | Sequence[Measure],
    *,
    kinds: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    title: str = "Do the measures rank the units alike?",
) -> go.Figure:
    """The matrix of Spearman's rank correlations between measures, with similar measures beside each other.

    Ties have average ranks, as in ``scipy.stats.spearmanr``. The order is that of an average-linkage clustering of
    1 - correlation. Where there is no correlation, since a measure has the same score at every unit, the cell is blank
    and the pointer shows why.

    Args:
        graph: the graph that was measured.
        results: measures, by label or as a list.
        kinds: of the units that are compared: `resid`, `head`, `neuron`, ...; all that are shared, if not given.
        layers: likewise; depth then has no part in the correlation, if it is one layer.
        title: of the figure.

    Raises:
        ValueError: a measure has no units of a kind, there are none in a layer, or measures belong to other graphs.
    """
    measures = labelled(results)
    groups = shared([groups_of(graph, measure, kinds) for measure in measures.values()])
    chosen = [[group for group in each if layers is None or group.layer in layers] for each in groups]
    if not chosen[0]:
        raise ValueError(f"no units lie in the layers {', '.join(map(str, layers or ()))}")
    scores = np.stack([np.concatenate([group.values for group in each]) for each in chosen])
    correlation = spearman(scores)
    order = clustered_order(correlation)
    labels = [[*measures][i] for i in order]
    correlation = correlation[np.ix_(order, order)]
    why = [_why_none(label, scores[i]) for label, i in zip(labels, order, strict=True)]
    n = scores.shape[1]
    hover = [
        [_hover(labels[i], labels[j], correlation[i, j], why[i] or why[j]) for j in range(len(labels))]
        for i in range(len(labels))
    ]
    names = ", ".join(dict.fromkeys(kind_name(group.kind) for group in chosen[0]))
    where = "" if layers is None else f" of layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    note = "; blank: the measure is the same at every unit" if any(why) else ""
    subtitle = f"{origin(graph)}; {n:,} units: {names}{where}{note}"
    return matrix_figure(labels, correlation, hover, title, subtitle, bar="Spearman<br>correlation")


def matrix_figure(
    labels: Sequence[str],
    values: Float[np.ndarray, "measures measures"],
    hover: Sequence[Sequence[str]],
    title: str,
    subtitle: str,
    *,
    bar: str,
    lowest: float = -1.0,
) -> go.Figure:
    """A square heat map with its values printed; what is NaN is blank.

    Args:
        labels: of rows and columns.
        values: from ``lowest`` to 1.
        hover: what the pointer shows.
        title: of the figure.
        subtitle: likewise.
        bar: what a colour means.
        lowest: the least that a value can be; colours diverge where it is below 0.
    """
    cells = go.Heatmap(
        x=labels, y=labels, z=values, zmin=lowest, zmax=1, colorscale=DIVERGING if lowest < 0 else SEQUENTIAL,
        xgap=1, ygap=1, hoverinfo="text", hovertext=hover, text=[[printed(value) for value in row] for row in values],
        texttemplate="%{text}", textfont={"size": 11}, colorbar=colour_bar(bar),
    )  # fmt: skip
    side = max(230 + 36 * len(labels), 360)
    figure = styled(
        go.Figure(cells), title, subtitle, height=side, width=max(side + 160, 860), plot_bgcolor=EMPTY
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, tickangle=-45, tickfont={"color": INK})
    return figure.update_yaxes(showgrid=False, autorange="reversed", tickfont={"color": INK})


def _why_none(label: str, scores: Float[np.ndarray, " units"]) -> str:
    if np.isnan(scores).any():
        return f"{label} is no number at {int(np.isnan(scores).sum()):,} units"
    return f"{label} is the same at every unit" if (scores == scores[0]).all() else ""


def printed(value: float) -> str:
    """Two decimals; nothing where there is no number."""
    return "" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # not -0.00


def _hover(row: str, column: str, value: float, why: str) -> str:
    return f"<b>{row}</b><br><b>{column}</b><br>" + (f"no correlation: {why}" if np.isnan(value) else f"{value:.3f}")

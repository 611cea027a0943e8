"""Curves over sparsity: what masks leave of the graph (percolation), and of the model's predictions (robustness)."""

from collections.abc import Sequence

import plotly.graph_objects as go

from graphprune.comparison.consequence import KL, PERPLEXITY, Consequences, Series
from graphprune.comparison.percolation import QUANTITIES
from graphprune.plots.comparison import LINES
from graphprune.plots.style import GRID, styled

TITLES = {
    "path_mass": "weight of all paths that remains",
    "credit": "the outputs' credit of what stays",
    "reach": "outputs that an input reaches",
    "min_cut": "minimum cut from inputs to outputs",
    "components": "components of the strongest edges",
    "largest": "nodes in the largest component",
    "entropy": "entropy of the credit (nats)",
    PERPLEXITY: "perplexity",
    KL: "divergence from the dense model (nats a token)",
}
SHARES = ("path_mass", "credit", "reach", "min_cut", "largest")


def percolation_curves(
    consequences: Consequences,
    quantity: str = "path_mass",
    *,
    series: Sequence[Series] | None = None,
    title: str = "What is left of the graph",
) -> go.Figure:
    """A quantity of the graph over sparsity, a line for each way of making masks; repair changes no graph's nodes.

    Args:
        consequences: of masks.
        quantity: `path_mass`, `credit`, `reach`, `min_cut`, `components`, `largest` or `entropy`.
        series: which ways; all without repair, if not given.
        title: of the figure.

    Raises:
        ValueError: it is no quantity of a graph, or unknown of all masks.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"the graph has {', '.join(QUANTITIES)}, not {quantity!r}")
    chosen = [each for each in consequences.series if each.compensation == "none"] if series is None else series
    return _curves(consequences, quantity, chosen, title)


def robustness_curves(
    consequences: Consequences,
    quantity: str = PERPLEXITY,
    *,
    series: Sequence[Series] | None = None,
    title: str = "What pruning costs the model",
) -> go.Figure:
    """Perplexity or divergence over sparsity, a line for each way of making masks; dashed where weights are repaired.

    Perplexity is drawn on a logarithmic axis; what is not finite is left out.

    Args:
        consequences: of masks.
        quantity: `perplexity` or `kl`.
        series: which ways; all, if not given.
        title: of the figure.

    Raises:
        ValueError: it is neither, or unknown of all masks.
    """
    if quantity not in {PERPLEXITY, KL}:
        raise ValueError(f"the model has perplexity and kl, not {quantity!r}")
    figure = _curves(consequences, quantity, consequences.series if series is None else series, title)
    return figure.update_yaxes(type="log") if quantity == PERPLEXITY else figure


def _curves(consequences: Consequences, quantity: str, series: Sequence[Series], title: str) -> go.Figure:
    figure = go.Figure()
    bases = list(dict.fromkeys((each.scorer, each.allocation) for each in series))
    for each in series:
        points = {at: value for at, value in consequences.curve(each, quantity).items() if value < float("inf")}
        if not points.keys() - {0.0}:
            continue
        at = bases.index((each.scorer, each.allocation))
        dash = "solid" if each.compensation == "none" else "dash"
        figure.add_trace(go.Scatter(
            x=[*points], y=[*points.values()], name=each.name, mode="lines+markers", marker={"size": 6},
            line={"color": LINES[at % len(LINES)], "dash": dash},
            hovertemplate=f"<b>{each.name}</b><br>%{{x:.0%}} removed: %{{y:.4g}}<extra></extra>",
        ))  # fmt: skip
    if not figure.data:
        raise ValueError(f"{quantity} is known of no mask")
    units = {"all": "heads and neurons", "neuron": "neurons", "head": "heads"}
    what = units.get(str(consequences.settings.get("units")), "units")
    repaired = "; dashed: what stays is refitted" if any(each.compensation != "none" for each in series) else ""
    height = max(480, 160 + 20 * len(figure.data))  # or the legend is cut
    figure = styled(figure, title, f"{what} go, lowest scores first{repaired}", height=height, showlegend=True)
    figure.update_xaxes(title_text="sparsity", tickformat=".0%", gridcolor=GRID, rangemode="tozero")
    share = {"tickformat": ".0%"} if quantity in SHARES else {}
    return figure.update_yaxes(title_text=TITLES[quantity], gridcolor=GRID, **share)


def predictive(consequences: Consequences, *, title: str = "Which quantity of the graph tells the damage") -> go.Figure:
    """A bar for each quantity of the graph: its rank correlation with what pruning costs, over masks of one sparsity.

    What isn't defined, since a quantity is the same behind all masks, is left out.

    Args:
        consequences: of masks, measured on the graph and on the model.
        title: of the figure.

    Raises:
        ValueError: nothing is known of both.
    """
    figure = go.Figure()
    for quality, colour in ((PERPLEXITY, LINES[0]), (KL, LINES[1])):
        found = {each: consequences.predicted_by(each, quality).value for each in QUANTITIES}
        known = {each: value for each, value in found.items() if value is not None}
        if known:
            figure.add_trace(go.Bar(
                x=[TITLES[each] for each in known], y=[*known.values()], name=TITLES[quality], marker_color=colour,
                hovertemplate="%{x}<br>%{y:.3f}<extra></extra>",
            ))  # fmt: skip
    if not figure.data:
        raise ValueError("no quantity of the graph is known together with what pruning costs")
    note = "mean over sparsities; below 0: more is left of what costs less"
    figure = styled(figure, title, note, height=460, barmode="group", showlegend=True)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title_text="Spearman correlation", gridcolor=GRID, range=[-1, 1])

"""What a predictor of architectures has learned: which groups matter, from how many pairs, and how well it holds."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from graphprune.plots.style import GRID, INK, colour, kind_name, styled

Spread = tuple[float, float]  # a mean, and its standard deviation


def importance(
    values: Mapping[str, Spread], *, title: str = "Which blocks matter: importance to the accuracy predictor"
) -> go.Figure:
    """A bar for the attention and one for the MLP of every block, with the deviation over shuffles.

    Args:
        values: by unit group (`head.3`, `neuron.3`), as `Predictor.importance` gives them.
        title: of the figure.

    Raises:
        ValueError: there are none, or a name is no unit group.
    """
    if not values:
        raise ValueError("a figure needs the importance of at least one group")
    groups = {name: name.split(".") for name in values}
    for name, parts in groups.items():
        if len(parts) != 2 or parts[0] not in {"head", "neuron"} or not parts[1].isdigit():
            raise ValueError(f"{name!r} is no group of heads or neurons, such as head.3 or neuron.3")
    figure = go.Figure()
    for kind in ("head", "neuron"):
        here = sorted((int(parts[1]), *values[name]) for name, parts in groups.items() if parts[0] == kind)
        if not here:
            continue
        blocks, means, deviations = zip(*here, strict=True)
        figure.add_trace(go.Bar(
            x=blocks, y=means, name=kind_name(kind), marker_color=colour(kind),
            error_y={"type": "data", "array": deviations, "color": INK, "thickness": 1.5},
            hovertemplate=f"<b>{kind_name(kind)}, block %{{x}}</b><br>%{{y:.4g}}<extra></extra>",
        ))  # fmt: skip
    note = "growth of the held-out squared error when a group's sparsities are shuffled; whiskers: one deviation"
    figure = styled(figure, title, note, height=400, barmode="group", showlegend=True, legend={"title": {"text": ""}})
    figure.update_xaxes(title_text="block", showgrid=False)
    return figure.update_yaxes(title_text="squared error (nats²)", gridcolor=GRID, rangemode="tozero")


def learning_curve(
    curves: Mapping[str, Mapping[int, Spread]], *, title: str = "How many pairs an accuracy predictor needs"
) -> go.Figure:
    """Rank correlation on pairs that were left out, over the number of those learned from; a line for each predictor.

    Args:
        curves: by label, then by number of pairs, as `learning_curve` of the report gives them.
        title: of the figure.

    Raises:
        ValueError: there are none.
    """
    if not any(curves.values()):
        raise ValueError("a figure needs at least one learning curve")
    figure = go.Figure()
    for label, curve in curves.items():
        sizes = sorted(curve)
        figure.add_trace(go.Scatter(
            x=sizes, y=[curve[n][0] for n in sizes], name=label, mode="lines+markers",
            error_y={"type": "data", "array": [curve[n][1] for n in sizes], "thickness": 1.5},
            hovertemplate=f"<b>{label}</b><br>%{{x}} pairs: %{{y:.3f}}<extra></extra>",
        ))  # fmt: skip
    figure = styled(figure, title, "on pairs left out; whiskers: one deviation over draws", height=400, showlegend=True)
    figure.update_xaxes(title_text="pairs", gridcolor=GRID, rangemode="tozero")
    return figure.update_yaxes(title_text="Spearman correlation", gridcolor=GRID)


def predicted_and_measured(
    rows: Sequence[Mapping[str, float | None]],
    *,
    unit: str = "perplexity",
    title: str = "What was predicted, and what was measured then",
) -> go.Figure:
    """A point an architecture, with its interval; on the diagonal the prediction was right.

    Args:
        rows: `predicted`, `low`, `high` and `measured` of each; what gave no number is left out.
        unit: of all of these.
        title: of the figure.

    Raises:
        ValueError: nothing was measured.
    """
    known = [
        (row["measured"], row["predicted"], row["low"], row["high"]) for row in rows
        if row["measured"] is not None and row["predicted"] is not None and row["low"] is not None
        and row["high"] is not None
    ]  # fmt: skip
    if not known:
        raise ValueError("a figure needs at least one architecture that was measured")
    measured, predicted, low, high = (list(column) for column in zip(*known, strict=True))
    up = [top - at for top, at in zip(high, predicted, strict=True)]
    down = [at - bottom for at, bottom in zip(predicted, low, strict=True)]
    ends = [min(measured + low), max(measured + high)]
    figure = go.Figure(go.Scatter(x=ends, y=ends, mode="lines", line={"color": GRID}, hoverinfo="skip"))
    figure.add_trace(go.Scatter(
        x=measured, y=predicted, mode="markers", marker={"color": colour("resid"), "size": 9},
        error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": INK, "thickness": 1.5},
        hovertemplate="measured %{x:.4g}<br>predicted %{y:.4g}<extra></extra>",
    ))  # fmt: skip
    inside = sum(bottom <= at <= top for at, _, bottom, top in known)
    note = f"{inside} of {len(known)} within their interval"
    figure = styled(figure, title, note, height=480, showlegend=False)
    figure.update_xaxes(title_text=f"{unit}, measured", gridcolor=GRID)
    return figure.update_yaxes(title_text=f"{unit}, predicted", gridcolor=GRID)

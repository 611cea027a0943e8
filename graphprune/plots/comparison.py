"""Figures of a comparison: who agrees with whom, on what, and how much of what goes is the same."""

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from graphprune.comparison.result import CORRELATIONS, OVERALL, Agreed, Comparison, Scope, Statistic
from graphprune.plots.agreement import matrix_figure
from graphprune.plots.style import DIVERGING, EMPTY, GRID, INK, SEQUENTIAL, colour_bar, kind_name, styled

NAMES: dict[Statistic, str] = {
    "spearman": "Spearman<br>correlation",
    "kendall": "Kendall's<br>tau-b",
    "rbo": "rank-biased<br>overlap",
    "jaccard": "Jaccard<br>index",
}
LINES = (*qualitative.Dark24,)


def agreement_matrix(
    comparison: Comparison,
    statistic: Statistic = "spearman",
    scope: str = OVERALL,
    *,
    budget: float | None = None,
    title: str = "Do the scorers rank the units alike?",
) -> go.Figure:
    """The agreement of all pairs, similar scorers beside each other; blank where it isn't defined, which is explained.

    Args:
        comparison: what was compared.
        statistic: `spearman`, `kendall`, `rbo` or `jaccard`.
        scope: `overall`, a kind, or a unit group.
        budget: of `jaccard`.
        title: of the figure.

    Raises:
        ValueError: there is no such scope or budget.
    """
    labels = [comparison.labels[i] for i in comparison.order]
    cells = [[comparison.agreed(a, b, statistic, scope, budget=budget) for b in labels] for a in labels]
    values = np.array([[_number(cell.value) for cell in row] for row in cells])
    hover = [
        [_hover(labels[i], labels[j], cell) for j, cell in enumerate(row)] for i, row in enumerate(cells)
    ]  # fmt: skip
    where = comparison.scope(scope)
    of = "" if budget is None else f"; {budget:.0%} of the units go"
    blank = "; blank: a scorer gives all units the same score" if np.isnan(values).any() else ""
    lowest = -1.0 if statistic in CORRELATIONS else 0.0
    return matrix_figure(
        labels, values, hover, title, f"{_units(where)}{of}{blank}", bar=NAMES[statistic], lowest=lowest
    )


def overlap_curves(
    comparison: Comparison, against: str, *, scope: str = OVERALL, title: str | None = None
) -> go.Figure:
    """How much of what one scorer removes (or keeps) each of the others does, over the budget; dotted: by chance.

    Whiskers are bootstrap intervals over calibration seeds, where there are any.

    Args:
        comparison: what was compared.
        against: the scorer that the others are compared with.
        scope: `overall`, a kind, or a unit group.
        title: of the figure.

    Raises:
        ValueError: there is no such scorer or scope.
    """
    where, budgets = comparison.scope(scope), sorted(comparison.budgets)
    kept = comparison.settings["end"] == "kept"
    figure = go.Figure()
    for at, label in enumerate(label for label in comparison.labels if label != against):
        agreed = [comparison.agreed(against, label, "jaccard", scope, budget=budget) for budget in budgets]
        figure.add_trace(go.Scatter(
            x=budgets, y=[each.value for each in agreed], name=label, mode="lines+markers", error_y=_whiskers(agreed),
            line={"color": LINES[at % len(LINES)]}, marker={"size": 5},
            hovertemplate=f"<b>{label}</b><br>%{{x:.0%}} removed: %{{y:.3f}}<extra></extra>",
        ))  # fmt: skip
    size = [1 - budget if kept else budget for budget in budgets]
    figure.add_trace(go.Scatter(
        x=budgets, y=[share / (2 - share) for share in size], name="by chance", mode="lines",
        line={"color": INK, "dash": "dot"}, hovertemplate="by chance: %{y:.3f}<extra></extra>",
    ))  # fmt: skip
    what = "keep" if kept else "remove"
    figure = styled(
        figure, title or f"Do they {what} what {against} {what}s?", _units(where), height=460, showlegend=True
    )  # fmt: skip
    figure.update_xaxes(title_text="share of the units that is removed", tickformat=".0%", gridcolor=GRID)
    return figure.update_yaxes(title_text="Jaccard index", gridcolor=GRID, range=[0, 1.02])


def block_agreement(
    comparison: Comparison,
    against: str,
    statistic: Statistic = "spearman",
    *,
    budget: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """A heat map with a row for each scorer and a column for each block: its agreement with one of them, by kind.

    Args:
        comparison: what was compared.
        against: the scorer that the others are compared with.
        statistic: `spearman`, `kendall`, `rbo` or `jaccard`.
        budget: of `jaccard`.
        title: of the figure.

    Raises:
        ValueError: there is no such scorer or budget, or no group of more than one unit.
    """
    others = [comparison.labels[i] for i in comparison.order if comparison.labels[i] != against]
    panels: dict[str, list[Scope]] = {}
    for scope in comparison.scopes:
        if scope.groups == (scope.name,) and scope.kind is not None:
            panels.setdefault(scope.kind, []).append(scope)
    if not panels:
        raise ValueError("no block has more than one unit that was compared")
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[kind_name(k) for k in panels]
    )  # fmt: skip
    for i, scopes in enumerate(panels.values()):
        cells = [
            [comparison.agreed(against, label, statistic, s.name, budget=budget) for s in scopes] for label in others
        ]
        figure.add_trace(
            go.Heatmap(
                x=[_layer(scope) for scope in scopes], y=others,
                z=[[_number(cell.value) for cell in row] for row in cells],
                customdata=[[scope.name for scope in scopes]] * len(others),
                hovertext=[
                    [f"{scope.name}<br>{_hover(against, label, cell)}" for scope, cell in zip(scopes, row, strict=True)]
                    for label, row in zip(others, cells, strict=True)
                ],
                hoverinfo="text", coloraxis="coloraxis", ygap=1, xgap=1 if len(scopes) < 50 else 0,
            ),
            row=1, col=i + 1,
        )  # fmt: skip
        figure.update_xaxes(title_text="block", showgrid=False, zeroline=False, row=1, col=i + 1)
    diverging = statistic in CORRELATIONS
    scale = {"colorscale": DIVERGING if diverging else SEQUENTIAL, "cmin": -1 if diverging else 0, "cmax": 1}
    figure = styled(
        figure, title or f"In which blocks do they agree with {against}?", _units(comparison.scope(OVERALL)),
        height=max(210 + 30 * len(others), 280), plot_bgcolor=EMPTY,
        coloraxis={**scale, "colorbar": colour_bar(NAMES[statistic])},
    )  # fmt: skip
    figure.update_annotations(font_size=14)
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def _layer(scope: Scope) -> int:
    return int(scope.name.split(".")[1])


def _units(scope: Scope) -> str:
    kinds = dict.fromkeys(group.split(".")[0] for group in scope.groups)
    where = f" of {scope.name}" if scope.groups == (scope.name,) else ""
    return f"{scope.units:,} units: {', '.join(kind_name(kind) for kind in kinds)}{where}"


def _number(value: float | None) -> float:
    """What a heat map takes: it leaves NaN blank."""
    return float("nan") if value is None else value


def _hover(row: str, column: str, cell: Agreed) -> str:
    return f"<b>{row}</b><br><b>{column}</b><br>" + "<br>".join(_said(cell))


def _said(cell: Agreed) -> Iterator[str]:
    yield "not defined" if cell.value is None else f"{cell.value:.3f}"
    if cell.low is not None and cell.high is not None:
        yield f"{cell.low:.3f} to {cell.high:.3f} over calibration seeds"
    if cell.why:
        yield cell.why


def _whiskers(agreed: list[Agreed]) -> dict[str, object] | None:
    known = [(each.value, each.low, each.high) for each in agreed]
    up, down = [], []
    for value, low, high in known:
        if value is None or low is None or high is None:
            return None
        up.append(high - value)
        down.append(value - low)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5}

"""What a study found: every quality over sparsity, a line for each way of pruning."""

from math import inf, isfinite, log10
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from graphprune.plots.comparison import LINES
from graphprune.plots.style import GRID, styled
from graphprune.studies.table import PERPLEXITY, RETENTION, Row, Table, title

EXPLODED = 15
DASHES = ("solid", "dash", "dot")


def study_curves(table: Table) -> go.Figure:
    """A panel for each perplexity, and for the accuracy that is retained of each task; lines begin at the dense model.

    Bars are deviations over seeds, where there are several. Perplexity is drawn on a logarithmic axis; what is more
    than `EXPLODED` times the lowest leaves the picture.

    Args:
        table: of the study.

    Raises:
        ValueError: nothing has been measured of any pruned model.
    """
    shown = [name for name in table.qualities if name.startswith((PERPLEXITY, f"{RETENTION}."))]
    series = table.series()
    if not shown or not any(row.means for rows in series.values() for row in rows):
        raise ValueError("a figure needs at least one pruned model that was measured")
    figure = make_subplots(rows=len(shown), shared_xaxes=True, vertical_spacing=0.06)
    for panel, name in enumerate(shown, start=1):
        for at, (label, rows) in enumerate(series.items()):
            dense = table.dense(rows[0].model)
            points = [row for row in (dense, *rows) if row is not None and isfinite(row.means.get(name, inf))]
            figure.add_trace(_line(points, name, label, at, legend=panel == 1), row=panel, col=1)
        scale = _logarithmic(table, name) if name.startswith(PERPLEXITY) else {"tickformat": ".0%"}
        figure.update_yaxes(title_text=title(name), gridcolor=GRID, row=panel, col=1, **scale)
    figure.update_xaxes(tickformat=".0%", gridcolor=GRID, rangemode="tozero")
    figure.update_xaxes(title_text="sparsity", row=len(shown), col=1)
    return styled(figure, _heading(table.title), _told(table), height=120 + 340 * len(shown), showlegend=True)


def _line(points: list[Row], name: str, label: str, at: int, *, legend: bool) -> go.Scatter:
    bars = [row.deviations.get(name) for row in points]
    line = {"color": LINES[at % len(LINES)], "dash": DASHES[at // len(LINES) % len(DASHES)]}
    return go.Scatter(
        x=[row.sparsity for row in points], y=[row.means[name] for row in points], name=label, legendgroup=label,
        showlegend=legend, mode="lines+markers", marker={"size": 6}, line=line,
        error_y={"type": "data", "array": [bar or 0.0 for bar in bars], "visible": any(bars), "thickness": 1},
        hovertemplate=f"<b>{label}</b><br>%{{x:.0%}} removed: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip


def _logarithmic(table: Table, name: str) -> dict[str, Any]:
    """An axis from the lowest value to the highest that hasn't exploded."""
    values = [row.means[name] for row in table.rows if isfinite(row.means.get(name, inf))]
    low, high = min(values), min(max(values), EXPLODED * min(values))
    return {"type": "log", "range": [log10(low * 0.95), log10(high * 1.05)]}


def _heading(name: str) -> str:
    return name[:1].upper() + name[1:]


def _told(table: Table) -> str:
    models = ", ".join(dict.fromkeys(row.model for row in table.rows))
    seeds = max(row.seeds for row in table.rows)
    return f"{models}; {f'means and deviations over {seeds} seeds' if seeds > 1 else 'one seed'}"

"""Anatomy: the model as a picture, its blocks from the input up, coloured by a score, with what a mask removes."""

from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, NEURON, UnitTable
from graphprune.plots.style import GRID, INK, colour, colour_bar, kind_name, styled

SCALE = "Cividis"  # readable on light and on dark, and the same to every kind of colour vision
GONE = "#bbbbbb"
ATTENTION, MLP = "attn", "mlp"


@dataclass(frozen=True)
class Part:
    """The attention or the MLP of a block.

    Attributes:
        group: the unit group that is selected by it: ``head.3``.
        layer: which block.
        kind: `attn` or `mlp`.
        parameters: of all its units.
        removed: of those that go.
        units, units_removed: likewise, in units.
        score: the mean of its units' scores, or None.
    """

    group: str
    layer: int
    kind: str
    parameters: int
    removed: int
    units: int
    units_removed: int
    score: float | None

    @property
    def sparsity(self) -> float:
        return self.removed / max(self.parameters, 1)


def parts_of(units: UnitTable, scores: Scores | None = None, mask: Mask | None = None) -> list[Part]:
    """The attention and the MLP of every block, in order of depth.

    A mask of single weights removes no units, so its parts lose nothing here.
    """
    parts = []
    for group in units.of_kind(HEAD, NEURON):
        kind = ATTENTION if group.kind == HEAD else MLP
        members = [group, *([units[f"{KV_HEAD}.{group.layer}"]] if group.kind == HEAD else [])]
        gone = {each.name: 0 if mask is None else int((~mask.keep[each.name]).sum()) for each in members}
        parts.append(
            Part(
                group.name, group.layer, kind,
                sum(each.size * each.parameters_per_unit for each in members),
                sum(gone[each.name] * each.parameters_per_unit for each in members),
                group.size, gone[group.name], _score(scores, group.name, f"block.{group.layer}.{kind}"),
            )
        )  # fmt: skip
    return parts


def _score(scores: Scores | None, *names: str) -> float | None:
    values = () if scores is None else [scores.values[name] for name in names if name in scores.values]
    return float(values[0].double().mean()) if values else None


def anatomy(
    units: UnitTable,
    *,
    scores: Scores | None = None,
    mask: Mask | None = None,
    selected: str = "",
    origin: str = "",
    title: str = "The model, block by block",
) -> go.Figure:
    """Every block as a row, from the input at the bottom to the output at the top.

    A bar is as long as its part has parameters; hatched is what a mask removes. Colours are mean scores, as shares of
    the highest of their kind, since scores of attention, MLP and stream are often on scales of their own. The line on
    the left is the residual stream, with a mark at every place that something reads.

    Args:
        units: of the model.
        scores: what colours mean; none are all alike.
        mask: what is hatched.
        selected: a group or a unit that is framed: ``neuron.3``, ``neuron.3.17``.
        origin: what the figure is about, for its subtitle.
        title: of the figure.

    Raises:
        ValueError: the model has neither heads nor neurons.
    """
    parts = parts_of(units, scores, mask)
    if not parts:
        raise ValueError("the model has neither heads nor neurons")
    figure = make_subplots(cols=2, shared_yaxes=True, column_widths=[0.07, 0.93], horizontal_spacing=0.015)
    highest = {kind: max((part.score or 0.0 for part in parts if part.kind == kind), default=0.0) for kind in KINDS}
    _add_stream(figure, scores, max(part.layer for part in parts) + 1)
    group = ".".join(selected.split(".")[:2])
    for kind in [kind for kind in KINDS if any(part.kind == kind for part in parts)]:
        here = [part for part in parts if part.kind == kind]
        shares = [None if part.score is None else part.score / (highest[kind] or 1.0) for part in here]
        figure.add_trace(_kept(here, shares, kind, group), row=1, col=2)
        if mask is not None:
            figure.add_trace(_removed(here, kind), row=1, col=2)
    what = "no score is chosen" if scores is None else f"coloured by {scores.method.replace('_', ' ')}"
    hatched = "" if mask is None else f"; hatched: what {mask.method or 'the mask'} removes"
    said = "; ".join(word for word in (origin, what + hatched) if word)
    n = max(part.layer for part in parts) + 1
    figure = styled(
        figure, title, said, height=max(380, 150 + 24 * n), barmode="stack", bargap=0.25,
        showlegend=mask is not None or scores is None,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        coloraxis={
            "colorscale": SCALE, "cmin": 0, "cmax": 1,
            "colorbar": colour_bar("mean score, of the<br>kind's highest", tickformat=".0%", len=0.85, y=0.45),
        },
    )  # fmt: skip
    every = 1 if n <= 40 else n // 20
    figure.update_yaxes(
        tickvals=[layer + 0.5 for layer in range(0, n, every)], ticktext=[f"block {i}" for i in range(0, n, every)],
        range=[-0.2, n + 0.2], showgrid=False, zeroline=False,
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-1, 1], row=1, col=1)
    return figure.update_xaxes(title_text="parameters", gridcolor=GRID, zeroline=False, row=1, col=2)


KINDS = (ATTENTION, MLP)


def _kept(parts: list[Part], shares: list[float | None], kind: str, selected: str) -> go.Bar:
    scored = any(share is not None for share in shares)
    marker = {"color": shares, "coloraxis": "coloraxis"} if scored else {"color": colour(kind)}
    widths = [3 if part.group == selected else 1 for part in parts]
    edges = [colour(HEAD) if part.group == selected else INK for part in parts]
    return go.Bar(
        y=[part.layer + 0.5 for part in parts], x=[part.parameters - part.removed for part in parts], orientation="h",
        name=kind_name(kind), customdata=[[part.group] for part in parts], hovertext=[_told(part) for part in parts],
        hoverinfo="text", marker={**marker, "line": {"width": widths, "color": edges}},
        text=[kind_name(kind)] * len(parts), textposition="inside", insidetextanchor="middle", showlegend=not scored,
        constraintext="inside", textangle=0,
    )  # fmt: skip


def _removed(parts: list[Part], kind: str) -> go.Bar:
    return go.Bar(
        y=[part.layer + 0.5 for part in parts], x=[part.removed for part in parts], orientation="h",
        name=f"{kind_name(kind)} that goes", customdata=[[part.group] for part in parts], showlegend=kind == KINDS[-1],
        hovertext=[_told(part) for part in parts], hoverinfo="text",
        marker={"color": "rgba(0,0,0,0)", "pattern": {"shape": "/", "fgcolor": GONE}, "line": {"color": GONE}},
    )  # fmt: skip


def _told(part: Part) -> str:
    said = f"<b>{kind_name(part.kind)}, block {part.layer}</b><br>{part.units:,} units, {part.parameters:,} parameters"
    if part.score is not None:
        said += f"<br>mean score {part.score:.4g}"
    return said + (
        f"<br>{part.units_removed:,} units go: {part.sparsity:.1%} of its parameters" if part.removed else ""
    )


def _add_stream(figure: go.Figure, scores: Scores | None, n_blocks: int) -> None:
    """The residual stream as a path, with a mark wherever attention or MLP read it."""
    places = [k for k in range(2 * n_blocks + 1) if scores is None or f"resid.{k}" in scores.values] or [
        *range(2 * n_blocks + 1)
    ]
    means = [_score(scores, f"resid.{k}") for k in places]
    top = max((mean or 0.0 for mean in means), default=0.0) or 1.0
    scored = any(mean is not None for mean in means)
    figure.add_trace(
        go.Scatter(
            x=[0] * len(places), y=[k / 2 for k in places], mode="lines+markers", name=kind_name("resid"),
            line={"color": colour("resid"), "width": 3}, customdata=[[f"resid.{k}"] for k in places],
            hovertext=[
                f"<b>residual stream, place {k}</b>" + ("" if mean is None else f"<br>mean score {mean:.4g}")
                for k, mean in zip(places, means, strict=True)
            ], hoverinfo="text", showlegend=not scored,
            marker={"size": 9, "line": {"width": 1, "color": INK}, **(
                {"color": [(mean or 0.0) / top for mean in means], "coloraxis": "coloraxis"} if scored
                else {"color": colour("resid")}
            )},
        ), row=1, col=1,
    )  # fmt: skip

"""What masks remove, and what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10
from textwrap import wrap

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, NEURON
from graphprune.plots.style import GRID, INK, SEQUENTIAL, colour_bar, kind_name, styled

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
DENSE = "#777777"
WIDEST = 22  # letters of a mask's name in a line: beside narrow panels there is no room for more


def removed(
    masks: Mapping[str, Mask], *, title: str = "Where masks remove units: the share of every block"
) -> go.Figure:
    """A heat map with a row for each mask and a column for each block, one panel for heads and one for neurons.

    Args:
        masks: by label, of one model.
        title: of the figure.

    Raises:
        ValueError: there are none, or they have different units.
    """
    if not masks:
        raise ValueError("a figure needs at least one mask")
    first = next(iter(masks.values()))
    for label, mask in masks.items():
        if any(name not in mask.keep or mask.keep[name].shape != keep.shape for name, keep in _units(first).items()):
            raise ValueError(f"the mask {label!r} is of another model than {next(iter(masks))!r}")
    names = sorted(_units(first), key=_layer)  # files have head.10 before head.2
    panels = {kind: [name for name in names if name.startswith(f"{kind}.")] for kind in (HEAD, NEURON)}
    panels = {kind: groups for kind, groups in panels.items() if groups}
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, horizontal_spacing=0.02,
        subplot_titles=[kind_name(kind) for kind in panels],
    )  # fmt: skip
    for column, groups in enumerate(panels.values(), start=1):
        gone = [[int((~mask.keep[name]).sum()) for name in groups] for mask in masks.values()]
        sizes = [len(first.keep[name]) for name in groups]
        figure.add_trace(go.Heatmap(
            x=[_layer(name) for name in groups], y=[*masks], coloraxis="coloraxis", xgap=1, ygap=1,
            z=[[count / size for count, size in zip(row, sizes, strict=True)] for row in gone],
            text=[[f"{count:,} of {size:,}" for count, size in zip(row, sizes, strict=True)] for row in gone],
            customdata=[groups] * len(masks),
            hovertemplate="<b>%{y}</b><br>block %{x}: %{text}, %{z:.1%}<extra></extra>",
        ), row=1, col=column)  # fmt: skip
    figure.update_xaxes(title_text="block", showgrid=False, zeroline=False)
    names_of_masks = {"tickvals": [*masks], "ticktext": ["<br>".join(wrap(label, WIDEST)) for label in masks]}
    figure.update_yaxes(autorange="reversed", showgrid=False, **names_of_masks)
    scale = {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": colour_bar("removed", tickformat=".0%")}
    note = f"{len(masks)} mask{'s' * (len(masks) > 1)}; a cell is the share of a block's units that goes"
    return styled(figure, title, note, height=max(200 + 34 * len(masks), 260), coloraxis=scale)


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def _units(mask: Mask) -> dict[str, torch.Tensor]:
    return {name: keep for name, keep in mask.keep.items() if name.startswith((f"{HEAD}.", f"{NEURON}."))}


@dataclass(frozen=True)
class Point:
    """A pruned model that was evaluated.

    Attributes:
        label: what it is called.
        method: how it was pruned; points of one method are joined.
        sparsity: the fraction removed.
        value: of the quality.
    """

    label: str
    method: str
    sparsity: float
    value: float


def quality(
    points: Sequence[Point],
    *,
    dense: float | None = None,
    unit: str = "perplexity",
    title: str = "What pruning costs: quality over the share that was removed",
) -> go.Figure:
    """A line for each method, a point for each pruned model, and the dense model across.

    The axis is logarithmic where the highest value is more than ten times the lowest.

    Args:
        points: of models that were evaluated on the same text.
        dense: the dense model's.
        unit: of the values.
        title: of the figure.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("a figure needs at least one pruned model that was evaluated")
    figure = go.Figure()
    methods = dict.fromkeys(point.method for point in points)
    for i, method in enumerate(methods):
        here = sorted((p for p in points if p.method == method), key=lambda point: point.sparsity)
        colour = PALETTE[i % len(PALETTE)]
        figure.add_trace(go.Scatter(
            x=[point.sparsity for point in here], y=[point.value for point in here], name=method,
            text=[point.label for point in here], mode="lines+markers", marker={"color": colour, "size": 9},
            line={"color": colour, "dash": ("solid", "dot")[i // len(PALETTE) % 2]},
            hovertemplate=f"<b>%{{text}}</b><br>%{{x:.1%}} removed<br>{unit} %{{y:.5g}}<extra></extra>",
        ))  # fmt: skip
    values = [point.value for point in points] + ([] if dense is None else [dense])
    logarithmic = min(values) > 0 and max(values) > 10 * min(values)
    if dense is not None:
        figure.add_hline(y=dense, line={"color": DENSE, "dash": "dash"}, annotation={
            "text": f"dense model: {dense:.5g}", "font": {"color": INK}, "xanchor": "right",
            "y": log10(dense) if logarithmic else dense,  # words are placed in powers of ten, lines are not
        })  # fmt: skip
    note = f"{len(points)} pruned model{'s' * (len(points) > 1)} on the same text"
    figure = styled(figure, title, note, height=420, showlegend=True)
    figure.update_xaxes(title_text="share of the prunable parameters removed", tickformat=".0%", gridcolor=GRID)
    return figure.update_yaxes(title_text=unit, gridcolor=GRID, type="log" if logarithmic else "linear")

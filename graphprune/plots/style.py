"""How figures look and speak: one palette, one font, one word for each kind of unit."""

from typing import Any

import plotly.graph_objects as go

from graphprune.core.graph import ModelGraph

FONT = "Arial, Helvetica, sans-serif"
INK, GRID, EMPTY = "#222222", "#e5e5e5", "#eeeeee"

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart; figures show kinds in this order
COLOURS = {
    "resid": "#0072B2",
    "head": "#D55E00",
    "kv_head": "#E69F00",
    "neuron": "#009E73",
    "attn": "#D55E00",
    "mlp": "#009E73",
    "node": "#0072B2",
}
KIND_NAMES = {
    "resid": "residual stream",
    "head": "attention heads",
    "kv_head": "key/value heads",
    "neuron": "neurons",
    "attn": "attention",
    "mlp": "MLP",
    "node": "nodes",
}
SEQUENTIAL, DIVERGING = "Blues", "RdBu"
_BAR = {"outlinewidth": 0, "ticks": ""}
_AXIS = {
    "automargin": True, "gridcolor": "#ebf0f8", "linecolor": "#ebf0f8", "ticks": "", "zerolinecolor": "#ebf0f8",
    "zerolinewidth": 2, "title": {"standoff": 15, "font": {"size": 14}},
}  # fmt: skip
LOOK: dict[str, Any] = {
    "layout": {
        "autotypenumbers": "strict", "colorway": list(dict.fromkeys(COLOURS.values())), "coloraxis": {"colorbar": _BAR},
        "font": {"family": FONT, "size": 13, "color": INK}, "hoverlabel": {"align": "left", "font": {"family": FONT}},
        "hovermode": "closest", "margin": {"l": 10, "r": 10, "t": 90, "b": 10},
        "paper_bgcolor": "white", "plot_bgcolor": "white", "xaxis": _AXIS, "yaxis": {**_AXIS, "ticklabelstandoff": 6},
    },
    "data": {
        "bar": [{"marker": {"line": {"color": "white", "width": 0.5}}}],
        "scatter": [{"marker": {"colorbar": _BAR}}],
        "scattergl": [{"marker": {"colorbar": _BAR}}],
        "heatmap": [{"colorbar": _BAR}],
    },
}  # fmt: skip
"""A template. Plotly's own take 20 milliseconds to set, and are a part of every figure that is sent."""
SYMBOLS = {"resid": "square", "head": "diamond", "kv_head": "diamond-open"}  # circles for the others
_WEIGHTS = {
    "magnitude": "edges weigh |W|",
    "activation": "edges weigh what they carry on calibration text",
    "power": "edges weigh the power they pass on",
    "signed": "edges weigh W",
}


def kind_name(kind: str) -> str:
    return KIND_NAMES.get(kind, kind)


def colour(kind: str) -> str:
    return COLOURS.get(kind, "#56B4E9")


def origin(graph: ModelGraph) -> str:
    """Which graph a figure is about, for its subtitle."""
    if graph.order is not None:
        return f"{graph.n_nodes:,} nodes, {graph.n_edges:,} edges"
    name = graph.model.get("name")
    return ", ".join([*([str(name)] if name else []), _WEIGHTS[graph.weight]])


def styled(figure: go.Figure, title: str, subtitle: str, *, height: int, **layout: Any) -> go.Figure:
    """The figure with its title, and with a look that no global template changes."""
    figure.layout.template = LOOK
    heading = {"text": title, "subtitle": {"text": subtitle}, "x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top"}
    figure.layout.title, figure.layout.height = heading, height
    return figure.update_layout(**layout) if layout else figure


def colour_bar(title: str, **settings: Any) -> dict[str, Any]:
    heading = {"text": f"{title}<br> ", "side": "top", "font": {"size": 12}}  # the empty line keeps off the first tick
    return {"title": heading, "thickness": 14, "outlinewidth": 0, **settings}


def dark(figure: go.Figure) -> go.Figure:
    """The figure's colours turned for a dark page; its data are the same."""
    ink, grid, paper = "#e6e6e6", "#444444", "rgba(0,0,0,0)"
    for trace in figure.data:
        if trace.type == "scatter" and trace.line.color == INK:
            trace.line.color = ink
    figure.update_layout(font_color=ink, paper_bgcolor=paper, plot_bgcolor=paper, hoverlabel_font_color=None)
    figure.update_xaxes(gridcolor=grid, linecolor=grid, tickfont_color=ink, zerolinecolor=grid)
    figure.update_yaxes(gridcolor=grid, linecolor=grid, tickfont_color=ink, zerolinecolor=grid)
    return figure

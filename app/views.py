"""The pages, and everything that is drawn or written on them, by name."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import plotly.graph_objects as go

from graphprune.core.errors import GraphpruneError
from graphprune.plots.style import dark, styled

from . import compare, graph, overview, pruning, runs, selection
from .data import RunData
from .state import State
from .tables import Table

Drawn = Callable[[RunData, State], go.Figure]
Written = Callable[[RunData, State], Any]
Tabled = Callable[[RunData, State], Table]

PAGES: Mapping[str, ModuleType] = {
    "overview": overview,
    "graph": graph,
    "compare": compare,
    "prune": pruning,
    "runs": runs,
}
FIGURES: Mapping[str, Drawn] = {name: each for page in PAGES.values() for name, each in page.FIGURES.items()}
TEXTS: Mapping[str, Written] = {
    **{name: each for page in PAGES.values() for name, each in page.TEXTS.items()},
    **selection.TEXTS,
}
TABLES: Mapping[str, Tabled] = {name: each for page in PAGES.values() for name, each in page.TABLES.items()}


def drawn(name: str, data: RunData, state: State) -> go.Figure:
    """A figure in the theme of the page; where it can't be drawn, one that says why."""
    try:
        figure = FIGURES[name](data, state)
    except (GraphpruneError, ValueError) as error:
        figure = explained(str(error))
    figure.layout.width, figure.layout.autosize = None, True
    return dark(figure) if state.theme == "dark" else figure


def explained(sentence: str) -> go.Figure:
    """An empty figure with a sentence."""
    said = sentence[:1].upper() + sentence[1:]
    figure = styled(go.Figure(), "Nothing to show here yet", said, height=120)
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False)

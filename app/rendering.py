"""Figures as files, without a browser window: the same functions, the same state as the page."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from graphprune.core.errors import InputError
from graphprune.core.io import replacing
from graphprune.plots.image import image
from graphprune.plots.style import dark

from .data import RunData
from .state import State
from .views import FIGURES

TYPES = {"csv": "text/csv", "json": "application/json"}
IMAGES = ("png", "svg", "pdf")
COLUMNS = ("x", "y", "z", "text", "hovertext", "customdata")


def rendered(folder: Path, view: str, output: Path, *, width: int, height: int | None) -> Mapping[str, Any]:
    name, _, query = view.partition("?")
    kind = output.suffix.removeprefix(".")
    if name not in FIGURES:
        raise InputError(f"no figure is named {name!r}; there are {', '.join(FIGURES)}")
    if kind not in {*IMAGES, *TYPES, "html"}:
        raise InputError(f"a figure is saved as .png, .svg, .pdf, .html, .csv or .json, not as {output.name!r}")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} is not there")
    state = State.parse(query)
    data = RunData(folder.expanduser().absolute())
    data.run()
    try:
        figure = FIGURES[name](data, data.resolved(state))
    except ValueError as error:
        raise InputError(str(error)) from error
    if state.theme == "dark":
        dark(figure).update_layout(paper_bgcolor="#1a1b1e", plot_bgcolor="#1a1b1e")
    content = image(figure, kind, width, height) if kind in IMAGES else as_text(figure, kind).encode()
    with replacing(output) as temporary:
        temporary.write_bytes(content)
    return {"file": str(output.absolute()), "figure": name, "bytes": len(content)}


def as_text(figure: go.Figure, kind: str) -> str:
    """A figure as a page that needs no network, as JSON for Plotly, or its numbers as a table."""
    if kind == "html":
        page: str = figure.to_html(include_plotlyjs=True, full_html=True)
        return page
    if kind == "json":
        text: str = figure.to_json()
        return text
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("trace", *COLUMNS))
    for trace in figure.data:
        writer.writerows(_rows(trace))
    return out.getvalue()


def _rows(trace: Any) -> Iterator[tuple[Any, ...]]:
    """A row a point; of a heat map, a row a cell."""
    if trace.type == "heatmap":
        for i, row in enumerate(np.asarray(trace.z, dtype=object)):
            for j, value in enumerate(row):
                yield trace.name, _at(trace.x, j), _at(trace.y, i), value, "", "", ""
        return
    columns = [getattr(trace, column, None) for column in COLUMNS]
    for i in range(max((len(c) for c in columns if isinstance(c, list | tuple | np.ndarray)), default=0)):
        yield (trace.name, *(_at(column, i) for column in columns))


def _at(column: Any, i: int) -> Any:
    if column is None:
        return ""
    value = column if isinstance(column, str) else column[i] if i < len(column) else ""
    return json.dumps(list(map(str, value))) if isinstance(value, list | tuple | np.ndarray) else value

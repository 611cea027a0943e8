"""A figure as an image, by a browser that is driven without a window."""

import plotly.graph_objects as go

from graphprune.core.errors import GraphpruneError


def image(figure: go.Figure, kind: str, width: int, height: int | None = None) -> bytes:
    """A figure as `png` (twice as fine), `svg` or `pdf`.

    Raises:
        GraphpruneError: there is no browser, or it can't draw the figure.
    """
    try:
        content: bytes = figure.to_image(format=kind, width=width, height=height, scale=2 if kind == "png" else 1)
    except Exception as error:  # kaleido and the browser that it drives raise all sorts
        said = str(error).strip().split("\n")[0]
        raise GraphpruneError(f"the figure can't be drawn as {kind}: {said}; .html and .csv need no browser") from error
    return content

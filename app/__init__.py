"""The explorer: a web application that shows a run folder and prunes from it.

In a checkout it is the folder `app` (`python -m app RUN`); installed, it is `graphprune.explorer`, so that a wheel puts
no module of a common name beside others. Within it, imports are relative. Nothing heavy is imported before it is used.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.core.errors import InputError

if TYPE_CHECKING:
    from dash import Dash

PORT = 8050


def create_app(
    run: Path,
    *,
    token: str | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    calibration: Path | None = None,
    text: Path | None = None,
) -> "Dash":
    """The application for one run folder; nothing is served yet.

    Args:
        run: the run folder. One that is missing, damaged or half-finished is explained on the page.
        token: what a browser must know; None makes one that every browser on this machine is given.
        host: the address that is served.
        port: likewise.
        calibration: the text that pruning for real calibrates on; if not given, the one that a search in this run went
            by, else that of the shipped model.
        text: the text that it evaluates on; likewise.

    Raises:
        InputError: Dash isn't installed.
    """
    _check_installed()
    from .server import build

    return build(run, token=token, host=host, port=port, **_texts(calibration, text))


def serve(
    run: Path,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    calibration: Path | None = None,
    text: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Serves the application until it is interrupted.

    Args:
        run: the run folder.
        host: the address to serve on.
        port: likewise.
        token: what a browser must know; needed beyond this machine.
        calibration: the text that pruning for real calibrates on; if not given, the one that a search in this run went
            by, else that of the shipped model.
        text: the text that it evaluates on; likewise.
        announce: is told the address to open.

    Raises:
        InputError: Dash isn't installed, the address can't be used, or one beyond this machine is asked for without a
            token.
    """
    _check_installed()
    from .server import run_server

    run_server(run, host=host, port=port, token=token, announce=announce, **_texts(calibration, text))


def render(run: Path, view: str, output: Path, *, width: int = 1200, height: int | None = None) -> Mapping[str, Any]:
    """One figure of the application as a file, without a browser window.

    Args:
        run: the run folder.
        view: a figure and its state, as in the link of the page: ``anatomy?score=wanda&mask=wanda-0.2``.
        output: a `.png`, `.svg`, `.pdf`, `.html`, `.csv` or `.json` file.
        width: in pixels.
        height: likewise; the figure's own if not given.

    Raises:
        InputError: Dash isn't installed, there is no such figure, or the file's type is unknown.
    """
    _check_installed()
    from .rendering import rendered

    return rendered(run, view, output, width=width, height=height)


def _texts(calibration: Path | None, text: Path | None) -> dict[str, Path]:
    """Those that are given, from wherever the commands that read them are run."""
    given = {"calibration": calibration, "text": text}
    return {name: path.expanduser().absolute() for name, path in given.items() if path is not None}


def _check_installed() -> None:
    try:
        import dash
        import dash_ag_grid
        import dash_mantine_components
        import diskcache
    except ImportError as error:
        raise InputError("the explorer needs Dash; `pip install 'graphprune[app]'` brings it") from error
    del dash, dash_ag_grid, dash_mantine_components, diskcache

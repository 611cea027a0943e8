"""The application and the server: everything is made here, nothing at import."""

import json
import logging
import secrets
import shlex
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Condition
from typing import Any

from dash import Dash
from flask import Response, abort, request
from waitress.server import create_server

from graphprune.core.errors import GraphpruneError, InputError

from . import callbacks, shell
from .data import RunData
from .pruning import commands, label, planned_mask, recipe
from .rendering import TYPES, as_text
from .security import LOCAL, Guard
from .state import State
from .views import FIGURES, TABLES

THREADS = 2  # that answer: the interpreter runs one at a time, and more of them only take turns


def build(folder: Path, *, token: str | None, host: str, port: int, **texts: Path) -> Dash:
    """The application for a run folder, guarded."""
    data = RunData(folder.expanduser().absolute(), **texts)
    app = Dash(
        "graphprune", title=f"graphprune: {data.folder.name}", update_title="", serve_locally=True,
        assets_folder=str(Path(__file__).parent / "assets"), suppress_callback_exceptions=True,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )  # fmt: skip
    app.layout = lambda: shell.frame(data)
    callbacks.register(app, data)
    Guard(token or secrets.token_urlsafe(16), host, port, is_open=token is None).protect(app.server)
    app.server.add_url_rule("/download/<name>.<kind>", "download", lambda name, kind: _download(data, name, kind))
    app.server.add_url_rule("/table/<name>.csv", "table", lambda name: _table(data, name))
    app.server.add_url_rule("/recipe.json", "recipe", lambda: _recipe(data))
    app.server.add_url_rule("/prune.sh", "commands", lambda: _commands(data))
    app.server.add_url_rule("/mask.safetensors", "mask", lambda: _mask(data))
    return app


def _asked(data: RunData) -> State:
    """The state that the address describes."""
    return data.resolved(State.parse(request.query_string.decode()))


def _file(content: bytes | str, name: str, mimetype: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, mimetype=mimetype, headers=headers)


def _mask(data: RunData) -> Response:
    """The mask that the address describes."""
    try:
        state = _asked(data)
        content = data.file_of(planned_mask(data, state))
    except GraphpruneError as error:
        abort(400, str(error))
    return _file(content, f"{label(state)}.safetensors", "application/octet-stream")


def _recipe(data: RunData) -> Response:
    """What that mask depends on."""
    try:
        state = _asked(data)
        content = json.dumps(recipe(data, state), indent=2)
    except GraphpruneError as error:
        abort(400, str(error))
    return _file(content + "\n", f"{label(state)}.json", TYPES["json"])


def _commands(data: RunData) -> Response:
    """The commands that make and measure it, for a shell."""
    try:
        state = _asked(data)
        lines = [f"graphprune {shlex.join(words)}" for words in commands(data, state).values()]
    except GraphpruneError as error:
        abort(400, str(error))
    return _file("\n".join(["set -e", *lines, ""]), f"{label(state)}.sh", "text/x-shellscript")


def _download(data: RunData, name: str, kind: str) -> Response:
    """The numbers of a figure, as the address describes it."""
    if name not in FIGURES or kind not in {"csv", "json"}:
        abort(404)
    try:
        state = _asked(data)
        text = as_text(FIGURES[name](data, state), kind)
    except (GraphpruneError, ValueError) as error:
        abort(400, str(error))
    return _file(text, f"{name}.{kind}", TYPES[kind])


def _table(data: RunData, name: str) -> Response:
    """A whole table, sorted and filtered as in the page."""
    if name not in TABLES:
        abort(404)
    try:
        state = _asked(data)
        text = TABLES[name](data, state).csv(json.loads(request.args.get("request", "{}")))
    except (GraphpruneError, ValueError, TypeError, KeyError, AttributeError) as error:
        abort(400, str(error))
    return _file(text, f"{name}.csv", TYPES["csv"])


def run_server(
    folder: Path, *, host: str, port: int, token: str | None, announce: Callable[[str], None], **texts: Path
) -> None:
    """Serves until interrupted.

    Raises:
        InputError: the address is taken, or one beyond this machine is asked for without a token.
    """
    if host not in LOCAL and not token:
        raise InputError(f"on {host} others can reach the explorer; choose a token that they need: --token SECRET")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port} can't be served on ({error.strerror}); try another --port") from error
    app = build(folder, token=token, host=host, port=port, **texts)
    for name in ("pandas", "sklearn"):  # Plotly looks into the first if anybody imports it, and mustn't find half of it
        with suppress(ImportError):
            import_module(name)
    logging.getLogger("waitress").setLevel(logging.ERROR)  # that requests wait, or are given up at the end, is no news
    underway = Underway(app.server)
    server = create_server(underway, host=host, port=port, threads=THREADS, connection_limit=1000, ident=None)
    announce(f"http://{host}:{port}/{f'?token={token}' if token else ''}")
    try:
        server.run()
    finally:
        underway.wait()


class Underway:
    """An application that knows how many requests it is at: Python must not end while a thread is inside of torch."""

    def __init__(self, answer: Callable[..., Iterable[bytes]]) -> None:
        self.answer, self.requests, self.changed = answer, 0, Condition()

    def __call__(self, *asked: Any) -> Iterable[bytes]:
        with self.changed:
            self.requests += 1
        try:
            return self.answer(*asked)
        finally:
            with self.changed:
                self.requests -= 1
                self.changed.notify_all()

    def wait(self, seconds: float = 30.0) -> None:
        """Until every request is answered, but not for ever."""
        with self.changed:
            self.changed.wait_for(lambda: self.requests == 0, seconds)

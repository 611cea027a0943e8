"""What happens in the page. The address is the only state: controls write it, everything else is drawn from it."""

from collections.abc import Callable
from functools import partial
from tempfile import mkdtemp
from time import time_ns
from typing import Any

from dash import ALL, MATCH, ClientsideFunction, Dash, DiskcacheManager, Input, Output, State, ctx, no_update
from diskcache import Cache

from graphprune.core.errors import GraphpruneError

from . import shell
from .data import RunData
from .jobs import run_command
from .parts import filled_grid, note
from .pruning import DENSE, changed_by_hand, commands, edited_there, label
from .state import State as Shown
from .views import TABLES, TEXTS, drawn

Many = list[Any]
ADDRESS = Input("url", "search")
CHOSEN = Output("chosen", "data", allow_duplicate=True)  # fields that the browser writes into the address


def _of(part: str, name: Any = MATCH) -> dict[str, Any]:
    return {"part": part, "name": name}


def _chosen(**fields: str) -> dict[str, Any]:
    """Fields for the address, as news even if the same were chosen before and have been changed since."""
    return {**fields, "when": time_ns()}


def register(app: Dash, data: RunData) -> None:
    """Adds the callbacks to an application."""

    def show(search: str, shown: str | None) -> tuple[Any, Any, Any, bool]:
        try:
            state = Shown.parse(search)
        except GraphpruneError as error:
            return [note(str(error), title="This link can't be shown", colour="red")], None, "light", True
        if shown == state.view:
            return no_update, no_update, state.theme, state.view != "prune"
        try:
            return shell.page(data, data.resolved(state)), state.view, state.theme, state.view != "prune"
        except GraphpruneError as error:
            return [note(str(error), title="This run can't be shown", colour="red")], None, state.theme, True

    def draw(search: str, which: dict[str, str]) -> tuple[Any, Any, Any]:
        figure = drawn(which["name"], data, data.resolved(Shown.parse(search)))
        heading = figure.layout.title
        title, subtitle = heading.text, heading.subtitle.text
        heading.text, heading.subtitle.text, figure.layout.margin.t = None, None, 30
        return figure, title, subtitle

    def write(search: str, which: dict[str, str]) -> Any:
        try:
            return TEXTS[which["name"]](data, data.resolved(Shown.parse(search)))
        except GraphpruneError as error:
            return note(str(error), colour="yellow")

    def click(_: Many) -> Any:
        point: dict[str, Any] = next((each["value"]["points"][0] for each in ctx.triggered if each["value"]), {})
        unit = point.get("customdata") or point.get("text")
        name = unit[0] if isinstance(unit, list) and unit else unit
        return _chosen(unit=name) if isinstance(name, str) else no_update

    app.clientside_callback(
        ClientsideFunction("graphprune", "bind"), Output("url", "search"), Output({"control": ALL}, "value"), ADDRESS,
        Input({"control": ALL}, "value"), State({"control": ALL}, "id"), State("known", "data"),
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("graphprune", "choose"), Output("url", "search", allow_duplicate=True),
        Input("chosen", "data"), State("url", "search"), State("known", "data"), prevent_initial_call=True,
    )  # fmt: skip
    app.callback(
        Output("page", "children"), Output("shown", "data"), Output("theme", "forceColorScheme"),
        Output("job", "hidden"), ADDRESS,
        State("shown", "data"),
    )(show)  # fmt: skip
    app.callback(
        Output(_of("figure"), "figure"), Output(_of("title"), "children"), Output(_of("subtitle"), "children"), ADDRESS,
        State(_of("figure"), "id"),
    )(draw)  # fmt: skip
    app.callback(Output(_of("text"), "children"), ADDRESS, State(_of("text"), "id"))(write)
    app.callback(CHOSEN, Input(_of("figure", ALL), "clickData"), prevent_initial_call=True)(click)
    _register_tables(app, data)
    _register_edits(app, data)
    _register_job(app, data)
    app.clientside_callback(
        ClientsideFunction("graphprune", "copy"), Output("copy", "children"), Input("copy", "n_clicks"),
        prevent_initial_call=True,
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("graphprune", "download"), Output({"part": ALL, "download": MATCH}, "disabled"),
        Input({"part": ALL, "download": MATCH}, "n_clicks"), State({"part": ALL, "download": MATCH}, "id"),
        prevent_initial_call=True,
    )  # fmt: skip


def _register_tables(app: Dash, data: RunData) -> None:
    """Tables are drawn anew when their values change, and filled a page at a time."""

    def fill(search: str, key: str, which: dict[str, str]) -> tuple[Any, Any]:
        try:
            state = data.resolved(Shown.parse(search))
            table = TABLES[which["name"]](data, state)
        except (GraphpruneError, ValueError) as error:
            return note(str(error), colour="yellow"), ""
        now = f"{table.key} {state.theme}"
        return (no_update, no_update) if now == key else (filled_grid(which["name"], table, state.theme), now)

    def turn(request: dict[str, Any] | None, search: str, which: dict[str, str]) -> Any:
        if request is None:
            return no_update
        return TABLES[which["name"]](data, data.resolved(Shown.parse(search))).page(request)

    def pick(_: Many, search: str) -> Any:
        rows: Many = next((each["value"] for each in ctx.triggered if each["value"]), [])
        if not rows or not isinstance(ctx.triggered_id, dict):
            return no_update
        state = data.resolved(Shown.parse(search))
        names = TABLES[ctx.triggered_id["name"]](data, state).names
        return _chosen(**{names: rows[0][names]})

    app.callback(
        Output(_of("table"), "children"), Output(_of("table"), "data-key"), ADDRESS, State(_of("table"), "data-key"),
        State(_of("table"), "id"),
    )(fill)  # fmt: skip
    app.callback(
        Output(_of("grid"), "getRowsResponse"), Input(_of("grid"), "getRowsRequest"), State("url", "search"),
        State(_of("grid"), "id"),
    )(turn)  # fmt: skip
    app.callback(
        CHOSEN, Input(_of("grid", ALL), "selectedRows"), State("url", "search"),
        prevent_initial_call=True,
    )(pick)  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("graphprune", "table"), Output(_of("save"), "disabled"), Input(_of("save"), "n_clicks"),
        State(_of("save"), "id"), State(_of("grid", ALL), "id"), State(_of("grid", ALL), "getRowsRequest"),
        prevent_initial_call=True,
    )  # fmt: skip


def _register_edits(app: Dash, data: RunData) -> None:
    """Units that are drawn around, or lie below a threshold, are removed or kept; the mask goes into the run."""

    def change(clicks: Many, drawn: dict[str, Any] | None, cut_at: Any, search: str) -> tuple[Any, Any, Any]:
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update, no_update, no_update
        try:
            state = data.resolved(Shown.parse(search))
            changed = changed_by_hand(data, state, ctx.triggered_id["edit"], drawn, cut_at)
        except GraphpruneError as error:
            return no_update, note(str(error), colour="yellow"), no_update
        kept = _chosen(edited=changed.edited, edit="")
        return kept, note(f"Kept in the run as {changed.edited}."), edited_there(data)

    app.clientside_callback(
        ClientsideFunction("graphprune", "drawn"), Output("drawn", "data"),
        Input({"part": "figure", "name": "divided"}, "selectedData"), prevent_initial_call=True,
    )  # fmt: skip
    app.callback(
        CHOSEN, Output("edit-said", "children"),
        Output({"control": "edited"}, "data"),
        Input({"edit": ALL}, "n_clicks"), State("drawn", "data"), State("cut", "value"), State("url", "search"),
        prevent_initial_call=True,
    )(change)  # fmt: skip


def _register_job(app: Dash, data: RunData) -> None:
    """Pruning in the background; the mask that it made is chosen when it is done."""

    def prune(progress: Callable[[tuple[float, str]], None], _: int, search: str) -> tuple[Any, str]:
        state = data.resolved(Shown.parse(search))
        if state.edit:
            return no_update, "Keep the changes by name as a mask first: then they are pruned."
        todo = commands(data, state)
        names = [name for name in todo if name != DENSE or DENSE not in data.evaluations_there()]
        try:
            for i, name in enumerate(names):
                run_command(todo[name], partial(_tell, progress, i, len(names)))
        except GraphpruneError as error:
            return no_update, f"Failed: {error}"
        progress((100.0, ""))
        return _chosen(mask=label(state)), f"Done: {label(state)}"

    app.callback(
        CHOSEN, Output("stage", "children"), Input("prune", "n_clicks"),
        State("url", "search"), background=True, manager=DiskcacheManager(Cache(mkdtemp(prefix="graphprune-"))),
        running=[(Output("prune", "disabled"), True, False), (Output("cancel", "disabled"), False, True)],
        progress=[Output("progress", "value"), Output("stage", "children", allow_duplicate=True)],
        cancel=[Input("cancel", "n_clicks")], prevent_initial_call=True,
    )(prune)  # fmt: skip


def _tell(progress: Callable[[tuple[float, str]], None], i: int, n: int, part: float, said: str) -> None:
    progress((100 * (i + part) / n, said))

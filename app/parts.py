"""The pieces that pages are made of: controls that are bound to the address, panels that are drawn from it."""

from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from .tables import PAGE, Table

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["toImage", "autoScale2d", "sendChartToCloud"],
}
WAITING = {"layout": {"height": 120, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
                      "xaxis": {"visible": False}, "yaxis": {"visible": False}}}  # fmt: skip
FORMATS = ("png", "svg", "csv", "json")
Choices = Sequence[str] | Sequence[tuple[str, str]]


def select(field: str, label: str, choices: Choices, value: str, *, help_: str = "", clearable: bool = False) -> Any:
    """A list to choose one from, bound to a field of the state."""
    data = [{"value": c, "label": c} if isinstance(c, str) else {"value": c[0], "label": c[1]} for c in choices]
    width = min(max(170, 60 + 7 * max((len(each["label"]) for each in data), default=0)), 330)
    return dmc.Select(
        id={"control": field}, label=label, data=data, value=value or None, description=help_ or None,
        clearable=clearable, allowDeselect=clearable, searchable=len(data) > 8, miw=width,
        comboboxProps={"zIndex": 400}, placeholder="none" if clearable else None,
    )  # fmt: skip


def segments(field: str, label: str, choices: Sequence[tuple[str, str]], value: str) -> Any:
    """A few choices side by side, bound to a field of the state."""
    data = [{"value": name, "label": said} for name, said in choices]
    return dmc.InputWrapper(dmc.SegmentedControl(id={"control": field}, data=data, value=value, size="sm"), label=label)


def slider(field: str, label: str, value: float, *, low: float, high: float, step: float, percent: bool = True) -> Any:
    """A slider, bound to a field of the state; it says so while it is moved, arrow keys move it by a step."""
    ticks = [low + (high - low) * i / 4 for i in range(5)]
    marks = [{"value": at, "label": f"{at:.0%}" if percent else f"{at:g}"} for at in ticks]
    shown = {"function": "percent"} if percent else None
    return dmc.InputWrapper(
        dmc.Slider(
            id={"control": field}, min=low, max=high, step=step, value=value, marks=marks, label=shown,
            thumbLabel=label, updatemode="mouseup", precision=4,
        ), label=label, miw=280, mb="lg", style={"flexGrow": 1},
    )  # fmt: skip


def text_input(
    field: str, label: str, value: str, *, placeholder: str, help_: str = "", width: int = 190
) -> Any:  # fmt: skip
    return dmc.TextInput(
        id={"control": field}, label=label, value=value, placeholder=placeholder, description=help_ or None,
        debounce=400, miw=width, spellCheck=False,
    )  # fmt: skip


def panel(name: str) -> Any:
    """A figure with its title, what it says, and what can be downloaded of it."""
    return dmc.Paper(
        html.Section(
            [
                dmc.Group(
                    [
                        dmc.Title(id={"part": "title", "name": name}, order=2, size="h4"),
                        dmc.Group([_download(name, kind) for kind in FORMATS], gap=4),
                    ], justify="space-between", align="start",
                ),
                dmc.Text(id={"part": "subtitle", "name": name}, size="sm", className="quiet"),
                dcc.Graph(
                    id={"part": "figure", "name": name}, figure=WAITING, config=CONFIG, style={"minHeight": "120px"}
                ),
            ],
            **{"aria-label": name.replace("_", " ")},
        ), withBorder=True, p="md", radius="md", className="panel",
    )  # fmt: skip


def _download(name: str, kind: str) -> Any:
    return dmc.Button(
        kind.upper(), id={"part": kind, "download": name}, size="compact-xs", variant="subtle",
        **{"aria-label": f"download {name.replace('_', ' ')} as {kind.upper()}"},
    )  # fmt: skip


def words(name: str) -> Any:
    """A place for text that is written from the state."""
    return html.Div(id={"part": "text", "name": name}, **{"aria-live": "polite"})


def grid(name: str) -> Any:
    """A table that pages on the server, and a button that saves all of it as it is sorted and filtered."""
    return html.Div(
        [
            html.Div(id={"part": "table", "name": name}, **{"data-key": ""}),
            dmc.Button(
                "CSV", id={"part": "save", "name": name}, size="compact-sm", variant="light", mt="xs",
                **{"aria-label": f"download {name.replace('_', ' ')} as CSV"},
            ),
        ]
    )  # fmt: skip


def filled_grid(name: str, table: Table, theme: str) -> list[Any]:
    """A table in the page."""
    columns = [
        {
            "field": column.field, "headerName": column.heading, "width": column.width,
            "filter": "agNumberColumnFilter" if column.is_number else "agTextColumnFilter",
            **({"pinned": "left"} if column is table.columns[0] else {}),
        }
        for column in table.columns
    ]  # fmt: skip
    options = {
        "pagination": True, "paginationPageSize": 20, "paginationPageSizeSelector": [20, 50, PAGE],
        "cacheBlockSize": PAGE, "maxConcurrentDatasourceRequests": 1, "maxBlocksInCache": 10,
        "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": bool(table.names)},
    }  # fmt: skip
    return [
        dmc.Text(table.says, size="sm", className="quiet", mb="xs"),
        html.Div(
            dag.AgGrid(
                id={"part": "grid", "name": name}, columnDefs=columns, columnSize=None, rowModelType="infinite",
                defaultColDef={"sortable": True, "resizable": True}, dashGridOptions=options,
                style={"height": min(420, 150 + 42 * len(table))},
            ), **{"data-ag-theme-mode": theme},
        ),
    ]  # fmt: skip


def box(title: str, *children: Any) -> Any:
    return dmc.Paper(
        [dmc.Title(title, order=2, size="h4", mb="xs"), *children], withBorder=True, p="md", radius="md",
        className="panel",
    )  # fmt: skip


def controls(*children: Any) -> Any:
    return dmc.Paper(dmc.Group([*children], align="end", gap="md"), withBorder=True, p="md", radius="md")


def number(label: str, value: str, help_: str = "") -> Any:
    """A key number, and what it means."""
    return dmc.Paper(
        [
            dmc.Text(label, size="xs", className="quiet"),
            dmc.Text(value, fw=700, size="lg"),
            *([dmc.Text(help_, size="xs", className="quiet")] if help_ else []),
        ], withBorder=True, p="sm", radius="md",
    )  # fmt: skip


def numbers(*cards: Any) -> Any:
    return dmc.SimpleGrid([*cards], cols={"base": 2, "sm": 3, "lg": 6}, spacing="sm")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> Any:
    """A short table; long ones page on the server."""
    return dmc.TableScrollContainer(
        dmc.Table(
            [
                dmc.TableCaption(label),
                dmc.TableThead(dmc.TableTr([dmc.TableTh(cell) for cell in head])),
                dmc.TableTbody([dmc.TableTr([dmc.TableTd(cell) for cell in row]) for row in rows]),
            ], striped=True, highlightOnHover=True,
        ), minWidth=300,
    )  # fmt: skip


def note(text: str, *, title: str = "", colour: str = "blue") -> Any:
    return html.Div(dmc.Alert(text, title=title or None, color=colour, variant="light"), role="status")

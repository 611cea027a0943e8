"""The frame around every page: name of the run, pages, what is selected, theme, copy link."""

from dataclasses import asdict
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from .data import RunData
from .parts import note, segments, text_input, words
from .pruning import job
from .state import State
from .views import PAGES


def frame(data: RunData) -> Any:
    """What is there before anything is known of the address."""
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="shown"),
            dcc.Store(id="drawn"),
            dcc.Store(id="chosen"),
            dcc.Store(id="known", data=known(data)),
            dmc.NotificationContainer(id="notes"),
            html.A("Skip to the page", href="#page", className="skip"),
            dmc.Container(
                [
                    html.Header(_header(data)),
                    html.Nav(_pages(), **{"aria-label": "pages"}),
                    html.Div(job(), id="job", hidden=True, className="above"),
                    html.Main(id="page", tabIndex="-1"),
                ], size=1500, p="md",
            ),
        ], id="theme", forceColorScheme="light", theme={"primaryColor": "blue"},
    )  # fmt: skip


def known(data: RunData) -> dict[str, Any]:
    """What the browser needs to write an address: every field's default, and the run's scores."""
    return {"fields": asdict(State()), "scores": list(data.scores_there())}


def _header(data: RunData) -> Any:
    return dmc.Group(
        [
            dmc.Group(
                [dmc.Title("graphprune", order=1, size="h3"), dmc.Text(data.folder.name, className="quiet")],
                align="end",
            ),
            dmc.Group(
                [
                    text_input("unit", "Selected unit", "", placeholder="neuron.3.17"),
                    segments("theme", "Theme", (("light", "Light"), ("dark", "Dark")), "light"),
                    dmc.Button("Copy link", id="copy", variant="light"),
                ], align="end",
            ),
        ], justify="space-between", mb="sm",
    )  # fmt: skip


def _pages() -> Any:
    tabs = [dmc.TabsTab(page.TITLE, value=name) for name, page in PAGES.items()]
    return dmc.Tabs(dmc.TabsList(tabs), id={"control": "view"}, value=None, mb="md")


def page(data: RunData, state: State) -> list[Any]:
    """A page, or why there is none."""
    if (problem := data.problem()) is not None:
        return [note(problem, title="This run can't be shown", colour="red")]
    return [
        dmc.Stack(
            [
                *PAGES[state.view].layout(data, state),
                dmc.Paper(
                    [dmc.Title("Selected", order=2, size="h4", mb="xs"), words("selected")], withBorder=True, p="md",
                    radius="md", className="panel",
                ),
            ], gap="md",
        )
    ]  # fmt: skip

"""Every figure and text, without a browser."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from graphprune.comparison.consequence import Consequence, Consequences, Series
from graphprune.comparison.percolation import Percolation
from graphprune.core.errors import InputError
from graphprune.explorer import render
from graphprune.explorer.data import RunData
from graphprune.explorer.pruning import planned_mask
from graphprune.explorer.rendering import as_text
from graphprune.explorer.state import State
from graphprune.explorer.views import FIGURES, PAGES, TABLES, TEXTS, drawn
from tests.cli.runner import Cli

MOST = 1_000_000  # bytes of an answer
MISSING = {  # figures of what this run hasn't got yet, and the command that makes it
    **dict.fromkeys(("learned", "foretold"), "graphprune search"),
    **dict.fromkeys(("robustness", "percolation", "predictive"), "graphprune compare"),
}
SHOWN = State(
    score="wanda", against="magnitude", mask="wanda-0.2", beside="wanda-0.2", unit="neuron.3.17", find="neuron block:2"
)


@pytest.fixture
def data(run_folder: Path) -> RunData:
    return RunData(run_folder)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_something_and_fits_into_an_answer(name: str, data: RunData) -> None:
    if name in MISSING:
        assert MISSING[name] in drawn(name, data, SHOWN).layout.title.subtitle.text
        return
    for state in (SHOWN, State(unit="head.2", theme="dark", kind="neuron", mask="wanda-0.2", beside="wanda-0.2")):
        figure = drawn(name, data, data.resolved(state))
        assert figure.layout.title.text != "Nothing to show here yet", figure.layout.title.subtitle.text
        assert len(figure.data) > 0
        assert len(figure.to_json()) < MOST


def test_what_was_compared_last_is_drawn_over_sparsity(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    for name, worst in (("older", 3.0), ("newer", 7.0)):
        rows = [
            Consequence(
                Series(scorer), sparsity, {"path_mass": 1 - sparsity}, {"kl": worst * sparsity, "perplexity": 9.0}
            )
            for scorer in ("wanda", "magnitude")
            for sparsity in (0.2, 0.4)
        ]
        path = folder / "comparisons" / f"{name}.json"
        Consequences(tuple(rows), {"kl": 0.0, "perplexity": 8.0}).save(path)
        os.utime(path, (worst, worst))
    data = RunData(folder)
    lines = {trace.name: list(trace.y) for trace in drawn("robustness", data, SHOWN).data}
    assert lines == {name: pytest.approx([0.0, 1.4, 2.8]) for name in lines}
    assert len(lines) == 2
    (first, *_) = drawn("percolation", data, SHOWN).data
    assert list(first.y) == pytest.approx([0.8, 0.6])


def test_what_a_mask_leaves_of_the_graph_is_what_percolation_says(data: RunData) -> None:
    said = json.dumps(TEXTS["remains"](data, data.resolved(SHOWN)), default=_plain)
    left = Percolation.of(data.graph()).after(planned_mask(data, data.resolved(SHOWN)))
    assert 0 < left.path_mass < 1
    assert f"{left.path_mass:.2%}" in said
    assert f"{left.credit:.2%}" in said


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_is_written(name: str, data: RunData) -> None:
    assert TEXTS[name](data, data.resolved(SHOWN)) is not None


@pytest.mark.parametrize("name", TABLES)
def test_a_page_of_every_table_fits_into_an_answer(name: str, data: RunData) -> None:
    table = TABLES[name](data, data.resolved(SHOWN))
    page = table.page({"startRow": 0, "endRow": 10_000})
    assert page["rowCount"] == len(table) > 0
    assert len(json.dumps(page)) < MOST
    assert table.names in {"", *page["rowData"][0]}


@pytest.mark.parametrize("page", PAGES)
def test_every_control_of_a_page_is_a_field_of_the_state(page: str, data: RunData) -> None:
    text = json.dumps(
        [each.to_plotly_json() for each in PAGES[page].layout(data, data.resolved(SHOWN))], default=_plain
    )
    for part in text.split('"control": "')[1:]:
        assert hasattr(SHOWN, part.split('"')[0])


def _plain(component: object) -> object:
    return component.to_plotly_json()  # type: ignore[attr-defined]


def test_lines_that_are_drawn_in_ink_are_light_on_a_dark_page(data: RunData) -> None:
    chance = [
        next(trace for trace in drawn("overlap", data, State(theme=theme, score="wanda", against="magnitude")).data
             if trace.name == "by chance").line.color
        for theme in ("light", "dark")
    ]  # fmt: skip
    assert int(chance[0][1:3], 16) < 128 < int(chance[1][1:3], 16)


def test_a_unit_that_there_is_not_is_named(data: RunData) -> None:
    figure = drawn("neighbours", data, State(unit="neuron.3.9999"))
    assert "there is no 9999" in figure.layout.title.subtitle.text


def test_the_table_of_a_figure_has_its_numbers(data: RunData) -> None:
    rows = list(csv.DictReader(io.StringIO(as_text(drawn("anatomy", data, SHOWN), "csv"))))
    lengths = [float(row["x"]) for row in rows if row["trace"] == "MLP"]
    gone = [float(row["x"]) for row in rows if row["trace"] == "MLP that goes"]
    assert sum(lengths) + sum(gone) == data.units().prunable_parameters("neuron")


def test_a_mask_changed_by_hand_keeps_and_removes_what_it_says(data: RunData) -> None:
    mask = data.mask("wanda-0.2")
    gone = int((~mask.keep["neuron.0"]).nonzero()[0])
    edited = data.edited(mask, f"+neuron.0.{gone}, -neuron.1.5")
    assert bool(edited.keep["neuron.0"][gone])
    assert not bool(edited.keep["neuron.1"][5])
    assert bool(mask.keep["neuron.1"][5]) or mask is not edited
    for wrong in ("neuron.1.5", "-neuron.1.9999", "-resid.0.1", "-neuron.1"):
        with pytest.raises(InputError, match="no change of a mask"):
            data.edited(mask, wrong)


@pytest.mark.parametrize("kind", ["html", "csv", "json"])
def test_a_figure_is_rendered_without_a_browser(kind: str, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"figure.{kind}"
    said = render(run_folder, "anatomy?score=wanda&mask=wanda-0.2", file)
    assert said["bytes"] == file.stat().st_size
    assert "MLP" in file.read_text()


def test_the_command_line_says_what_it_cannot_render(cli: Cli, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "figure.csv"
    cli("render", run_folder, "--view", "nothing", "-o", file).refused("no figure is named", "anatomy")
    cli("render", run_folder, "--view", "anatomy", "-o", tmp_path / "figure.exe").refused(".svg")
    cli("render", run_folder, "--view", "anatomy?score=x", "-o", file).refused("no scores named 'x'")
    cli("render", run_folder, "--view", "anatomy", "-o", file, "--width", "1").refused("--width")
    cli("explore", run_folder, "--port", "0").refused("port")
    cli("explore", run_folder, "--text", tmp_path / "nothing.txt").refused("nothing.txt is not there")
    cli("explore", run_folder, "--host", "0.0.0.0").refused("--token")  # noqa: S104 - that it is refused is the point
    assert cli("render", run_folder, "--view", "anatomy", "-o", file, "--json").json["figure"] == "anatomy"

"""Every notebook runs from top to bottom in an empty folder, on the shipped model; what is committed is of SmolLM2."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from graphprune import plots
from tests.benchmarks.notebooks import METADATA, NOTEBOOKS, executed

MAX_BYTES = 2_000_000
FIGURE, TEXT = "application/vnd.plotly.v1+json", "text/markdown"
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)*")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows(cell: Any, kind: str) -> list[Any]:
    """What a cell has put out of a kind."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def draws(cell: Any) -> bool:
    """Whether the last line of a cell is a figure of `graphprune.plots`."""
    body = ast.parse(cell.source).body
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    return isinstance(last, ast.Call) and ast.unparse(last.func) in {f"plots.{name}" for name in plots.__all__}


@cache
def run_on_tiny(path: Path) -> Any:
    """A notebook after a run on the shipped model; each runs once."""
    return executed(path, "tiny")


def test_there_are_notebooks_numbered_from_one() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(1, len(NOTEBOOKS) + 1)]
    assert NOTEBOOKS


@every_notebook
def test_every_cell_that_draws_shows_a_figure_and_nothing_warns(path: Path) -> None:
    drawing = [cell for cell in code(run_on_tiny(path)) if draws(cell)]
    assert len(drawing) >= 3
    for cell in code(run_on_tiny(path)):
        figures = shows(cell, FIGURE)
        assert len(figures) == draws(cell), cell.source
        assert all(figure["data"] and figure["layout"]["title"]["text"] for figure in figures)
        assert not [output.text for output in cell.outputs if output.output_type == "stream"], cell.source


@every_notebook
def test_the_committed_notebook_shows_the_same_figures_and_says_the_same_of_another_model(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    assert sum('MODEL = "smollm2-135m"' in cell.source for cell in code(committed)) == 1
    for old, new in zip(code(committed), code(run_on_tiny(path)), strict=True):
        assert len(shows(old, FIGURE)) == draws(old), old.source
        assert [NUMBER.sub("#", title) for title in titles(old)] == [NUMBER.sub("#", title) for title in titles(new)]
        assert len(shows(old, TEXT)) == len(shows(new, TEXT))
        assert all(text.strip() for text in shows(old, TEXT))
    assert [shows(cell, TEXT) for cell in code(committed)] != [shows(cell, TEXT) for cell in code(run_on_tiny(path))]


def titles(cell: Any) -> list[str]:
    """Of its figures."""
    return [figure["layout"]["title"]["text"] for figure in shows(cell, FIGURE)]


@every_notebook
def test_the_committed_notebook_is_clean(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(content.encode()) < MAX_BYTES
    assert notebook.metadata == METADATA
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    assert not re.search(r"(?i)warning:|traceback|/home/|/root/|/work/|/tmp/|site-packages|[A-Z]:\\\\", content)
    assert all("execution" not in cell.metadata for cell in notebook.cells)  # the times when cells ran


@every_notebook
def test_notebooks_are_thin(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert len(node.body) <= 3, node.name
            assert not isinstance(node, ast.ClassDef)
    before = None
    for cell in notebook.cells:
        if cell.cell_type == "code" and draws(cell):  # a text, or another figure on the same question, comes first
            assert before is not None
            assert before.cell_type == "markdown" or draws(before)
        before = cell

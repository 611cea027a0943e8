"""Every notebook runs from top to bottom in an empty folder, and what is committed is what it says."""

import ast
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from graphprune import plots

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_500_000
FIGURE, TEXT = "application/vnd.plotly.v1+json", "text/markdown"
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)*")
KERNEL = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python of the tests",
    "language": "python",
}

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Any]:
    """A notebook after a run with this Python, on one thread, without settings of the user's; each runs once."""
    folder, here = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("here")
    kernel = folder / "kernels" / "graphprune-tests"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(KERNEL), encoding="utf-8")
    settings = dict.fromkeys(("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"), str(folder))
    settings |= {"JUPYTER_PLATFORM_DIRS": "1", "OMP_NUM_THREADS": "1", "PLOTLY_RENDERER": "plotly_mimetype"}

    @cache
    def run(path: Path) -> Any:
        notebook = nbformat.read(path, as_version=4)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            resources = {"metadata": {"path": str(here)}}
            NotebookClient(notebook, timeout=240, kernel_name=kernel.name, resources=resources).execute()
        assert [*here.iterdir()] == []
        return notebook

    return run


def test_there_are_notebooks_numbered_from_one() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(1, len(NOTEBOOKS) + 1)]
    assert NOTEBOOKS


@every_notebook
def test_every_cell_that_draws_shows_a_figure_and_nothing_warns(path: Path, executed: Callable[[Path], Any]) -> None:
    drawing = [cell for cell in code(executed(path)) if draws(cell)]
    assert len(drawing) >= 3
    for cell in code(executed(path)):
        figures = shows(cell, FIGURE)
        assert len(figures) == draws(cell), cell.source
        assert all(figure["data"] and figure["layout"]["title"]["text"] for figure in figures)
        assert not [output.text for output in cell.outputs if output.output_type == "stream"], cell.source


@every_notebook
def test_the_committed_notebook_shows_the_figures_and_says_what_a_run_says(
    path: Path, executed: Callable[[Path], Any]
) -> None:
    committed = nbformat.read(path, as_version=4)
    for old, new in zip(code(committed), code(executed(path)), strict=True):
        assert len(shows(old, FIGURE)) == draws(old), old.source
        assert titles(old) == titles(new)
        before, after = "\n".join(shows(old, TEXT)), "\n".join(shows(new, TEXT))
        assert NUMBER.sub("#", before) == NUMBER.sub("#", after)
        for was, now in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True):
            assert near(was, now), f"{was} is now {now}: {after}"


def titles(cell: Any) -> list[str]:
    """Of its figures; numbers in a subtitle may turn on the last bit of a measurement."""
    return [figure["layout"]["title"]["text"] for figure in shows(cell, FIGURE)]


def near(was: str, now: str) -> bool:
    """Whether two numbers in a text differ by rounding, or by what another machine's arithmetic may do: 5 %."""
    if was == now or was.count(".") > 1 or now.count(".") > 1:  # two dots: the name of a unit
        return was == now
    old, new = (float(text.replace(",", "")) for text in (was, now))
    last_place = 10.0 ** -len(was.partition(".")[2])
    return abs(old - new) <= max(1.01 * last_place, 0.05 * abs(old))


def test_numbers_in_a_text_are_compared_up_to_their_last_place() -> None:
    assert near("0.98", "0.97")
    assert near("13,232", "13,232")
    assert near("1,000", "1,049")
    assert not near("0.98", "0.90")
    assert not near("+0.98", "-0.98")
    assert not near("13,232", "12,232")
    assert not near("2.4.22", "2.4.23")


@every_notebook
def test_the_committed_notebook_is_clean(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(content.encode()) < MAX_BYTES
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
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

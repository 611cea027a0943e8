"""Runs the notebooks and keeps what they show: what is committed is on the model that they name.

python -m tests.benchmarks.notebooks [NOTEBOOK ...] [--model tiny] [-o FOLDER]

Without `-o` they are written back. Each runs from top to bottom in an empty folder, on one thread, without settings of
the user's; a notebook that puts files there, or fails, is not written.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODEL = re.compile(r'^MODEL = "[^"]*"', re.MULTILINE)
KERNEL = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "This Python",
    "language": "python",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@contextmanager
def _apart() -> Iterator[str]:
    """The name of a kernel that is this Python, where Jupyter finds nothing of the user's."""
    with TemporaryDirectory() as folder:
        kernel = Path(folder, "kernels", "graphprune")
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(KERNEL), encoding="utf-8")
        settings = dict.fromkeys(("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"), folder)
        settings |= {"JUPYTER_PLATFORM_DIRS": "1", "OMP_NUM_THREADS": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
        with patch.dict(os.environ, settings):
            yield kernel.name


def executed(path: Path, model: str | None = None, timeout: int = 600) -> Any:
    """A notebook after a run, on another model than it names if one is given.

    Args:
        path: of the notebook.
        model: what it is to load instead.
        timeout: seconds that a cell may take.

    Raises:
        RuntimeError: it names no model, or leaves files behind.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    if model is not None:
        named = [cell for cell in notebook.cells if cell.cell_type == "code" and MODEL.search(cell.source)]
        if len(named) != 1:
            raise RuntimeError(f"{path.name} names {len(named)} models, not 1")
        named[0].source = MODEL.sub(f'MODEL = "{model}"', named[0].source)
    with TemporaryDirectory() as here, _apart() as kernel:
        client = NotebookClient(
            notebook, timeout=timeout, kernel_name=kernel, resources={"metadata": {"path": here}}, record_timing=False
        )
        client.execute()
        if left := [*Path(here).iterdir()]:
            raise RuntimeError(f"{path.name} left {left[0].name} behind")
    notebook.metadata = METADATA
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", default=NOTEBOOKS, metavar="NOTEBOOK")
    parser.add_argument("--model", help="instead of the one that a notebook names")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    for path in args.notebooks:
        notebook = executed(path, args.model, timeout=3600)
        target = path if args.output is None else args.output / path.name
        nbformat.write(notebook, target)
        print(target, f"{target.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()

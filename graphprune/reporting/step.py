"""The step of `graphprune report`."""

from pathlib import Path
from typing import Any

from graphprune.core.errors import InputError
from graphprune.core.run import Run
from graphprune.reporting.content import gather
from graphprune.reporting.page import write_page, write_tables


def report_step(run: Run, output: Path, *, tables: Path | None = None) -> dict[str, Any]:
    """The run folder as one page, and if asked for as a folder of CSV tables.

    Raises:
        InputError: the page's name doesn't end in .html, or the tables' folder is a file.
        FormatError: a file of the run is damaged.
    """
    if output.suffix != ".html":
        raise InputError(f"the report is an .html page, not {output}")
    if tables is not None and tables.exists() and not tables.is_dir():
        raise InputError(f"{tables} is a file; the tables go to a folder")
    content = gather(run)
    write_page(content, output)
    facts = content.facts() | {"report": str(output.absolute())}
    if tables is not None:
        facts["csv"] = [str(path) for path in write_tables(content, tables)]
    return facts

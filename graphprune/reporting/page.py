"""A report as one HTML page that needs no network: everything it shows is inside it."""

import csv
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from graphprune.core.io import replacing
from graphprune.reporting.content import Content
from graphprune.reporting.source import FILE, STEP, Figure, Missing, Table

FOLDED = 24  # tables longer than this are folded
CONFIG = {"responsive": True, "displaylogo": False}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
body { font: 16px/1.5 Arial, Helvetica, sans-serif; color: #222; margin: 0 auto; max-width: 1100px; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 0.3rem; }
p { max-width: 46rem; margin: 0.3rem 0 0.8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { text-align: left; padding: 0.25rem 0.7rem; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
th { background: #f5f5f5; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } td.long { min-width: 18rem; white-space: normal; overflow-wrap: anywhere; }
code, .source { font-family: Menlo, Consolas, monospace; font-size: 0.85em; }
code { overflow-wrap: anywhere; }
.source { color: #666; } summary { cursor: pointer; color: #0072B2; }
"""


def page(content: Content) -> str:
    """The page."""
    parts = "\n".join(_table(part) if isinstance(part, Table) else _figure(part) for part in content.parts)
    library = f"<script>{get_plotlyjs()}</script>" if content.figures else ""
    title = escape(f"{content.model}: what was ranked, removed and measured")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n{library}\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>From the run folder <code>{escape(str(content.folder))}</code>. Every table names, in its last columns, "
        "the file in that folder that a row is from and the step that wrote it; every figure names its files.</p>\n"
        f"{parts}\n{_missing(content.missing)}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    columns = [column for column in table.columns if column not in {FILE, STEP}] + [FILE, STEP]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "\n".join(
        "<tr>" + "".join(_cell(row.get(column), source=column in {FILE, STEP}) for column in columns) + "</tr>"
        for row in table.rows
    )
    body = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    if len(table.rows) > FOLDED:
        body = f"<details><summary>{len(table.rows):,} rows</summary>\n{body}\n</details>"
    return f'<section id="{escape(table.name)}">\n{_heading(table)}{body}\n</section>'


def _heading(part: Table | Figure) -> str:
    caption = escape(part.caption).split("`")
    marked = "".join(f"<code>{text}</code>" if i % 2 else text for i, text in enumerate(caption))
    return f"<h2>{escape(part.title)}</h2>\n<p>{marked}</p>\n"


def _cell(value: object, *, source: bool = False) -> str:
    if value is None or value == "":
        return "<td></td>"
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        kind = ' class="source"' if source else ' class="long"' if len(text) > 40 else ""
        return f"<td{kind}>{escape(text)}</td>"
    return f'<td class="number">{printed(value)}</td>'


def printed(value: int | float) -> str:  # noqa: PYI041 - the shape checker tells them apart
    """A number as people read it: whole ones in full, others to six digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _figure(part: Figure) -> str:
    shown = go.Figure(part.figure)  # the page has the title, and as much room as the window
    shown.update_layout(title=None, width=None, autosize=True, margin={"t": 40})
    drawn = to_html(shown, full_html=False, include_plotlyjs=False, config=CONFIG, div_id=f"figure-{part.name}")
    files = ", ".join(escape(file) for file in part.files)
    return (
        f'<section id="{escape(part.name)}-figure">\n{_heading(part)}{drawn}\n'
        f'<p class="source">From {files}</p>\n</section>'
    )


def _missing(missing: tuple[Missing, ...]) -> str:
    if not missing:
        return ""
    items = "\n".join(
        f"<li>{escape(each.what)}" + (f"<br><code>{escape(each.command)}</code>" if each.command else "") + "</li>"
        for each in missing
    )
    return (
        '<section id="missing">\n<h2>What this run folder does not have</h2>\n'
        f"<p>Words in capitals are yours to replace.</p>\n<ul>\n{items}\n</ul>\n</section>"
    )


def write_page(content: Content, path: Path) -> None:
    text = page(content)
    with replacing(path.absolute()) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tables(content: Content, folder: Path) -> list[Path]:
    """A CSV file for every table; lists and objects are JSON in their cell."""
    written = []
    for table in content.tables:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, table.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in table.rows)
        path = folder.absolute() / f"{table.name}.csv"
        with replacing(path) as temporary:
            temporary.write_text(buffer.getvalue(), encoding="utf-8")
        written.append(path)
    return written


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value

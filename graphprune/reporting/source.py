"""What a report is made of, and the run folder that it is read from."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from graphprune.core.errors import GraphpruneError
from graphprune.core.run import Run

Row = dict[str, Any]
FILE, STEP = "file", "step"


@dataclass(frozen=True)
class Table:
    """Rows with the same columns; each names the file that its numbers are from, and the step that wrote it."""

    name: str
    title: str
    caption: str
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for row in self.rows for column in row))


@dataclass(frozen=True)
class Figure:
    """A figure, what a reader must know to understand it, and the files it is drawn from."""

    name: str
    title: str
    caption: str
    files: tuple[str, ...]
    figure: go.Figure


@dataclass(frozen=True)
class Missing:
    """Something that the run folder doesn't have, and the command that makes it."""

    what: str
    command: str


@dataclass
class Source:
    """The run folder that is read, and what has been found in it so far."""

    run: Run
    manifest: Mapping[str, Any]
    parts: list[Table | Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run) -> "Source":
        return cls(run, run.manifest())

    @property
    def steps(self) -> Mapping[str, Any]:
        return {name: step for name, step in self.manifest.get("steps", {}).items() if isinstance(step, dict)}

    @property
    def about(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.manifest["model"]
        return facts

    @property
    def model(self) -> str:
        return str(self.about.get("name", ""))

    def files(self, folder: str, pattern: str) -> list[Path]:
        return sorted((self.run.folder / folder).glob(pattern))

    def place(self, path: Path) -> str:
        """A file as the report names it: from the run folder on."""
        return str(path.relative_to(self.run.folder))

    def step_of(self, path: Path) -> str:
        """The step that wrote a file, by the manifest; empty for one that it doesn't know."""
        place = self.place(path)
        return next((name for name, step in self.steps.items() if place in step.get("outputs", [])), "")

    def result(self, step: str) -> Mapping[str, Any]:
        result: Mapping[str, Any] = self.steps.get(step, {}).get("result", {})
        return result

    def table(self, name: str, title: str, caption: str, rows: Sequence[Row]) -> None:
        if rows:
            self.parts.append(Table(name, title, caption, tuple(rows)))

    def figure(
        self, name: str, title: str, caption: str, files: Sequence[Path], draw: Callable[[], go.Figure]
    ) -> go.Figure | None:
        """Adds a figure; where the run's files don't allow it, what is missing is why."""
        try:
            figure = draw()
        except (ValueError, GraphpruneError) as error:
            self.missing.append(Missing(f"the figure “{title}”: {error}", ""))
            return None
        self.parts.append(Figure(name, title, caption, tuple(self.place(path) for path in files), figure))
        return figure

    def lacks(self, what: str, command: str) -> None:
        """Notes a command with the run's own names in it; what only the reader knows is in capitals."""
        model = shlex.quote(str(self.about.get("folder") or self.model or "MODEL"))
        folder = shlex.quote(str(self.run.folder))
        self.missing.append(Missing(what, f"graphprune {command}".replace("MODEL", model).replace("RUN", folder)))


def as_text(value: object) -> str:
    """Options and other structures in a cell: JSON, unless they are text."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

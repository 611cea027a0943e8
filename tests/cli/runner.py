"""Running the command line in this process and reading what it said."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphprune.cli import main

TEXTS = Path(__file__).parents[2] / "graphprune" / "models" / "tiny"
CALIBRATION, EVALUATION = TEXTS / "calibration.txt", TEXTS / "evaluation.txt"
SMALL = ("--n-samples", "4", "--seq-len", "64")
CALIBRATED = ("--calibration", str(CALIBRATION), *SMALL)


@dataclass(frozen=True)
class Said:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.code == 0, self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert self.out.count("\n") == 1
        return value

    def refused(self, *words: str) -> None:
        """One sentence on stderr with these words, nothing on stdout, exit 1."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert self.err.startswith("graphprune: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        assert "Error" not in self.err.split(":")[1], self.err
        for word in words:
            assert word in self.err, self.err
        assert not self.out


Cli = Callable[..., Said]


def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def files(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_nothing_half_written(run: Path) -> None:
    """No temporary file anywhere near a run folder, and no artefact that the failed step would have made."""
    assert not [path for path in run.parent.rglob("*") if path.name.startswith(".tmp")]
    if run.is_dir():
        left = files(run)
        assert not [name for name in left if name.startswith(("masks/", "models/", "graph/", "evaluations/"))], left

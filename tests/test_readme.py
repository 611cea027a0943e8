"""The README's commands and its Python run as they stand, one after the other, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_and_the_python_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in _blocks("bash") for line in block.splitlines() if line.startswith("graphprune ")]
    assert len(commands) >= 7
    for command in commands:
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
    (python,) = _blocks("python")
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=True)
    rung, perplexity = done.stdout.split()
    assert rung in {"uniform", "padded"}
    assert 20 < float(perplexity) < 60


def test_the_guide_names_every_scorer_allocation_compensation_and_method() -> None:
    from graphprune.methods import ALLOCATION_NAMES, COMPENSATIONS, PRESETS, SCORER_NAMES

    part = GUIDE.split("## Methods")[1].split("## Checkpoints")[0]
    for name in {*SCORER_NAMES, *ALLOCATION_NAMES, *COMPENSATIONS, *PRESETS}:
        assert f"`{name}`" in part


def test_the_guide_names_every_centrality() -> None:
    from graphprune.centrality import CENTRALITIES

    table = GUIDE.split("## Centralities")[1].split("## Methods")[0]
    for name in CENTRALITIES:
        assert f"`{name}`" in table

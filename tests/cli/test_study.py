"""Studies from the command line: listed, run, found again, interrupted, killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graphprune.steps import studying
from graphprune.steps.studying import Bench
from tests.cli.runner import TEXTS, Cli
from tests.studies.made import SMALL, written


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studying, "image", lambda *_: b"")


@pytest.fixture
def asked(tmp_path: Path) -> tuple[object, ...]:
    return "study", written(tmp_path), "--data", TEXTS, "-o", tmp_path / "study"


def test_a_study_is_listed_then_measured_then_found_again(cli: Cli, asked: tuple[object, ...], tmp_path: Path) -> None:
    listed = cli(*asked, "--dry-run")
    assert "9 cells, 0 of them done" in listed.out
    assert not (tmp_path / "study").exists()
    said = cli(*asked, "--json").json
    assert (said["cells"], said["measured_now"], len(said["rows"])) == (9, 7, 5)
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {
        "results.jsonl", "table.md", "table.csv", "table.json", "figure.html", "figure.png", "figure.svg",
    }  # fmt: skip
    again = cli(*asked)
    assert again.out.startswith((tmp_path / "study" / "table.md").read_text())
    assert "measured_now  0" in again.out
    assert cli(*asked, "--dry-run", "--json").json["done"] == 9


def test_ctrl_c_is_one_sentence_and_keeps_what_is_done(
    cli: Cli, asked: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, measure = [2], Bench.measure

    def stopped(self: Bench, item: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(self, item)

    monkeypatch.setattr(Bench, "measure", stopped)
    cli(*asked).refused("interrupted; finished steps are kept")
    assert len((tmp_path / "study" / "results.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_with_what_it_lacks(
    cli: Cli, asked: tuple[object, ...], tmp_path: Path
) -> None:  # fmt: skip
    kept = tmp_path / "study" / "results.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "graphprune", *map(str, asked)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and (not kept.is_file() or kept.read_bytes().count(b"\n") < 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept.read_text().splitlines()
    said = cli(*asked, "--json").json
    after = kept.read_text().splitlines()
    assert after[: len(before)] == before
    assert len({json.loads(line)["key"] for line in after}) == len(after) == 7
    assert said["measured_now"] == 7 - len(before)


def test_a_mistake_is_one_sentence_before_any_work(cli: Cli, asked: tuple[object, ...], tmp_path: Path) -> None:
    written(tmp_path, SMALL.replace("seeds", "seed"))
    cli(*asked).refused("mine.toml has no key 'seed'", "seeds")
    written(tmp_path, SMALL.replace('"tiny"', '"nothing"'))
    cli(*asked).refused("nothing is neither a folder")
    written(tmp_path)
    cli(*asked, "--workers", 0).refused("at least 1 worker")
    cli(*asked, "--device", "cloud").refused("'cloud' can't be used")
    assert not (tmp_path / "study").exists()


def test_the_study_of_the_guide_is_one(cli: Cli, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)
    assert cli("fetch", "tiny", "--to", tmp_path / "tiny").code == 0
    said = cli("study", written(tmp_path, text), "-o", tmp_path / "study", "--dry-run", "--json").json
    assert said["cells"] == 1 + 4 * 3 * 3

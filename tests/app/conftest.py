"""A run of the shipped model, a server that shows it, and a browser."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from graphprune.methods import Recipe
from graphprune.models.model import Model
from graphprune.steps.pipeline import Calibration, export_step, open_run, prune_step, rank_step, score_step
from tests.cli.runner import CALIBRATION
from tests.cli.runner import cli as make_cli

expect.set_options(timeout=60_000)  # on a busy machine


cli = pytest.fixture(make_cli)


@pytest.fixture(scope="session")
def run_folder(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, three scores and a mask. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("explored") / "run"
    run, calibration = open_run(folder, tiny), Calibration(CALIBRATION, n_samples=4, seq_len=64)
    export_step(tiny, run, calibration=calibration)
    rank_step(run, direction="backward", personalization="outputs")
    for scorer in ("magnitude", "wanda"):
        score_step(tiny, run, scorer=scorer, calibration=calibration)
    prune_step(tiny, run, recipe=Recipe.of("wanda"), sparsity=0.2, calibration=calibration, name="wanda-0.2")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, program: str = "app") -> Iterator[str]:
    """A server in a process of its own, as people start it: jobs are forked from it."""
    command = [sys.executable, "-m", program, str(folder), "--port", str(free_port()), "--json"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["address"]
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait() == 0


@pytest.fixture(scope="session")
def address(run_folder: Path) -> Iterator[str]:
    with served(run_folder) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own, in which nothing may go wrong unnoticed."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(90_000)
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors, errors

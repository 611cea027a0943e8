"""The command line, in this process."""

import pytest

from tests.cli import runner


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> runner.Cli:
    return runner.cli(capsys)

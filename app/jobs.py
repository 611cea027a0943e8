"""Work that takes longer than a request: the command line's own commands, run beside the server, their bars read along.

A job is the very command that the page shows, so what the button does can be repeated; a job that is killed leaves the
run folder as whole as a command that is killed.
"""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from graphprune.core.errors import GraphpruneError

Tell = Callable[[float, str], None]  # a share of what is to be done, and what is being done
OURS = "graphprune: "
BAR = re.compile(r"(?:^|[\r\n])([^\r\n:|]+):\s+(\d+)%\|[^\r\n]*?\[[^<\]]*<([^,\]]*)")


def run_command(arguments: Sequence[str], tell: Tell) -> dict[str, Any]:
    """What a command of ours prints as JSON; its progress bars are told as they come.

    Raises:
        GraphpruneError: the command failed; with its own sentence.
    """
    ours, theirs = pty.openpty()  # commands show bars on terminals only
    command = [sys.executable, "-m", "graphprune", *arguments, "--json"]
    tell(0.0, f"starting {arguments[0]}")
    with subprocess.Popen(  # noqa: S603 - no shell; names of files are those of a listing, numbers have been checked
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        said = _read_along(ours, arguments[0], tell)
        os.close(ours)
        if process.stdout is None:
            raise AssertionError("it is a pipe")
        out = process.stdout.read()
    if process.returncode:
        last = [line for line in re.split(r"[\r\n]+", said) if line.startswith("graphprune: ")]
        raise GraphpruneError(
            last[-1].removeprefix("graphprune: ") if last else f"{arguments[0]} failed: {said[-300:]}"
        )
    result: dict[str, Any] = json.loads(out)
    return result


def _read_along(terminal: int, what: str, tell: Tell) -> str:
    """All that a command writes to its terminal."""
    said = ""
    while True:
        try:
            part = os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # Linux says so when the other end is closed
            return said
        if not part:
            return said
        said = (said + part)[-20_000:]
        if (bars := BAR.findall(said)) and bars[-1]:
            name, percent, left = bars[-1]
            tell(int(percent) / 100, f"{what}: {name.strip()}, {left} left")

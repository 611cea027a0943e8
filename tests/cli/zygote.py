"""A process that has imported everything and forks a child for every command, so that a real process starts at once.

Reads one JSON object a line: `arguments`, the files `out` and `err` for what it says, and if it is to be interrupted
`after` how many seconds by which `signal`. Answers with the `status` (negative: the signal that ended it) and the
`seconds`. Started with one thread, so that forking is safe.
"""

import json
import os
import sys
import time


def child(command: dict[str, object]) -> None:
    for stream, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(str(command[stream]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    from graphprune.cli import main

    arguments = command["arguments"]
    assert isinstance(arguments, list)
    code = main([str(argument) for argument in arguments])
    sys.stdout.flush()
    os._exit(code)


def serve() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            child(command)
        if "signal" in command:
            time.sleep(command["after"])
            os.kill(pid, command["signal"])  # nobody else reaps this child, so the id is still its own
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answer({"status": status, "seconds": time.perf_counter() - start})


def answer(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import contextlib
    import io

    import torch

    from graphprune.cli import main as run_once

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):  # everything that is imported on the way is now there
        once = ["prune", "tiny", "--method", "random", "--sparsity", "0.1", "-o", sys.argv[1]]
        assert run_once(once) == 0
    answer({"ready": True})
    serve()

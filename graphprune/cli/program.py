"""The command line: parse, call one step, print. Nothing heavy is imported before the arguments are right."""

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphprune.cli.comparing import add_audit, add_compare, add_report
from graphprune.cli.evaluating import add_cost, add_evaluate, add_recover
from graphprune.cli.exploring import add_explore, add_render
from graphprune.cli.masks import add_import, add_mask, add_vote
from graphprune.cli.models import add_convert, add_demo, add_export, add_fetch
from graphprune.cli.pruning import add_prune
from graphprune.cli.ranking import add_rank, add_score
from graphprune.cli.searching import add_predict, add_search
from graphprune.cli.studies import add_study
from graphprune.core.errors import GraphpruneError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphprune",
        description="Turn a trained network into a weighted graph, rank every part of it, prune, and measure the cost.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    steps = (add_demo, add_fetch, add_export, add_convert, add_rank, add_score, add_prune, add_evaluate)
    masks = (add_import, add_vote, add_mask)
    views = (add_compare, add_audit, add_report, add_explore, add_render)
    for add in (*steps, add_cost, add_search, add_predict, add_study, add_recover, *masks, *views):
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 is fine, 1 an error the user can act on (one sentence on stderr), 2 a usage error."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.version:
        from graphprune import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # also for the bars of the libraries we call
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"graphprune\..*")
    warnings.showwarning = _say_warning
    with _noting_interrupts() as interrupted:
        try:
            _print(args, args.run(args))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what nobody can explain is raised again
            if interrupted or isinstance(error, KeyboardInterrupt):
                _sweep(args)
                return _failed("interrupted; finished steps are kept")
            return _explained(error)
    return 0


def _say_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"graphprune: note: {message}\n")


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Notes that Ctrl-C was pressed: a library may turn the exception that it raises into one of its own."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may listen
        yield noted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _sweep(args: argparse.Namespace) -> None:
    """Removes what was half-written when Ctrl-C came, even where it came while that was being removed."""
    from graphprune.core.io import sweep_temporaries

    folder = getattr(args, "output", None) or getattr(args, "folder", None)
    if isinstance(folder, Path) and folder.is_dir():
        with suppress(OSError):
            sweep_temporaries(folder, own=True)


def _explained(error: Exception) -> int:
    """An error that the user can act on, in one sentence; any other is raised again."""
    if isinstance(error, GraphpruneError):
        return _failed(str(error))
    if isinstance(error, MemoryError):
        return _failed("out of memory; use a smaller batch, shorter windows or a coarser level")
    if isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    raise error


def _print(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.json and result:
        print(json.dumps(result))
    elif not args.json:
        args.show(result)
    sys.stdout.flush()


def _failed(sentence: str) -> int:
    sys.stderr.write(f"graphprune: {' '.join(sentence.split())}\n")
    return 1

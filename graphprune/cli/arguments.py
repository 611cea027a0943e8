"""What several commands ask for, and how it is checked."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphprune.cli.tables import show_facts
from graphprune.core.errors import InputError

Run = Callable[[argparse.Namespace], dict[str, Any]]
Show = Callable[[dict[str, Any]], None]
LEVELS = ("channel", "unit", "block")
SCORERS = (
    "random", "magnitude", "activation", "wanda", "mlprank", "llmrank", "graphrank", "taylor", "flap", "credit",
)  # fmt: skip
METHODS = (*SCORERS, "slimgpt", "graphslim", "sparsegpt", "sparsellm", "influence")
DECIDERS = (*SCORERS, "obs", "sparsellm", "influence")
COMPENSATIONS = ("none", "obs", "bias", "sparsellm", "reconstruct")


def add_command(
    commands: Any,
    name: str,
    run: Run,
    text: str,
    *,
    show: Show = show_facts,
) -> argparse.ArgumentParser:
    """A command of its own: what it does, and how people are told what came of it."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run, show=show)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def calibration_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text (safetensors for a perceptron)")
    group.add_argument("--n-samples", type=int, default=32, metavar="N", help="windows of text (default 32)")
    group.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    group.add_argument("--seed", type=int, default=0, help="of the draw of windows (default 0)")
    machine_arguments(group)


def machine_arguments(parser: Any) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        help="torch device of the forward passes (default cpu); export, score, prune, evaluate: auto spreads blocks",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the forward passes")


def task_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("multiple-choice tasks, by lm-eval")
    group.add_argument(
        "--tasks", metavar="NAMES", help="names with commas between them: DIR/NAME.jsonl, or lm-eval's own from the hub"
    )
    group.add_argument("--tasks-dir", type=Path, metavar="DIR", help="a folder of JSON-lines files of questions")
    group.add_argument("--limit", type=int, metavar="N", help="the first N questions of every task (default all)")


def core_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more than one core")
    group.add_argument("--executor", choices=("local", "ray"), default="local")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    group.add_argument("--address", help="of a Ray cluster (default: one on this machine)")
    group.add_argument("--memory", type=int, metavar="BYTES", help="that Ray reserves for what a worker measures")


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; values are read as JSON where they are JSON."""
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"an option is KEY=VALUE, not {pair!r}")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def calibration_of(args: argparse.Namespace, *, auto: bool = False) -> Any:
    from graphprune.steps.pipeline import Calibration

    check_device(args.device, auto=auto)
    sizes = {"n_samples": args.n_samples, "seq_len": args.seq_len, "seed": args.seed}
    return Calibration(args.calibration, **sizes, dtype=args.dtype, device=args.device)


def tasks_of(args: argparse.Namespace) -> Any:
    """The tasks that are named."""
    if args.tasks is None:
        if args.tasks_dir is not None or args.limit is not None:
            raise InputError("--tasks-dir and --limit say more of tasks; give --tasks NAMES")
        return ()
    from graphprune.evaluation.tasks import find_tasks, lm_eval

    lm_eval()
    return find_tasks([name.strip() for name in args.tasks.split(",")], args.tasks_dir)


def check_device(name: str, *, auto: bool = False) -> None:
    import torch

    if auto and name == "auto":
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} can't be used: {str(error).splitlines()[0]}") from error


def check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity is the fraction removed, between 0 and 1, not {sparsity:g}")


def check_name(name: str | None) -> None:
    from graphprune.core.run import checked_name

    if name is not None:
        checked_name(name)


def check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is not there")

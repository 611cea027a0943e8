"""Many runs in one table: `study`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import add_command, check_device, core_arguments
from graphprune.cli.tables import show_facts, show_table


def add_study(commands: Any) -> None:
    parser = add_command(
        commands, "study", _study, "models x methods x sparsities x seeds: one table and one figure", show=_show_study
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; the guide has one of ten lines")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="of results (default graphprune-study-NAME)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where CONFIG's paths begin (default: where it lies)")
    parser.add_argument("--dry-run", action="store_true", help="list the cells, and which are done already")
    parser.add_argument("--device", default="cpu", help="torch device of the forward passes (default cpu)")
    core_arguments(parser)


def _study(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.prediction.executors import Executor
    from graphprune.steps.studying import default_folder, study_step
    from graphprune.studies.study import Study

    study = Study.read(args.config, data=args.data)
    check_device(args.device)
    executor = Executor(args.executor, args.workers, args.address, args.memory)
    args.output = args.output or default_folder(args.config.stem)
    return study_step(study, args.output, executor=executor, device=args.device, dry_run=args.dry_run)


def _show_study(result: dict[str, Any]) -> None:
    """The table, then where it is; of a dry run the cells."""
    if "list" in result:
        show_table([("", "cell"), *(("done" if each["done"] else "", each["cell"]) for each in result["list"])])
        print(f"{result['cells']} cells, {result['done']} of them done; results come to {result['study']}")
        return
    print(result["markdown"])
    show_facts({name: x for name, x in result.items() if name not in {"format", "version", "rows", "markdown"}})

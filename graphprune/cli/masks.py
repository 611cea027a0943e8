"""Masks as sets, and scores of one's own: `import`, `vote`, `mask`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import add_command, check_file, check_name
from graphprune.cli.pruning import RUNGS
from graphprune.cli.tables import cell, show_facts, show_table

VOTES = ("rank", "borda", "intersection", "union")
COMBINED = ("union", "intersection", "complement")
MASK_FORMATS = ("json", "csv", "torch", "torch-state")


def add_import(commands: Any) -> None:
    parser = add_command(commands, "import", _import, "scores or a mask of your own, to RUN/scores or RUN/masks")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV (unit,score or unit,keep), .npz or .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--name", help="of the result (default: the file's)")


def add_vote(commands: Any) -> None:
    parser = add_command(commands, "vote", _vote, "several scorers' vote on the same units, to RUN/scores")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, metavar="FILE", help="score files, or names in RUN/scores"
    )
    parser.add_argument(
        "--rule", choices=VOTES, default="rank", help="mean rank (default), Borda's points, or what all or any let go"
    )
    parser.add_argument("--per", choices=("layer", "kind"), default="layer", help="ranked together (default layer)")
    parser.add_argument("--name", help="of the score file (default vote-RULE)")


def add_mask(commands: Any) -> None:
    text = "masks compared, combined, explained, exported and applied"
    parser = commands.add_parser("mask", help=text, description=text[0].upper() + text[1:] + ".")
    operations = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    one = add_command(
        operations, "diff", _mask_diff, "how much two masks have in common, and what one alone removes", show=_show_mask
    )
    one.add_argument("first", type=Path, metavar="MASK")
    one.add_argument("second", type=Path, metavar="MASK")
    for name, says in (
        ("union", "the mask that removes what any of several removes"),
        ("intersection", "the mask that removes what all of several remove"),
        ("complement", "the mask that removes what another keeps"),
    ):
        one = add_command(operations, name, _mask_combined, says, show=_show_mask)
        one.add_argument("masks", type=Path, nargs=1 if name == "complement" else "+", metavar="MASK")
        one.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
        one.add_argument("--units", choices=("all", "neuron", "head"), default="all", help="others as in the first")
    one = add_command(
        operations,
        "explain",
        _mask_explain,
        "what goes by block and kind, and why a unit goes or stays",
        show=_show_mask,
    )
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("--unit", nargs="+", default=[], metavar="UNIT", help="e.g. neuron.3.17 head.0.2")
    one.add_argument("--scores", type=Path, metavar="FILE", help="that it was made by (default: the run's, if it has)")
    one.add_argument("--model", metavar="MODEL", help="that it is for (default: that of the run folder it lies in)")
    one = add_command(operations, "export", _mask_export, "a mask for another program", show=_show_mask)
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("--to", choices=MASK_FORMATS, required=True, help="lists, a table, or torch.nn.utils.prune")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    one.add_argument("--model", metavar="MODEL", help="that it is for (default: that of the run folder it lies in)")
    one = add_command(
        operations, "apply", _mask_apply, "the checkpoint that a mask leaves, to RUN/models", show=_show_mask
    )
    one.add_argument("model", metavar="MODEL")
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    one.add_argument("--rung", choices=RUNGS, default="auto")
    one.add_argument("--name", help="of mask and checkpoint (default: the mask's)")


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.load import load_model
    from graphprune.steps.exchanging import import_step

    check_name(args.name)
    check_file(args.file)
    return import_step(load_model(args.model), args.output, args.file, name=args.name)


def _vote(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.steps.exchanging import vote_step

    check_name(args.name)
    return vote_step(Run.open(args.folder), args.scores, rule=args.rule, per=args.per, name=args.name)


def _mask_diff(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.steps.exchanging import diff_step

    return diff_step(args.first, args.second)


def _mask_combined(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.masks.algebra import KINDS
    from graphprune.steps.exchanging import combine_step

    kinds = KINDS if args.units == "all" else (args.units,)
    return combine_step(args.operation, args.masks, args.output, kinds=kinds)


def _mask_explain(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.steps.exchanging import explain_step

    return explain_step(args.mask, model=args.model, scores=args.scores, units=args.unit)


def _mask_export(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.steps.exchanging import mask_export_step

    return mask_export_step(args.mask, args.to, args.output, model=args.model)


def _mask_apply(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.load import load_model
    from graphprune.steps.exchanging import apply_step

    check_name(args.name)
    check_file(args.mask)
    return apply_step(load_model(args.model), args.output, args.mask, rung=args.rung, name=args.name)


def _show_mask(result: dict[str, Any]) -> None:
    """Facts, then a table for every list of them, then the sentences that say why."""
    reasons = result.get("reasons", [])
    lists = {name: rows for name, rows in result.items() if isinstance(rows, list) and name != "reasons"}
    show_facts({name: x for name, x in result.items() if name not in {*lists, "reasons", "only_first", "only_second"}})
    for rows in lists.values():
        print()
        show_table([[*rows[0]], *([cell(x) for x in row.values()] for row in rows)] if rows else [])
    for name in ("only_first", "only_second"):
        for group, units in result.get(name, {}).items():
            print(f"{name.replace('_', ' ')}: {group}: {' '.join(map(str, units))}")
    for reason in reasons:
        print(reason["sentence"])

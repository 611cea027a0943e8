"""What scorers say of each other: `compare`, `audit`, `report`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import add_command, calibration_arguments, calibration_of, check_name
from graphprune.cli.pruning import ALLOCATIONS
from graphprune.cli.tables import cell, show_table
from graphprune.core.errors import InputError


def add_compare(commands: Any) -> None:
    parser = add_command(
        commands, "compare", _compare, "where the run's scorers agree, to RUN/comparisons", show=_show_compared
    )
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME",
        help="score files of the run (default: all of heads or neurons); NAME,NAME,...: one scorer at several seeds",
    )  # fmt: skip
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of units (default: head neuron, as all have them)")
    parser.add_argument("--p", type=float, help="of the rank-biased overlap (default: its mean depth is a tenth)")
    parser.add_argument("--budgets", type=float, nargs="+", metavar="S", help="of the overlap (default 0.05 to 0.95)")
    parser.add_argument("--end", choices=("removed", "kept"), default="removed", help="compared in overlaps")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    parser.add_argument(
        "--disagree", nargs=2, metavar="NAME", help="instead: the units that two score files judge most differently"
    )
    parser.add_argument("--top", type=int, default=20, metavar="N", help="of --disagree (default 20)")
    masks = parser.add_argument_group("what their masks do to the graph and to the model")
    masks.add_argument("--sparsities", type=float, nargs="+", default=[], metavar="S", help="instead: masks at these")
    masks.add_argument("--allocations", choices=ALLOCATIONS, nargs="+", default=["uniform"], help="(default uniform)")
    masks.add_argument("--compensations", choices=("none", "obs"), nargs="+", default=["none"], help="(default none)")
    masks.add_argument("--text", type=Path, metavar="FILE", help="measure the model on it; without, the graph alone")
    masks.add_argument("--max-windows", type=int, metavar="N", help="of the text, at most, spread evenly")
    masks.add_argument("--units", choices=("all", "neuron", "head"), help="that may go (default: as all scorers score)")
    calibration_arguments(parser)
    parser.add_argument("--name", help="of the result (default comparison, with --sparsities consequences)")


def add_audit(commands: Any) -> None:
    parser = add_command(
        commands,
        "audit",
        _audit,
        "is each of the run's scorers what it says it is? a verdict a line",
        show=_show_verdicts,
    )
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="score files of the run, as for compare (default: all)"
    )
    parser.add_argument("--sparsity", type=float, default=0.2, help="at which masks are compared (default 0.2)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="measure each against random removal on it")
    parser.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    parser.add_argument("--max-windows", type=int, metavar="N", help="of the text, at most, spread evenly")
    parser.add_argument("--name", default="audit", help="of the audit (default audit)")


def add_report(commands: Any) -> None:
    parser = add_command(
        commands, "report", _report, "what a run folder knows, as one page that needs no network", show=_show_report
    )
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="the tables, too, a CSV file each")


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    check_name(args.name)
    from graphprune.core.run import Run
    from graphprune.steps.comparing import compare_step, disagree_step
    from graphprune.steps.consequences import Measured, consequences_step

    if args.disagree is not None:
        return disagree_step(Run.open(args.folder), *args.disagree, top=args.top)
    if args.sparsities:
        calibration, measured = calibration_of(args), Measured(args.text, args.seq_len, args.max_windows)
        return consequences_step(
            Run.open(args.folder), args.scores, sparsities=args.sparsities, allocations=args.allocations,
            compensations=args.compensations, calibration=calibration, measured=measured, units=args.units,
            name=args.name or "consequences",
        )  # fmt: skip
    options = {name: getattr(args, name) for name in ("kinds", "p", "budgets", "end", "resamples")}
    given = {name: value for name, value in options.items() if value is not None}
    return compare_step(Run.open(args.folder), args.scores, name=args.name or "comparison", **given)


def _audit(args: argparse.Namespace) -> dict[str, Any]:
    if not 0 < args.sparsity < 1:
        raise InputError(f"masks are compared at a sparsity between 0 and 1, not {args.sparsity:g}")
    check_name(args.name)
    from graphprune.core.run import Run
    from graphprune.steps.auditing import audit_step
    from graphprune.steps.consequences import Measured

    measured = Measured(args.text, args.seq_len, args.max_windows)
    return audit_step(Run.open(args.folder), args.scores, sparsity=args.sparsity, measured=measured, name=args.name)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.reporting.step import report_step

    return report_step(Run.open(args.folder), args.output, tables=args.csv)


def _show_compared(result: dict[str, Any]) -> None:
    if "predicts" in result:
        _show_consequences(result)
    elif "disagreements" in result:
        _show_disagreements(result)
    else:
        _show_agreement(result)


def _show_agreement(result: dict[str, Any]) -> None:
    """The rank correlations of all pairs, similar scorers beside each other, and what there is to say of them."""
    labels, matrix = result["labels"], result["spearman"]
    print(f"Spearman's rank correlation over {result['units']:,} units ({', '.join(result['kinds'])})")
    rows = [("", *(str(i + 1) for i in range(len(labels))))]
    for i, label in enumerate(labels):
        cells = ["" if value is None else f"{value:.2f}" for value in matrix[i]]
        rows.append((f"{i + 1} {label}", *cells))
    show_table(rows)
    print("clusters: " + "; ".join(" = ".join(cluster) for cluster in result["clusters"]))
    for note in (*result["undefined"], *result["notes"]):
        print(f"note: {note}")
    print(f"comparison  {result['comparison']}")


def _show_report(result: dict[str, Any]) -> None:
    print(f"{result['report']}: {len(result['tables'])} tables, {len(result['figures'])} figures")
    for each in result["missing"]:
        print(f"missing: {each['what']}" + (f": {each['command']}" if each["command"] else ""))


def _show_consequences(result: dict[str, Any]) -> None:
    """A line a mask, a line a curve, a line a quantity of the graph."""
    for heading, rows in (
        ("masks", [{"series": "dense", "sparsity": 0.0, **result["dense"]}, *result["rows"]]),
        ("means over sparsity (perplexity: of its logarithm)", result["areas"]),
        ("what tells beforehand: rank correlation over the masks of one sparsity", result["predicts"]),
    ):
        if rows:
            print(f"{heading}:")
            header = list(rows[-1])
            show_table([header, *([cell(row.get(name)) for name in header] for row in rows)])
            print()
    print(f"consequences  {result['consequences']}")


def _show_disagreements(result: dict[str, Any]) -> None:
    """A line a unit: its places from 0 (goes first) to 1 (stays longest), and what the graph says of it."""
    names = {"a": result["a"], "b": result["b"]}
    rows = result["disagreements"]
    show_table([[names.get(key, key) for key in rows[0]], *([cell(value) for value in row.values()] for row in rows)])


def _show_verdicts(result: dict[str, Any]) -> None:
    """A line a verdict: what is wrong is marked, what couldn't be checked has a question mark."""
    marks = {True: "!", False: "", None: "?"}
    rows = [("", "scorer", "check", "number", "verdict")]
    for v in result["verdicts"]:
        number = "" if v["number"] is None else f"{v['number']:.4g}"
        rows.append((marks[v["flagged"]], v["scorer"], v["check"], number, v["text"]))
    show_table(rows)

"""How much everything matters: `rank`, `score`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import (
    DECIDERS,
    LEVELS,
    add_command,
    calibration_arguments,
    calibration_of,
    check_device,
    check_name,
    options_of,
)
from graphprune.cli.tables import show_table
from graphprune.core.errors import InputError

CENTRALITIES = (
    "in_degree", "out_degree", "in_strength", "out_strength", "pagerank", "katz", "hits", "path_mass", "closeness",
    "harmonic", "betweenness", "reaching", "trophic_levels", "coreness",
)  # fmt: skip
DIRECTIONS = ("forward", "backward", "both")


def add_rank(commands: Any) -> None:
    parser = add_command(commands, "rank", _rank, "centralities on the exported graph, to RUN/scores", show=_show_ranks)
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--centrality",
        nargs="+",
        default=["pagerank"],
        metavar="NAME",
        help=f"one or more of {', '.join(CENTRALITIES)}",
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="rows of the table (default 10)")
    parser.add_argument("--direction", choices=DIRECTIONS, help="along the edges, against them, or the mean of both")
    parser.add_argument("--alpha", type=float, help="of pagerank (default 0.85) and katz (default 0.1)")
    parser.add_argument("--personalization", choices=("uniform", "inputs", "outputs"), help="where pagerank starts")
    parser.add_argument("--dangling", choices=("uniform", "inputs", "outputs"), help="default: as --personalization")
    parser.add_argument("--unweighted", action="store_true", help="count every edge the same")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the centralities, e.g. k=256"
    )
    parser.add_argument("--level", choices=LEVELS, help="take a coarser level first")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep each node's K strongest incoming edges first")
    parser.add_argument("--share", type=float, help="keep the strongest edges that hold this share of the weight first")
    parser.add_argument("--name", help="of the score file (default: the centrality's)")
    parser.add_argument("--device", default="cpu", help="torch device of the sweeps (default cpu)")


def add_score(commands: Any) -> None:
    parser = add_command(commands, "score", _score, "how much each unit matters, to RUN/scores")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--scorer", choices=DECIDERS, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the scorer, e.g. gamma=0.5"
    )
    parser.add_argument("--name", help="of the score file (default: the scorer's)")
    calibration_arguments(parser)


def _rank(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.steps.pipeline import Ranked, measure_options, rank_step

    check_device(args.device)
    check_name(args.name)
    names = list(dict.fromkeys(args.centrality))
    if args.name is not None and len(names) > 1:
        raise InputError("--name is the name of one score file; several centralities have their own")
    if args.top < 1:
        raise InputError(f"--top is at least 1, not {args.top}")
    flags = {name: getattr(args, name) for name in ("direction", "alpha", "personalization", "dangling")}
    given = {name: value for name, value in flags.items() if value is not None}
    given |= ({"weight": None} if args.unweighted else {}) | options_of(args.option)
    options = {name: _those_it_has(name, given, alone=len(names) == 1) for name in names}
    for option in given:
        if not any(option in chosen for chosen in options.values()):
            raise InputError(f"none of {', '.join(names)} has an option {option!r}")
    for name, chosen in options.items():
        measure_options(name, chosen)
    run, ranked = Run.open(args.folder), Ranked(args.level, args.top_k, args.share, args.device)
    results = [
        rank_step(run, centrality=name, name=args.name, top=args.top, ranked=ranked, **options[name]) for name in names
    ]
    return {"results": results} | (results[0] if len(results) == 1 else {})


def _those_it_has(centrality: str, options: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    """Of the options given for several centralities, those that one of them has; all of them if it is alone."""
    from inspect import signature

    from graphprune.centrality import centrality as centrality_named

    known = signature(centrality_named(centrality)).parameters
    return options if alone else {name: value for name, value in options.items() if name in known}


def _score(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.load import load_model
    from graphprune.steps.pipeline import calibrated_scorer, open_run, score_step

    calibration, options = calibration_of(args, auto=True), options_of(args.option)
    calibrated_scorer(args.scorer, options, calibration)
    check_name(args.name)
    model = load_model(args.model)
    run = open_run(args.output, model)
    return score_step(model, run, scorer=args.scorer, calibration=calibration, name=args.name, **options)[1]


def _show_ranks(result: dict[str, Any]) -> None:
    """A line a centrality, then their highest heads and neurons side by side."""
    results = result["results"]
    facts = [("centrality", "direction", "scaled to", "solver", "residual", "scores")]
    keys = ("centrality", "direction", "normalisation", "solver")
    facts += [(*(str(r[key]) for key in keys), f"{r['residual']:.1e}", r["scores"]) for r in results]
    show_table(facts)
    names = [r["centrality"] for r in results]
    rows = [("", *(cell for name in names for cell in (name, "")))]
    for i in range(max(len(r["top"]) for r in results)):
        cells = [
            (r["top"][i]["unit"], f"{r['top'][i]['score']:.4g}") if i < len(r["top"]) else ("", "") for r in results
        ]
        rows.append((str(i + 1), *(cell for pair in cells for cell in pair)))
    print()
    show_table(rows)

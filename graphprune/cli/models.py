"""Models and their graphs: `demo`, `fetch`, `export`, `convert`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import LEVELS, add_command, calibration_arguments, calibration_of, check_device
from graphprune.cli.tables import nothing
from graphprune.core.errors import InputError

WEIGHTS = ("magnitude", "activation", "power", "signed")
GRAPH_FORMATS = ("npz", "graphml", "gexf")
EDGE_SCORES = ("path_mass", "betweenness")


def add_demo(commands: Any) -> None:
    parser = add_command(commands, "demo", _demo, "the whole story in one command", show=nothing)
    parser.add_argument(
        "--model", default="tiny", metavar="MODEL", help="tiny (default), smollm2-135m, a folder, a hub id"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="run folder (default graphprune-demo-MODEL)")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text (default: the shipped one)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="UTF-8 text to evaluate on (default: the shipped one)"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")


def add_fetch(commands: Any) -> None:
    parser = add_command(
        commands, "fetch", _fetch, "a named model, ready to load; prints its folder", show=_show_folder
    )
    parser.add_argument("name", metavar="NAME", help="tiny, smollm2-135m, gemma3-270m, a hub id, or a .gguf file")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to put it (default: the cache)")


def add_export(commands: Any) -> None:
    parser = add_command(commands, "export", _export, "the model's graph, to RUN/graph")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--level", choices=LEVELS, default="channel")
    parser.add_argument("--weight", choices=WEIGHTS, default="magnitude", help="of an edge (default magnitude)")
    calibration_arguments(parser)


def add_convert(commands: Any) -> None:
    parser = add_command(commands, "convert", _convert, "the run's graph in another program's format")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("--to", choices=GRAPH_FORMATS, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--level", choices=LEVELS, help="take a coarser level first")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep each node's K strongest incoming edges")
    parser.add_argument("--share", type=float, help="keep the strongest edges that hold this share of the weight")
    parser.add_argument(
        "--scores", type=Path, nargs="+", default=[], metavar="FILE", help="score or mask files, as node attributes"
    )
    parser.add_argument(
        "--edge-scores", choices=EDGE_SCORES, nargs="+", default=[], help="edge centralities, as edge attributes"
    )


def _demo(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.demo import demo

    check_device(args.device)
    return demo(
        args.model, args.output, calibration=args.calibration, text=args.text, device=args.device, quiet=args.json
    )


def _fetch(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.fetch import fetch

    return {"folder": str(fetch(args.name, to=args.to))}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.load import load_model
    from graphprune.steps.pipeline import export_step, open_run

    calibration = calibration_of(args, auto=True)
    if args.weight in {"activation", "power"} and args.calibration is None:
        raise InputError(f"edge weights by {args.weight} need calibration; give --calibration FILE")
    model = load_model(args.model)
    return export_step(
        model, open_run(args.output, model), level=args.level, weight=args.weight, calibration=calibration
    )


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.steps.conversion import convert

    run = Run.open(args.folder)
    return convert(
        run, args.to, args.output, level=args.level, top_k=args.top_k, share=args.share, attributes=args.scores,
        edge_scores=args.edge_scores,
    )  # fmt: skip


def _show_folder(result: dict[str, Any]) -> None:
    print(result["folder"])

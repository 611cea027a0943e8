"""Pictures: `explore`, `render`."""

import argparse
import json
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import add_command
from graphprune.cli.tables import nothing
from graphprune.core.errors import InputError


def add_explore(commands: Any) -> None:
    parser = add_command(
        commands, "explore", _explore, "a web application that shows a run and prunes from it", show=nothing
    )
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("--port", type=int, default=8050, help="(default 8050)")
    parser.add_argument("--host", default="127.0.0.1", help="(default 127.0.0.1: this machine alone)")
    parser.add_argument("--token", help="what a browser must know; needed with another --host")
    texts = parser.add_argument_group(
        "what pruning for real goes by (default: the texts that a search in this run went by, else the shipped model's)"
    )
    texts.add_argument("--calibration", type=Path, metavar="FILE", help="text that compensation is calibrated on")
    texts.add_argument("--text", type=Path, metavar="FILE", help="text that pruned models are evaluated on")


def add_render(commands: Any) -> None:
    parser = add_command(commands, "render", _render, "a figure of the explorer as a file, without opening it")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--view", required=True, metavar="FIGURE?STATE", help="as in the explorer's link: 'anatomy?score=wanda'"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".png, .svg, .pdf, .html, .csv or .json"
    )
    parser.add_argument("--width", type=int, default=1200, help="of an image, in pixels (default 1200)")
    parser.add_argument("--height", type=int, help="likewise (default: the figure's own)")


def _explore(args: argparse.Namespace) -> dict[str, Any]:
    if not 0 < args.port < 1 << 16:
        raise InputError(f"a port is between 1 and 65535, not {args.port}")
    from graphprune.explorer import serve

    def announce(address: str) -> None:
        print(json.dumps({"address": address}) if args.json else f"Open {address} (Ctrl-C ends it)", flush=True)

    texts = {name: path for name in ("calibration", "text") if (path := getattr(args, name)) is not None}
    for path in texts.values():
        if not path.is_file():
            raise InputError(f"{path} is not there")
    serve(args.folder, host=args.host, port=args.port, token=args.token, announce=announce, **texts)
    return {}


def _render(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("width", "height"):
        if (value := getattr(args, name)) is not None and not 100 <= value <= 10_000:
            raise InputError(f"--{name} is between 100 and 10000 pixels, not {value}")
    from graphprune.explorer import render

    return dict(render(args.folder, args.view, args.output, width=args.width, height=args.height))

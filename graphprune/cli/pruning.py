"""Masks and smaller checkpoints: `prune`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import (
    COMPENSATIONS,
    DECIDERS,
    METHODS,
    add_command,
    calibration_arguments,
    calibration_of,
    check_name,
    check_sparsity,
    options_of,
)
from graphprune.core.errors import InputError

ALLOCATIONS = ("uniform", "log", "linear", "log_reversed", "linear_reversed", "global", "graph", "curves")
RUNGS = ("auto", "uniform", "padded", "ragged", "masked", "excised")


def add_prune(commands: Any) -> None:
    parser = add_command(commands, "prune", _prune, "a mask to RUN/masks and a smaller checkpoint to RUN/models")
    parser.add_argument("model", metavar="MODEL")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--method", choices=METHODS)
    by.add_argument("--scores", type=Path, metavar="FILE", help="a score file, e.g. a centrality's from `rank`")
    parser.add_argument("--sparsity", type=float, help="fraction of the prunable parameters to remove")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--scorer", choices=DECIDERS, help="instead of the method's own; obs: second-order errors")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the scorer, e.g. gamma=0.5"
    )
    parser.add_argument("--allocation", choices=ALLOCATIONS, help="instead of the method's own")
    parser.add_argument(
        "--compensation",
        choices=COMPENSATIONS,
        help="instead of the method's own; obs: refit what stays by least squares, bias: the mean of what goes, "
        "sparsellm and reconstruct: all layers of an MLP together, by auxiliary variables or gradient steps",
    )
    parser.add_argument("--pattern", help="units, unstructured, or N:M: of every M weights of a row N stay")
    what = parser.add_argument_group("what may go")
    what.add_argument("--units", choices=("all", "neuron", "head"), default="all", help="default all")
    what.add_argument("--head-mode", choices=("group", "balanced"), help="whole key/value groups, or one head of each")
    what.add_argument("--budget", choices=("parameters", "units"), help="what sparsity counts (default parameters)")
    what.add_argument("--floor", type=int, default=1, metavar="N", help="what stays in every layer (default 1)")
    what.add_argument("--round-to", type=int, default=1, metavar="N", help="make neuron widths a multiple of N")
    what.add_argument("--normalise", choices=("layer", "standard", "none"), help="of the global allocation")
    what.add_argument(
        "--depth", type=float, metavar="SHARE",
        help="of the budget that goes as whole attentions and MLPs, the rest by width (default 0; influence 1)",
    )  # fmt: skip
    what.add_argument(
        "--depth-scorer", choices=DECIDERS, help="what these go by (default influence; at 1 the method's own)"
    )
    what.add_argument(
        "--first", type=float, default=0.0625, metavar="S", help="what the first layer loses under log and linear"
    )
    engine = parser.add_argument_group("the sequential engine")
    engine.add_argument(
        "--statistics", choices=("pruned", "dense"), help="of the pruned blocks before (default), or the dense model"
    )
    engine.add_argument("--damping", type=float, help="of the Hessians (default 0.01; slimgpt, graphslim 0.001)")
    engine.add_argument("--head-error", choices=("grouped", "exact"), help="of a head under obs (default grouped)")
    engine.add_argument("--group-start", type=int, metavar="N", help="neurons that go at a time under obs, at first")
    engine.add_argument("--group-floor", type=int, metavar="N", help="and at last (defaults: by the width)")
    joint = parser.add_argument_group("sparsellm and reconstruct")
    joint.add_argument("--iterations", type=int, metavar="N", help="rounds, or passes over the text (default 4)")
    for penalty, missed in (
        ("alpha", "a linear layer's output"),
        ("beta", "the MLP's output"),
        ("gamma", "an activation"),
    ):
        joint.add_argument(f"--{penalty}", type=float, help=f"what missing {missed} costs (default 1; published 5)")
    joint.add_argument("--chunk", type=int, metavar="N", help="tokens looked at together (default 256)")
    joint.add_argument("--tolerance", type=float, help="a round that gains less than this share is the last (0.03)")
    joint.add_argument("--variant", choices=("exact", "published"), help="of sparsellm (default exact)")
    joint.add_argument("--global-layers", metavar="LAYERS", help="solved as a whole: all (default), first_half, 0-14")
    joint.add_argument("--blocks", metavar="LAYERS", help="that lose single weights: all (default), first_half, 0-14")
    parser.add_argument("--rung", choices=RUNGS, default="auto")
    parser.add_argument("--name", help="of mask and checkpoint (default METHOD-SPARSITY)")
    calibration_arguments(parser)


def _prune(args: argparse.Namespace) -> dict[str, Any]:
    if args.sparsity is not None:
        check_sparsity(args.sparsity)
    from graphprune.methods import Cut, Recipe
    from graphprune.models.load import load_model
    from graphprune.solvers.joint import JointOptions
    from graphprune.steps.pipeline import open_run, prune_step

    calibration = calibration_of(args, auto=True)
    if args.scores is not None and (args.scorer is not None or args.option):
        raise InputError("--scores are used as they are; --scorer and --option make new ones")
    if args.scores is not None and not args.scores.is_file():
        raise InputError(f"the scores {args.scores} are not there")
    choice = Cut(
        args.allocation, args.units, args.head_mode, args.floor, args.round_to, args.normalise, args.budget, args.first,
        args.depth, args.depth_scorer,
    )  # fmt: skip
    named = ("scorer", "compensation", "pattern", "statistics", "damping", "head_error", "group_start", "group_floor")
    given = {name: getattr(args, name) for name in (*named, "global_layers", "blocks")}
    chosen = {
        name: getattr(args, name) for name in ("iterations", "alpha", "beta", "gamma", "chunk", "tolerance", "variant")
    }
    given["joint"] = JointOptions(**{name: value for name, value in chosen.items() if value is not None})
    recipe = Recipe.of(args.method, options=options_of(args.option), cut=choice, **given)
    sparsity = recipe.sparsity(args.sparsity)
    recipe.check(sparsity)
    if args.calibration is None:
        recipe.check_without_text(given_scores=args.scores is not None)
    check_name(args.name)
    model = load_model(args.model)
    return prune_step(
        model, open_run(args.output, model), recipe=recipe, sparsity=sparsity, calibration=calibration,
        scores=args.scores, method=args.method, rung=args.rung, name=args.name,
    )  # fmt: skip

"""Allocations: `search`, `predict`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import (
    COMPENSATIONS,
    METHODS,
    add_command,
    calibration_arguments,
    calibration_of,
    check_name,
    check_sparsity,
    core_arguments,
    task_arguments,
    tasks_of,
)
from graphprune.cli.pruning import ALLOCATIONS, RUNGS
from graphprune.core.errors import InputError

STRATEGIES = ("surrogate", "paper", "random")
DESIGNS = ("paper", "tied", "untied", "sobol", "latin")
PREDICTORS = ("trees", "linear", "both")
GRAPH_FEATURES = "the predictor also learns from the share of these scores (credit, path-mass) that goes"


def add_search(commands: Any) -> None:
    parser = add_command(commands, "search", _search, "the best allocation that is found, and the model pruned by it")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--sparsity", type=float, required=True, help="the budget, exact to one unit")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--strategy", choices=STRATEGIES, default="surrogate", help="(default surrogate)")
    parser.add_argument("--name", help="of the search, the mask and the checkpoint (default STRATEGY-SPARSITY)")
    inner = parser.add_argument_group("candidates")
    inner.add_argument("--method", choices=METHODS, help="how they are pruned (default wanda, with --compensation obs)")
    inner.add_argument("--compensation", choices=COMPENSATIONS, help="instead of the method's own")
    inner.add_argument("--final", choices=METHODS, help="how what is found is pruned (default: as the candidates)")
    inner.add_argument("--sequential", action="store_true", help="a pass through the blocks for every candidate")
    inner.add_argument("--units", choices=("all", "neuron", "head"), default="all")
    inner.add_argument("--head-mode", choices=("group", "balanced"))
    inner.add_argument("--floor", type=int, default=1, metavar="N", help="pieces that stay in every layer (default 1)")
    inner.add_argument("--protect", type=int, nargs="+", default=[], metavar="BLOCK", help="blocks that lose nothing")
    inner.add_argument("--most", type=float, default=1.0, metavar="S", help="what a layer may lose at most (default 1)")
    inner.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="FILE",
        help="judge on these (default: the windows of the calibration text that statistics don't see)",
    )  # fmt: skip
    inner.add_argument("--max-windows", type=int, default=12, metavar="N", help="of each text (default 12)")
    task_arguments(parser)
    inner.add_argument(
        "--margin", type=float, default=1.0, metavar="NATS",
        help="stop candidates that are so much worse than uniform after a quarter (default 1; inf reads all)",
    )  # fmt: skip
    how = parser.add_argument_group("the search")
    how.add_argument("--evaluations", type=int, default=120, metavar="N", help="all in all (default 120)")
    how.add_argument("--pairs", type=int, metavar="N", help="of these, to learn from (default half)")
    how.add_argument("--rounds", type=int, default=12, metavar="N", help="of the surrogate's search (default 12)")
    how.add_argument("--design", choices=DESIGNS, default="paper", help="of the pairs (default paper)")
    how.add_argument("--predictor", choices=PREDICTORS, default="both", help="(default both)")
    how.add_argument("--sampler", choices=("cmaes", "tpe"), default="cmaes", help="Optuna's (default cmaes)")
    how.add_argument(
        "--starts", choices=ALLOCATIONS, nargs="*", default=["uniform", "log", "curves"],
        help="allocations it begins with (default uniform log curves)",
    )  # fmt: skip
    how.add_argument("--graph-features", type=Path, metavar="SCORES", help=GRAPH_FEATURES)
    how.add_argument(
        "--compare", choices=ALLOCATIONS, nargs="*",
        help="with random search and these allocations (none named: uniform log graph)",
    )  # fmt: skip
    core_arguments(parser)
    parser.add_argument("--rung", choices=RUNGS, default="auto")
    calibration_arguments(parser)


def add_predict(commands: Any) -> None:
    parser = add_command(commands, "predict", _predict, "what a search's pairs teach, and what allocations would cost")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="(default: the run's, if it has one such file)")
    parser.add_argument("--predictor", choices=PREDICTORS, default="both", help="(default both)")
    parser.add_argument("--level", type=float, default=0.9, help="of intervals (default 0.9)")
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[], help="predict uniform, log and linear at these"
    )
    parser.add_argument("--architecture", type=Path, metavar="FILE", help="predict this one: JSON with `remove`")
    parser.add_argument("--graph-features", type=Path, metavar="SCORES", help=GRAPH_FEATURES)
    parser.add_argument("--seed", type=int, default=0, help="of the folds (default 0)")


def _search(args: argparse.Namespace) -> dict[str, Any]:
    check_sparsity(args.sparsity)
    from graphprune.methods import Cut
    from graphprune.models.load import load_model
    from graphprune.prediction.executors import Executor
    from graphprune.prediction.search import Options
    from graphprune.steps.pipeline import open_run
    from graphprune.steps.searching import COMPARED, Goal, Judged, check_search, default_recipe, search_step

    calibration = calibration_of(args)
    choice = Cut(None, args.units, args.head_mode, args.floor)
    recipe = default_recipe(args.method, compensation=args.compensation, cut=choice)
    final = None if args.final is None else default_recipe(args.final, cut=choice)
    margin = None if args.margin == float("inf") else args.margin
    goal = Goal(args.sparsity, recipe, final, tuple(args.protect), args.most, args.sequential, margin)
    named = ("evaluations", "pairs", "rounds", "design", "sampler", "seed")
    options = Options(**{name: getattr(args, name) for name in named}, kind=args.predictor)
    judged = Judged(tuple(args.text), args.max_windows, tasks_of(args), args.limit)
    check_search(goal, calibration, judged, options, args.strategy, args.graph_features)
    executor = Executor(args.executor, args.workers, args.address, args.memory)
    check_name(args.name)
    model = load_model(args.model)
    return search_step(
        model, open_run(args.output, model), goal=goal, calibration=calibration, judged=judged, options=options,
        strategy=args.strategy, starts=args.starts, against=COMPARED if args.compare == [] else args.compare,
        graph=args.graph_features, executor=executor, rung=args.rung, name=args.name,
    )  # fmt: skip


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    for sparsity in args.sparsity:
        check_sparsity(sparsity)
    if not 0 < args.level < 1:
        raise InputError(f"the level of an interval is between 0 and 1, not {args.level:g}")
    from graphprune.core.run import Run
    from graphprune.models.load import load_model
    from graphprune.steps.searching import predict_step

    for path in (args.pairs, args.architecture, args.graph_features):
        if path is not None and not path.is_file():
            raise InputError(f"{path} is not there")
    Run.open(args.output)
    model = load_model(args.model)
    run = Run.open(args.output, identity=model.identity)
    return predict_step(
        model, run, pairs=args.pairs, kind=args.predictor, level=args.level, sparsities=args.sparsity,
        architecture=args.architecture, graph=args.graph_features, seed=args.seed,
    )  # fmt: skip

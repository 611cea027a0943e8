"""The command line: parse, call one step, print. Nothing heavy is imported before the arguments are right."""

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphprune.core.errors import GraphpruneError, InputError

LEVELS = ("channel", "unit", "block")
WEIGHTS = ("magnitude", "activation", "power", "signed")
SCORERS = (
    "random", "magnitude", "activation", "wanda", "mlprank", "llmrank", "graphrank", "taylor", "flap", "credit",
)  # fmt: skip
METHODS = (*SCORERS, "slimgpt", "graphslim", "sparsegpt", "sparsellm", "influence")
DECIDERS = (*SCORERS, "obs", "sparsellm", "influence")
ALLOCATIONS = ("uniform", "log", "linear", "log_reversed", "linear_reversed", "global", "graph", "curves")
COMPENSATIONS = ("none", "obs", "bias", "sparsellm", "reconstruct")
CENTRALITIES = (
    "in_degree", "out_degree", "in_strength", "out_strength", "pagerank", "katz", "hits", "path_mass", "closeness",
    "harmonic", "betweenness", "reaching", "trophic_levels", "coreness",
)  # fmt: skip
DIRECTIONS = ("forward", "backward", "both")
EDGE_SCORES = ("path_mass", "betweenness")
FOR_MACHINES = ("output_errors", "importance", "predicted_then_measured", "pareto", "curve")
TASK_COLUMNS = (
    "task", "questions", "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "retention", "retention_norm",
)  # fmt: skip
STRATEGIES = ("surrogate", "paper", "random")
DESIGNS = ("paper", "tied", "untied", "sobol", "latin")
PREDICTORS = ("trees", "linear", "both")
RUNGS = ("auto", "uniform", "padded", "ragged", "masked", "excised")
GRAPH_FORMATS = ("npz", "graphml", "gexf")
GRAPH_FEATURES = "the predictor also learns from the share of these scores (credit, path-mass) that goes"
VOTES = ("rank", "borda", "intersection", "union")
COMBINED = ("union", "intersection", "complement")
MASK_FORMATS = ("json", "csv", "torch", "torch-state")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphprune",
        description="Turn a trained network into a weighted graph, rank every part of it, prune, and measure the cost.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    steps = (_add_demo, _add_fetch, _add_export, _add_convert, _add_rank, _add_score, _add_prune, _add_evaluate)
    masks = (_add_import, _add_vote, _add_mask)
    views = (_add_compare, _add_audit, _add_report, _add_explore, _add_render)
    for add in (*steps, _add_cost, _add_search, _add_predict, _add_study, _add_recover, *masks, *views):
        add(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], dict[str, Any]], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text (safetensors for a perceptron)")
    group.add_argument("--n-samples", type=int, default=32, metavar="N", help="windows of text (default 32)")
    group.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    group.add_argument("--seed", type=int, default=0, help="of the draw of windows (default 0)")
    _machine(group)


def _machine(parser: Any) -> None:
    parser.add_argument("--device", default="cpu", help="torch device of the forward passes (default cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the forward passes")


def _cores(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("more than one core")
    group.add_argument("--executor", choices=("local", "ray"), default="local")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    group.add_argument("--address", help="of a Ray cluster (default: one on this machine)")
    group.add_argument("--memory", type=int, metavar="BYTES", help="that Ray reserves for what a worker measures")


def _tasks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("multiple-choice tasks, by lm-eval")
    group.add_argument(
        "--tasks", metavar="NAMES", help="names with commas between them: DIR/NAME.jsonl, or lm-eval's own from the hub"
    )
    group.add_argument("--tasks-dir", type=Path, metavar="DIR", help="a folder of JSON-lines files of questions")
    group.add_argument("--limit", type=int, metavar="N", help="the first N questions of every task (default all)")


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", _demo, "the whole story in one command")
    parser.add_argument(
        "--model", default="tiny", metavar="MODEL", help="tiny (default), smollm2-135m, a folder, a hub id"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="run folder (default graphprune-demo-MODEL)")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text (default: the shipped one)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="UTF-8 text to evaluate on (default: the shipped one)"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")


def _add_fetch(commands: Any) -> None:
    parser = _command(commands, "fetch", _fetch, "a named model, ready to load; prints its folder")
    parser.add_argument("name", metavar="NAME", help="tiny, smollm2-135m, gemma3-270m, a hub id, or a .gguf file")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to put it (default: the cache)")


def _add_export(commands: Any) -> None:
    parser = _command(commands, "export", _export, "the model's graph, to RUN/graph")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--level", choices=LEVELS, default="channel")
    parser.add_argument("--weight", choices=WEIGHTS, default="magnitude", help="of an edge (default magnitude)")
    _calibration(parser)


def _add_convert(commands: Any) -> None:
    parser = _command(commands, "convert", _convert, "the run's graph in another program's format")
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


def _add_rank(commands: Any) -> None:
    parser = _command(commands, "rank", _rank, "centralities on the exported graph, to RUN/scores")
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


def _add_score(commands: Any) -> None:
    parser = _command(commands, "score", _score, "how much each unit matters, to RUN/scores")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--scorer", choices=DECIDERS, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the scorer, e.g. gamma=0.5"
    )
    parser.add_argument("--name", help="of the score file (default: the scorer's)")
    _calibration(parser)


def _add_prune(commands: Any) -> None:
    parser = _command(commands, "prune", _prune, "a mask to RUN/masks and a smaller checkpoint to RUN/models")
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
    joint.add_argument("--chunk", type=int, metavar="N", help="tokens looked at together (default 512)")
    joint.add_argument("--tolerance", type=float, help="a round that gains less than this share is the last (0.03)")
    joint.add_argument("--variant", choices=("exact", "published"), help="of sparsellm (default exact)")
    joint.add_argument("--global-layers", metavar="LAYERS", help="solved as a whole: all (default), first_half, 0-14")
    joint.add_argument("--blocks", metavar="LAYERS", help="that lose single weights: all (default), first_half, 0-14")
    parser.add_argument("--rung", choices=RUNGS, default="auto")
    parser.add_argument("--name", help="of mask and checkpoint (default METHOD-SPARSITY)")
    _calibration(parser)


def _add_search(commands: Any) -> None:
    parser = _command(commands, "search", _search, "the best allocation that is found, and the model pruned by it")
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
    _tasks(parser)
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
        "--starts", choices=ALLOCATIONS, nargs="*", default=["uniform", "log"], help="allocations it begins with"
    )
    how.add_argument("--graph-features", type=Path, metavar="SCORES", help=GRAPH_FEATURES)
    how.add_argument(
        "--compare", choices=ALLOCATIONS, nargs="*",
        help="with random search and these allocations (none named: uniform log graph)",
    )  # fmt: skip
    _cores(parser)
    parser.add_argument("--rung", choices=RUNGS, default="auto")
    _calibration(parser)


def _add_predict(commands: Any) -> None:
    parser = _command(commands, "predict", _predict, "what a search's pairs teach, and what allocations would cost")
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


def _add_study(commands: Any) -> None:
    parser = _command(commands, "study", _study, "models x methods x sparsities x seeds: one table and one figure")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file; the guide has one of ten lines")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="of results (default graphprune-study-NAME)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where CONFIG's paths begin (default: where it lies)")
    parser.add_argument("--dry-run", action="store_true", help="list the cells, and which are done already")
    parser.add_argument("--device", default="cpu", help="torch device of the forward passes (default cpu)")
    _cores(parser)


def _add_compare(commands: Any) -> None:
    parser = _command(commands, "compare", _compare, "where the run's scorers agree, to RUN/comparisons")
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
    _calibration(parser)
    parser.add_argument("--name", help="of the result (default comparison, with --sparsities consequences)")


def _add_import(commands: Any) -> None:
    parser = _command(commands, "import", _import, "scores or a mask of your own, to RUN/scores or RUN/masks")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV (unit,score or unit,keep), .npz or .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--name", help="of the result (default: the file's)")


def _add_vote(commands: Any) -> None:
    parser = _command(commands, "vote", _vote, "several scorers' vote on the same units, to RUN/scores")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, metavar="FILE", help="score files, or names in RUN/scores"
    )
    parser.add_argument(
        "--rule", choices=VOTES, default="rank", help="mean rank (default), Borda's points, or what all or any let go"
    )
    parser.add_argument("--per", choices=("layer", "kind"), default="layer", help="ranked together (default layer)")
    parser.add_argument("--name", help="of the score file (default vote-RULE)")


def _add_mask(commands: Any) -> None:
    text = "masks compared, combined, explained, exported and applied"
    parser = commands.add_parser("mask", help=text, description=text[0].upper() + text[1:] + ".")
    operations = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    one = _command(operations, "diff", _mask_diff, "how much two masks have in common, and what one alone removes")
    one.add_argument("first", type=Path, metavar="MASK")
    one.add_argument("second", type=Path, metavar="MASK")
    for name, says in (
        ("union", "the mask that removes what any of several removes"),
        ("intersection", "the mask that removes what all of several remove"),
        ("complement", "the mask that removes what another keeps"),
    ):
        one = _command(operations, name, _mask_combined, says)
        one.add_argument("masks", type=Path, nargs=1 if name == "complement" else "+", metavar="MASK")
        one.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
        one.add_argument("--units", choices=("all", "neuron", "head"), default="all", help="others as in the first")
    one = _command(operations, "explain", _mask_explain, "what goes by block and kind, and why a unit goes or stays")
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("--unit", nargs="+", default=[], metavar="UNIT", help="e.g. neuron.3.17 head.0.2")
    one.add_argument("--scores", type=Path, metavar="FILE", help="that it was made by (default: the run's, if it has)")
    one.add_argument("--model", metavar="MODEL", help="that it is for (default: that of the run folder it lies in)")
    one = _command(operations, "export", _mask_export, "a mask for another program")
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("--to", choices=MASK_FORMATS, required=True, help="lists, a table, or torch.nn.utils.prune")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    one.add_argument("--model", metavar="MODEL", help="that it is for (default: that of the run folder it lies in)")
    one = _command(operations, "apply", _mask_apply, "the checkpoint that a mask leaves, to RUN/models")
    one.add_argument("model", metavar="MODEL")
    one.add_argument("mask", type=Path, metavar="MASK")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    one.add_argument("--rung", choices=RUNGS, default="auto")
    one.add_argument("--name", help="of mask and checkpoint (default: the mask's)")


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", _report, "what a run folder knows, as one page that needs no network")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="the tables, too, a CSV file each")


def _add_audit(commands: Any) -> None:
    parser = _command(commands, "audit", _audit, "is each of the run's scorers what it says it is? a verdict a line")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME", help="score files of the run, as for compare (default: all)"
    )
    parser.add_argument("--sparsity", type=float, default=0.2, help="at which masks are compared (default 0.2)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="measure each against random removal on it")
    parser.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    parser.add_argument("--max-windows", type=int, metavar="N", help="of the text, at most, spread evenly")
    parser.add_argument("--name", default="audit", help="of the audit (default audit)")


def _add_recover(commands: Any) -> None:
    parser = _command(
        commands, "recover", _recover, "a pruned checkpoint trained on text, zeros and shape as they were"
    )
    parser.add_argument("model", metavar="CHECKPOINT")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text to train on")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--test", type=Path, metavar="FILE", help="UTF-8 text for perplexity before and after (default: the text)"
    )
    parser.add_argument("--max-windows", type=int, metavar="N", help="of the test, spread evenly (default all)")
    parser.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    how = parser.add_argument_group("training: LoRA by PEFT and the Trainer of transformers")
    how.add_argument("--steps", type=int, metavar="N", help="(default: every window once)")
    how.add_argument("--minutes", type=float, metavar="M", help="stop after so many (default never)")
    how.add_argument("--batch-size", type=int, default=8, metavar="N", help="windows a step (default 8)")
    how.add_argument("--learning-rate", type=float, default=1e-4, help="(default 1e-4)")
    how.add_argument("--rank", type=int, default=8, help="of the changes (default 8)")
    how.add_argument("--alpha", type=float, default=16.0, help="scale of the changes times their rank (default 16)")
    how.add_argument("--save-every", type=int, default=50, metavar="N", help="steps between checkpoints (default 50)")
    how.add_argument("--seed", type=int, default=0, help="(default 0)")
    how.add_argument("--device", choices=("cpu", "auto"), default="cpu", help="auto: the accelerator that is there")
    parser.add_argument("--name", help="of the checkpoint (default CHECKPOINT-recovered)")


def _add_evaluate(commands: Any) -> None:
    parser = _command(commands, "evaluate", _evaluate, "perplexity (or accuracy) and size, and zero-shot accuracy")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text (safetensors for a perceptron)")
    parser.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    parser.add_argument("--max-windows", type=int, metavar="N", help="at most this many, spread evenly over the text")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows a forward pass (default: by size)")
    _tasks(parser)
    parser.add_argument(
        "--against", metavar="DENSE",
        help="the dense model: how far predictions are from its own (KL), and what of its accuracy is left (for the "
        "latter the run's own is known, if it has been asked)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="keep the report in this run folder")
    parser.add_argument("--name", help="of the report")
    _machine(parser)


def _add_explore(commands: Any) -> None:
    parser = _command(commands, "explore", _explore, "a web application that shows a run and prunes from it")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument("--port", type=int, default=8050, help="(default 8050)")
    parser.add_argument("--host", default="127.0.0.1", help="(default 127.0.0.1: this machine alone)")
    parser.add_argument("--token", help="what a browser must know; needed with another --host")


def _add_render(commands: Any) -> None:
    parser = _command(commands, "render", _render, "a figure of the explorer as a file, without opening it")
    parser.add_argument("folder", type=Path, metavar="RUN")
    parser.add_argument(
        "--view", required=True, metavar="FIGURE?STATE", help="as in the explorer's link: 'anatomy?score=wanda'"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".png, .svg, .pdf, .html, .csv or .json"
    )
    parser.add_argument("--width", type=int, default=1200, help="of an image, in pixels (default 1200)")
    parser.add_argument("--height", type=int, help="likewise (default: the figure's own)")


def _add_cost(commands: Any) -> None:
    parser = _command(commands, "cost", _cost, "size, FLOPs, memory and speed of models, dense and pruned side by side")
    parser.add_argument("model", metavar="DENSE", help="what the others are compared with")
    parser.add_argument("pruned", nargs="+", metavar="PRUNED", help="checkpoints pruned from it")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4], metavar="N", help="(default 1 4)")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens that are read at once (128)")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="then decoded one by one (default 32)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns that the models take (default 5)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: the time this process is at work, where others use the machine (one thread)",
    )  # fmt: skip
    parser.add_argument("--no-memory", action="store_true", help="don't measure peak memory, a process for each model")
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="keep the report in this run folder")
    parser.add_argument("--name", help="of the report (default cost)")
    _machine(parser)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
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


def _calibrated(args: argparse.Namespace) -> Any:
    from graphprune.pipeline import Calibration

    _check_device(args.device)
    sizes = {"n_samples": args.n_samples, "seq_len": args.seq_len, "seed": args.seed}
    return Calibration(args.calibration, **sizes, dtype=args.dtype, device=args.device)


def _check_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} can't be used: {str(error).splitlines()[0]}") from error


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity is the fraction removed, between 0 and 1, not {sparsity:g}")


def _check_name(name: str | None) -> None:
    from graphprune.core.run import checked_name

    if name is not None:
        checked_name(name)


def _demo(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.demo import demo

    _check_device(args.device)
    return demo(
        args.model, args.output, calibration=args.calibration, text=args.text, device=args.device, quiet=args.json
    )


def _fetch(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.fetch import fetch

    return {"folder": str(fetch(args.name, to=args.to))}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.models.load import load_model
    from graphprune.pipeline import export_step, open_run

    calibration = _calibrated(args)
    if args.weight in {"activation", "power"} and args.calibration is None:
        raise InputError(f"edge weights by {args.weight} need calibration; give --calibration FILE")
    model = load_model(args.model)
    return export_step(
        model, open_run(args.output, model), level=args.level, weight=args.weight, calibration=calibration
    )


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.conversion import convert
    from graphprune.core.run import Run

    run = Run.open(args.folder)
    return convert(
        run, args.to, args.output, level=args.level, top_k=args.top_k, share=args.share, attributes=args.scores,
        edge_scores=args.edge_scores,
    )  # fmt: skip


def _rank(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.pipeline import Ranked, measure_options, rank_step

    _check_device(args.device)
    _check_name(args.name)
    names = list(dict.fromkeys(args.centrality))
    if args.name is not None and len(names) > 1:
        raise InputError("--name is the name of one score file; several centralities have their own")
    if args.top < 1:
        raise InputError(f"--top is at least 1, not {args.top}")
    flags = {name: getattr(args, name) for name in ("direction", "alpha", "personalization", "dangling")}
    given = {name: value for name, value in flags.items() if value is not None}
    given |= ({"weight": None} if args.unweighted else {}) | _options(args.option)
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
    from graphprune.pipeline import calibrated_scorer, open_run, score_step

    calibration, options = _calibrated(args), _options(args.option)
    calibrated_scorer(args.scorer, options, calibration)
    _check_name(args.name)
    model = load_model(args.model)
    run = open_run(args.output, model)
    return score_step(model, run, scorer=args.scorer, calibration=calibration, name=args.name, **options)[1]


def _prune(args: argparse.Namespace) -> dict[str, Any]:
    if args.sparsity is not None:
        _check_sparsity(args.sparsity)
    from graphprune.methods import Cut, Recipe
    from graphprune.models.load import load_model
    from graphprune.pipeline import open_run, prune_step
    from graphprune.solvers.joint import JointOptions

    calibration = _calibrated(args)
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
    recipe = Recipe.of(args.method, options=_options(args.option), cut=choice, **given)
    sparsity = recipe.sparsity(args.sparsity)
    recipe.check(sparsity)
    if args.calibration is None:
        recipe.check_without_text(given_scores=args.scores is not None)
    _check_name(args.name)
    model = load_model(args.model)
    return prune_step(
        model, open_run(args.output, model), recipe=recipe, sparsity=sparsity, calibration=calibration,
        scores=args.scores, method=args.method, rung=args.rung, name=args.name,
    )  # fmt: skip


def _search(args: argparse.Namespace) -> dict[str, Any]:
    _check_sparsity(args.sparsity)
    from graphprune.methods import Cut
    from graphprune.models.load import load_model
    from graphprune.pipeline import open_run
    from graphprune.prediction.executors import Executor
    from graphprune.prediction.search import Options
    from graphprune.searching import COMPARED, Goal, Judged, check_search, default_recipe, search_step

    calibration = _calibrated(args)
    choice = Cut(None, args.units, args.head_mode, args.floor)
    recipe = default_recipe(args.method, compensation=args.compensation, cut=choice)
    final = None if args.final is None else default_recipe(args.final, cut=choice)
    margin = None if args.margin == float("inf") else args.margin
    goal = Goal(args.sparsity, recipe, final, tuple(args.protect), args.most, args.sequential, margin)
    named = ("evaluations", "pairs", "rounds", "design", "sampler", "seed")
    options = Options(**{name: getattr(args, name) for name in named}, kind=args.predictor)
    judged = Judged(tuple(args.text), args.max_windows, _asked(args), args.limit)
    check_search(goal, calibration, judged, options, args.strategy, args.graph_features)
    executor = Executor(args.executor, args.workers, args.address, args.memory)
    _check_name(args.name)
    model = load_model(args.model)
    return search_step(
        model, open_run(args.output, model), goal=goal, calibration=calibration, judged=judged, options=options,
        strategy=args.strategy, starts=args.starts, against=COMPARED if args.compare == [] else args.compare,
        graph=args.graph_features, executor=executor, rung=args.rung, name=args.name,
    )  # fmt: skip


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    for sparsity in args.sparsity:
        _check_sparsity(sparsity)
    if not 0 < args.level < 1:
        raise InputError(f"the level of an interval is between 0 and 1, not {args.level:g}")
    from graphprune.core.run import Run
    from graphprune.models.load import load_model
    from graphprune.searching import predict_step

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


def _study(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.prediction.executors import Executor
    from graphprune.studies.study import Study
    from graphprune.studying import default_folder, study_step

    study = Study.read(args.config, data=args.data)
    _check_device(args.device)
    executor = Executor(args.executor, args.workers, args.address, args.memory)
    args.output = args.output or default_folder(args.config.stem)
    return study_step(study, args.output, executor=executor, device=args.device, dry_run=args.dry_run)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    _check_name(args.name)
    from graphprune.comparing import Measured, compare_step, consequences_step, disagree_step
    from graphprune.core.run import Run

    if args.disagree is not None:
        return disagree_step(Run.open(args.folder), *args.disagree, top=args.top)
    if args.sparsities:
        calibration, measured = _calibrated(args), Measured(args.text, args.seq_len, args.max_windows)
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
    _check_name(args.name)
    from graphprune.comparing import Measured, audit_step
    from graphprune.core.run import Run

    measured = Measured(args.text, args.seq_len, args.max_windows)
    return audit_step(Run.open(args.folder), args.scores, sparsity=args.sparsity, measured=measured, name=args.name)


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.examining import examine_step
    from graphprune.models.load import load_model
    from graphprune.pipeline import dtype_of, evaluate_step

    _check_device(args.device)
    _check_name(args.name)
    for name in ("max_windows", "batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is at least 1, not {value}")
    if args.seq_len < 2:
        raise InputError(f"--seq-len is at least 2, not {args.seq_len}")
    if args.text is None and args.tasks is None:
        raise InputError("there is nothing to evaluate on; give --text FILE, --tasks NAMES, or both")
    if args.text is not None and not args.text.is_file():
        raise InputError(f"the text {args.text} is not there")
    exam = _exam(args)
    run = None if args.output is None else Run.open(args.output)
    model, result = load_model(args.model), dict[str, Any]()
    against = None if args.against is None else load_model(args.against)
    if args.text is not None:
        options = {"seq_len": args.seq_len, "max_windows": args.max_windows, "batch_size": args.batch_size}
        options |= {"dtype": dtype_of(args.dtype), "device": args.device, "against": against}
        result = evaluate_step(model, args.text, run=run, name=args.name, **options)
    if exam is not None:
        result |= examine_step(model, exam, run=run, against=against, name=args.name)
    return result


def _recover(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.models.load import load_model
    from graphprune.pipeline import open_run
    from graphprune.recovering import recover_step
    from graphprune.recovery import Recovery, installed

    _check_name(args.name)
    named = ("steps", "minutes", "batch_size", "learning_rate", "rank", "alpha", "save_every", "seed")
    options = Recovery(**{name: getattr(args, name) for name in named})
    for name, least in (("max_windows", 1), ("seq_len", 2)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is at least {least}, not {value}")
    for path in (args.text, args.test):
        if path is not None and not path.is_file():
            raise InputError(f"the text {path} is not there")
    installed()
    model = load_model(args.model)
    is_run = (args.output / "manifest.json").is_file()
    return recover_step(
        model, Run.open(args.output) if is_run else open_run(args.output, model), args.text, options=options,
        test=args.test, seq_len=args.seq_len, max_windows=args.max_windows, device=args.device, name=args.name,
    )  # fmt: skip


def _exam(args: argparse.Namespace) -> Any:
    """What the model is asked, if anything."""
    tasks = _asked(args)
    if not tasks:
        return None
    from graphprune.examining import Exam

    return Exam(tasks, args.limit, args.batch_size or Exam.batch_size, args.dtype, args.device)


def _asked(args: argparse.Namespace) -> Any:
    """The tasks that are named."""
    if args.tasks is None:
        if args.tasks_dir is not None or args.limit is not None:
            raise InputError("--tasks-dir and --limit say more of tasks; give --tasks NAMES")
        return ()
    from graphprune.evaluation.tasks import find_tasks, lm_eval

    lm_eval()
    return find_tasks([name.strip() for name in args.tasks.split(",")], args.tasks_dir)


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import import_step
    from graphprune.models.load import load_model

    _check_name(args.name)
    _check_file(args.file)
    return import_step(load_model(args.model), args.output, args.file, name=args.name)


def _vote(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.exchanging import vote_step

    _check_name(args.name)
    return vote_step(Run.open(args.folder), args.scores, rule=args.rule, per=args.per, name=args.name)


def _mask_diff(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import diff_step

    return diff_step(args.first, args.second)


def _mask_combined(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import combine_step
    from graphprune.masks.algebra import KINDS

    kinds = KINDS if args.units == "all" else (args.units,)
    return combine_step(args.operation, args.masks, args.output, kinds=kinds)


def _mask_explain(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import explain_step

    return explain_step(args.mask, model=args.model, scores=args.scores, units=args.unit)


def _mask_export(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import mask_export_step

    return mask_export_step(args.mask, args.to, args.output, model=args.model)


def _mask_apply(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.exchanging import apply_step
    from graphprune.models.load import load_model

    _check_name(args.name)
    _check_file(args.mask)
    return apply_step(load_model(args.model), args.output, args.mask, rung=args.rung, name=args.name)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.reporting.step import report_step

    return report_step(Run.open(args.folder), args.output, tables=args.csv)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is not there")


def _explore(args: argparse.Namespace) -> dict[str, Any]:
    if not 0 < args.port < 1 << 16:
        raise InputError(f"a port is between 1 and 65535, not {args.port}")
    from graphprune.explorer import serve

    def announce(address: str) -> None:
        print(json.dumps({"address": address}) if args.json else f"Open {address} (Ctrl-C ends it)", flush=True)

    serve(args.folder, host=args.host, port=args.port, token=args.token, announce=announce)
    return {}


def _render(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("width", "height"):
        if (value := getattr(args, name)) is not None and not 100 <= value <= 10_000:
            raise InputError(f"--{name} is between 100 and 10000 pixels, not {value}")
    from graphprune.explorer import render

    return dict(render(args.folder, args.view, args.output, width=args.width, height=args.height))


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.costing import cost_step
    from graphprune.evaluation.speed import Workload
    from graphprune.models.load import load_model
    from graphprune.pipeline import dtype_of

    _check_device(args.device)
    _check_name(args.name)
    workload = Workload(tuple(args.batch_sizes), args.prompt, args.new_tokens, args.repeats, clock=args.clock)
    run = None if args.output is None else Run.open(args.output)
    models = [load_model(source) for source in (args.model, *args.pruned)]
    return cost_step(
        models, workload, dtype=dtype_of(args.dtype), device=args.device, memory=not args.no_memory, run=run,
        name=args.name,
    )  # fmt: skip


def _show_cost(report: dict[str, Any]) -> None:
    from graphprune.costing import tables

    print(f"{report['dtype']} on {report['device']}, {report['threads']} threads, {report['workload']['clock']} clock")
    for table in tables(report):
        print()
        _show_table(table)
    print(f"\n{report['why_no_speed']}\nbound: {report['bound']}")


def _show(result: dict[str, Any]) -> None:
    """A result for people: one line a fact."""
    result = {key: value for key, value in result.items() if key not in FOR_MACHINES}
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        if key == "tasks":
            _show_table([TASK_COLUMNS, *([_cell(row.get(column)) for column in TASK_COLUMNS] for row in value)])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{key}:")
            for row in value:
                print("  " + "  ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in row.values()))
        elif isinstance(value, dict):
            print(f"{key:<{width}}  " + ", ".join(f"{name} {x}" for name, x in value.items()))
        else:
            print(f"{key:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


def _show_ranks(results: list[dict[str, Any]]) -> None:
    """A line a centrality, then their highest heads and neurons side by side."""
    facts = [("centrality", "direction", "scaled to", "solver", "residual", "scores")]
    keys = ("centrality", "direction", "normalisation", "solver")
    facts += [(*(str(r[key]) for key in keys), f"{r['residual']:.1e}", r["scores"]) for r in results]
    _show_table(facts)
    names = [r["centrality"] for r in results]
    rows = [("", *(cell for name in names for cell in (name, "")))]
    for i in range(max(len(r["top"]) for r in results)):
        cells = [
            (r["top"][i]["unit"], f"{r['top'][i]['score']:.4g}") if i < len(r["top"]) else ("", "") for r in results
        ]
        rows.append((str(i + 1), *(cell for pair in cells for cell in pair)))
    print()
    _show_table(rows)


def _show_comparison(result: dict[str, Any]) -> None:
    """The rank correlations of all pairs, similar scorers beside each other, and what there is to say of them."""
    labels, matrix = result["labels"], result["spearman"]
    print(f"Spearman's rank correlation over {result['units']:,} units ({', '.join(result['kinds'])})")
    rows = [("", *(str(i + 1) for i in range(len(labels))))]
    for i, label in enumerate(labels):
        cells = ["" if value is None else f"{value:.2f}" for value in matrix[i]]
        rows.append((f"{i + 1} {label}", *cells))
    _show_table(rows)
    print("clusters: " + "; ".join(" = ".join(cluster) for cluster in result["clusters"]))
    for note in (*result["undefined"], *result["notes"]):
        print(f"note: {note}")
    print(f"comparison  {result['comparison']}")


def _show_study(result: dict[str, Any]) -> None:
    """The table, then where it is; of a dry run the cells."""
    if "list" in result:
        _show_table([("", "cell"), *(("done" if each["done"] else "", each["cell"]) for each in result["list"])])
        print(f"{result['cells']} cells, {result['done']} of them done; results come to {result['study']}")
        return
    print(result["markdown"])
    _show({name: x for name, x in result.items() if name not in {"format", "version", "rows", "markdown"}})


def _show_mask(result: dict[str, Any]) -> None:
    """Facts, then a table for every list of them, then the sentences that say why."""
    reasons = result.get("reasons", [])
    lists = {name: rows for name, rows in result.items() if isinstance(rows, list) and name != "reasons"}
    _show({name: x for name, x in result.items() if name not in {*lists, "reasons", "only_first", "only_second"}})
    for rows in lists.values():
        print()
        _show_table([[*rows[0]], *([_cell(x) for x in row.values()] for row in rows)] if rows else [])
    for name in ("only_first", "only_second"):
        for group, units in result.get(name, {}).items():
            print(f"{name.replace('_', ' ')}: {group}: {' '.join(map(str, units))}")
    for reason in reasons:
        print(reason["sentence"])


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
            _show_table([header, *([_cell(row.get(name)) for name in header] for row in rows)])
            print()
    print(f"consequences  {result['consequences']}")


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_disagreements(result: dict[str, Any]) -> None:
    """A line a unit: its places from 0 (goes first) to 1 (stays longest), and what the graph says of it."""
    names = {"a": result["a"], "b": result["b"]}
    rows = result["disagreements"]
    _show_table([[names.get(key, key) for key in rows[0]], *([_cell(value) for value in row.values()] for row in rows)])


def _show_verdicts(verdicts: list[dict[str, Any]]) -> None:
    """A line a verdict: what is wrong is marked, what couldn't be checked has a question mark."""
    marks = {True: "!", False: "", None: "?"}
    rows = [("", "scorer", "check", "number", "verdict")]
    for v in verdicts:
        number = "" if v["number"] is None else f"{v['number']:.4g}"
        rows.append((marks[v["flagged"]], v["scorer"], v["check"], number, v["text"]))
    _show_table(rows)


def _show_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) if rows else 0)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _say_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"graphprune: note: {message}\n")


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


SHOWN = {"cost": _show_cost, "mask": _show_mask, "report": _show_report, "study": _show_study}


def _print(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.command == "explore":  # has said its address
        return
    if args.json:
        print(json.dumps(result))
    elif args.command == "fetch":
        print(result["folder"])
    elif args.command == "rank":
        _show_ranks(result["results"])
    elif args.command == "compare" and "predicts" in result:
        _show_consequences(result)
    elif args.command == "compare" and "disagreements" in result:
        _show_disagreements(result)
    elif args.command == "compare":
        _show_comparison(result)
    elif args.command in SHOWN:
        SHOWN[args.command](result)
    elif args.command == "audit":
        _show_verdicts(result["verdicts"])
    elif args.command != "demo":
        _show(result)
    sys.stdout.flush()


def _failed(sentence: str) -> int:
    sys.stderr.write(f"graphprune: {' '.join(sentence.split())}\n")
    return 1

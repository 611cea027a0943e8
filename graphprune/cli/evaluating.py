"""What a model is worth: `evaluate`, `cost`, `recover`."""

import argparse
from pathlib import Path
from typing import Any

from graphprune.cli.arguments import add_command, check_device, check_name, machine_arguments, task_arguments, tasks_of
from graphprune.cli.tables import show_table
from graphprune.core.errors import InputError


def add_evaluate(commands: Any) -> None:
    parser = add_command(commands, "evaluate", _evaluate, "perplexity (or accuracy) and size, and zero-shot accuracy")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text (safetensors for a perceptron)")
    parser.add_argument("--seq-len", type=int, default=512, metavar="N", help="tokens a window (default 512)")
    parser.add_argument("--max-windows", type=int, metavar="N", help="at most this many, spread evenly over the text")
    parser.add_argument(
        "--leave-out", type=int, nargs=2, metavar=("N", "SEED"),
        help="leave out the windows that calibration on this text (--n-samples N --seed SEED) has read",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows a forward pass (default: by size)")
    task_arguments(parser)
    parser.add_argument(
        "--against", metavar="DENSE",
        help="the dense model: how far predictions are from its own (KL), and what of its accuracy is left (for the "
        "latter the run's own is known, if it has been asked)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="keep the report in this run folder")
    parser.add_argument("--name", help="of the report")
    machine_arguments(parser)


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.models.load import load_model
    from graphprune.steps.examining import examine_step
    from graphprune.steps.pipeline import dtype_of, evaluate_step

    check_device(args.device, auto=True)
    check_name(args.name)
    for name in ("max_windows", "batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is at least 1, not {value}")
    if args.seq_len < 2:
        raise InputError(f"--seq-len is at least 2, not {args.seq_len}")
    if args.leave_out is not None and (args.leave_out[0] < 1 or not 0 <= args.leave_out[1] < 1 << 63):
        raise InputError("--leave-out takes a number of windows and the seed of their draw, such as 32 0")
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
        options |= {"leave_out": None if args.leave_out is None else tuple(args.leave_out)}
        result = evaluate_step(model, args.text, run=run, name=args.name, **options)
    if exam is not None:
        result |= examine_step(model, exam, run=run, against=against, name=args.name)
    return result


def _exam(args: argparse.Namespace) -> Any:
    """What the model is asked, if anything."""
    tasks = tasks_of(args)
    if not tasks:
        return None
    from graphprune.steps.examining import Exam

    return Exam(tasks, args.limit, args.batch_size or Exam.batch_size, args.dtype, args.device)


def add_cost(commands: Any) -> None:
    parser = add_command(
        commands,
        "cost",
        _cost,
        "size, FLOPs, memory and speed of models, dense and pruned side by side",
        show=_show_cost,
    )
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
    machine_arguments(parser)


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.evaluation.speed import Workload
    from graphprune.models.load import load_model
    from graphprune.steps.costing import cost_step
    from graphprune.steps.pipeline import dtype_of

    check_device(args.device)
    check_name(args.name)
    workload = Workload(tuple(args.batch_sizes), args.prompt, args.new_tokens, args.repeats, clock=args.clock)
    run = None if args.output is None else Run.open(args.output)
    models = [load_model(source) for source in (args.model, *args.pruned)]
    return cost_step(
        models, workload, dtype=dtype_of(args.dtype), device=args.device, memory=not args.no_memory, run=run,
        name=args.name,
    )  # fmt: skip


def _show_cost(report: dict[str, Any]) -> None:
    from graphprune.steps.costing import tables

    print(f"{report['dtype']} on {report['device']}, {report['threads']} threads, {report['workload']['clock']} clock")
    for table in tables(report):
        print()
        show_table(table)
    print(f"\n{report['why_no_speed']}\nbound: {report['bound']}")


def add_recover(commands: Any) -> None:
    parser = add_command(
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


def _recover(args: argparse.Namespace) -> dict[str, Any]:
    from graphprune.core.run import Run
    from graphprune.models.load import load_model
    from graphprune.recovery import Recovery, installed
    from graphprune.steps.pipeline import open_run
    from graphprune.steps.recovering import recover_step

    check_name(args.name)
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

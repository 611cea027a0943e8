"""`graphprune cost`: what a dense model and models pruned from it take, side by side in one run."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from graphprune.core.errors import InputError
from graphprune.core.io import write_json
from graphprune.core.run import Run
from graphprune.evaluation.cost import ASSUMES, WHY_NO_SPEED, Cost, bound
from graphprune.evaluation.memory import peak_memory
from graphprune.evaluation.speed import DECODE, Speed, Workload, measure
from graphprune.models.checkpoint import Checkpoint
from graphprune.models.model import Model


def cost_step(
    models: Sequence[Model],
    workload: Workload,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    memory: bool = True,
    run: Run | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Size, operations, memory and speed of several language models, the first of which the others are compared with.

    Args:
        models: the dense model, and pruned ones.
        workload: what is timed.
        dtype: of all of them; the first one's own by default.
        device: where they run.
        memory: whether their peak memory is measured, each in a process of its own.
        run: keeps the report, if given.
        name: of the report.

    Raises:
        InputError: one of them is a perceptron, or can't read so many tokens at a time; the clock is none of the
            device's.
    """
    if workload.clock == "cpu" and torch.device(device).type != "cpu":
        raise InputError(f"a CPU clock says nothing of {device}; leave --clock out")
    costs = [Cost.of(model) for model in models]
    dtype = dtype or models[0].preferred_dtype()
    tokens = workload.prompt + workload.new_tokens
    for model in models:
        if model.n_positions is not None and tokens > model.n_positions:
            raise InputError(f"{model.name} reads {model.n_positions} tokens at a time, and {tokens} are asked for")
    rows = [
        _size(model, cost, workload) | (_memory(model, workload, dtype, device) if memory else {})
        for model, cost in zip(models, costs, strict=True)
    ]
    speeds = measure([model.module(dtype=dtype, device=device) for model in models], workload, device=device)
    report = {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "workload": asdict(workload),
        "models": rows,
        "speed": [_speed(speed, models, costs, workload, dtype.itemsize) for speed in speeds],
        "why_no_speed": WHY_NO_SPEED,
        "bound": ASSUMES,
    }
    if run is not None:
        write_json(run.evaluation_path(name or "cost"), report)
    return report


def _size(model: Model, cost: Cost, workload: Workload) -> dict[str, Any]:
    stored = model.parameters
    below = getattr(stored, "below", stored)
    n_bytes = below.n_bytes if isinstance(below, Checkpoint) else sum(x.nbytes for x in stored.values())
    return {
        "model": model.name,
        "params": cost.params,
        "checkpoint_bytes": n_bytes,
        "flops_per_token": cost.flops(workload.context).facts(),
        "cache_per_token": cost.keys_and_values,
    }


def _memory(model: Model, workload: Workload, dtype: torch.dtype, device: str) -> dict[str, int]:
    """Peak memory at the largest batch size, of a model that lies in a folder."""
    if model.folder is None:
        return {}
    peak, before = peak_memory(
        model.folder, batch_size=max(workload.batch_sizes), prompt=workload.prompt, new_tokens=workload.new_tokens,
        dtype=dtype, device=device,
    )  # fmt: skip
    return {"peak_memory": peak, "peak_memory_of_the_model": peak - before}


def _speed(
    speed: Speed, models: Sequence[Model], costs: Sequence[Cost], workload: Workload, item_bytes: int
) -> dict[str, Any]:
    row = {"model": models[speed.model].name, "batch_size": speed.batch_size, "phase": speed.phase}
    row |= {"tokens_per_second": asdict(speed.tokens_per_second), "ratio": asdict(speed.ratio)}
    if speed.phase == DECODE:
        row["bound"] = bound(costs[0], costs[speed.model], speed.batch_size, workload.context, item_bytes)
    else:
        seen = (workload.prompt + 1) / 2
        row["bound"] = costs[0].flops(seen).total / costs[speed.model].flops(seen).total
    return row


def tables(report: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """A report as tables for people: sizes, then speeds."""
    sizes: list[tuple[str, ...]] = [
        ("model", "parameters", "bytes", "MFLOP a token", "cache a token", "peak memory (the model's)")
    ]
    for row in report["models"]:
        peak = "-"
        if "peak_memory" in row:
            peak = f"{row['peak_memory'] / 1e6:,.0f} MB ({row['peak_memory_of_the_model'] / 1e6:,.0f} MB)"
        flops, cache = f"{row['flops_per_token']['total'] / 1e6:,.2f}", str(row["cache_per_token"])
        sizes.append((row["model"], f"{row['params']:,}", f"{row['checkpoint_bytes']:,}", flops, cache, peak))
    speeds: list[tuple[str, ...]] = [
        ("model", "batch", "phase", "tokens/s", "(quartiles)", "ratio", "(quartiles)", "bound")
    ]
    for row in report["speed"]:
        rate, ratio = row["tokens_per_second"], row["ratio"]
        speeds.append(
            (row["model"], str(row["batch_size"]), row["phase"], f"{rate['median']:,.1f}",
             f"({rate['low']:,.1f}-{rate['high']:,.1f})", f"{ratio['median']:.2f}",
             f"({ratio['low']:.2f}-{ratio['high']:.2f})", f"{row['bound']:.2f}")
        )  # fmt: skip
    return [sizes, speeds]

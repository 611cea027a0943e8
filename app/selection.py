"""What is selected, on every page: a group of units or one unit, and what each scorer thinks of it."""

from typing import Any

import dash_mantine_components as dmc
import torch

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores

from .data import RunData
from .parts import note, table
from .state import State

SHOWN = 12  # score files


def place(data: RunData, unit: str) -> tuple[str, int | None]:
    """The group that a name means, and the position within it of a single unit.

    Raises:
        InputError: there is no such group or unit.
    """
    parts = unit.strip().split(".")
    sizes = groups(data)
    group = ".".join(parts[:2])
    if group not in sizes or len(parts) > 3 or not all(part.isdigit() for part in parts[2:]):
        raise InputError(f"no unit is named {unit!r}; names are like neuron.3.17, head.0.2, resid.4.100 or neuron.3")
    if len(parts) == 2:
        return group, None
    if int(parts[2]) >= sizes[group]:
        raise InputError(f"{group} has units 0 to {sizes[group] - 1}, there is no {parts[2]}")
    return group, int(parts[2])


def groups(data: RunData) -> dict[str, int]:
    """How many units every group has: heads, neurons, and the channels of the stream at each of its places."""
    facts = data.manifest()["model"]
    width, n = facts.get("d_model", 0), facts.get("n_layers", 0)
    return data.units().sizes() | {f"resid.{k}": width for k in range(2 * n + 1)}


def selected(data: RunData, state: State) -> Any:
    """The rank of what is selected by every scorer of the run."""
    if not state.unit:
        return dmc.Text(
            "Nothing is selected. Click a part of any figure, or type a name such as neuron.3.17.", size="sm",
            className="quiet",
        )  # fmt: skip
    group, position = place(data, state.unit)
    stays = _stays(data, state, group, position)
    rows = []
    for name in data.scores_there()[:SHOWN]:
        scores = data.scores(name)
        if group in scores.values:
            rows.append([name, *_told(scores, group, position)])
    what = f"{state.unit}: " + ("one unit" if position is not None else f"{data.units().sizes().get(group, 0):,} units")
    head = ("score", "its value", "lower than it in its group") if position is not None else (
        "score", "mean of the group", "lowest to highest",
    )  # fmt: skip
    return [
        dmc.Group([dmc.Badge(state.unit, size="lg", variant="outline"), dmc.Text(what + stays, size="sm")]),
        table(head, rows, label="what each scorer thinks of it; higher = keep")
        if rows
        else note("No score of this run covers it."),
    ]


def _told(scores: Scores, group: str, position: int | None) -> tuple[str, str]:
    values = scores.values[group].double()
    if position is None:
        return f"{float(values.mean()):.4g}", f"{float(values.min()):.3g} to {float(values.max()):.3g}"
    below = int((values < values[position]).sum())
    return f"{float(values[position]):.4g}", f"{below:,} of {len(values):,} ({below / len(values):.0%})"


def _stays(data: RunData, state: State, group: str, position: int | None) -> str:
    """What the chosen mask does to it."""
    if not state.mask:
        return ""
    keep = data.mask(state.mask).keep.get(group, torch.ones(1, dtype=torch.bool))
    if position is not None:
        return f"; {state.mask} {'keeps' if bool(keep[position]) else 'removes'} it"
    return f"; {state.mask} keeps {int(keep.sum()):,}"


TEXTS = {"selected": selected}

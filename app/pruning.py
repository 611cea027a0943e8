"""Pruning: what a score, an allocation and a sparsity would remove, at once; and the same for real."""

import shlex
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import html

from graphprune import plots
from graphprune.allocation import ALLOCATIONS
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.methods import COMPENSATIONS, Cut
from graphprune.models.model import Model
from graphprune.pruning import cut, kinds_of
from graphprune.surgery.removed import removed

from .data import UNKNOWN, RunData
from .kept import Made, once
from .parts import box, controls, note, number, numbers, panel, segments, select, slider, table, text_input, words
from .state import State

TITLE = "Prune"
COMPENSATED = {
    "none": "none: what stays is left as it is",
    "obs": "obs: refit by least squares",
    "bias": "bias: add the mean of what goes",
    "sparsellm": "sparsellm: whole MLPs together",
    "reconstruct": "reconstruct: by gradient steps",
}
UNITS = (("all", "heads and neurons"), ("neuron", "neurons"), ("head", "heads"))


def layout(data: RunData, state: State) -> list[Any]:
    return [
        controls(
            select("score", "Score", data.scores_there(), state.score, help_="lowest goes first"),
            select("allocation", "Allocation", tuple(ALLOCATIONS), state.allocation, help_="how much from which block"),
            select(
                "compensation", "Compensation", [(name, COMPENSATED[name]) for name in COMPENSATIONS],
                state.compensation, help_="how what stays makes up for it",
            ),
            segments("units", "What may go", UNITS, state.units),
            slider("sparsity", "Sparsity (share of their parameters)", state.sparsity, low=0.0, high=0.8, step=0.01),
        ),
        words("plan"),
        dmc.Grid(
            [
                dmc.GridCol(dmc.Stack([panel("planned"), panel("threshold")]), span={"base": 12, "lg": 8}),
                dmc.GridCol(
                    dmc.Stack(
                        [
                            box("Measured", words("measured")),
                            box("Take it with you", words("take")),
                            box(
                                "By hand",
                                text_input(
                                    "edit", "Units that go (-) or stay (+)", state.edit,
                                    placeholder="-neuron.3.17,+neuron.0.4", help_="names, with commas between them",
                                ),
                            ),
                        ]
                    ), span={"base": 12, "lg": 4},
                ),
            ]
        ),
    ]  # fmt: skip


def job() -> Any:
    """The button that really prunes. It stays when the page changes, and so does its job."""
    return box(
        "Prune for real",
        dmc.Text(
            "Prunes and evaluates in the background; the mask, the checkpoint and the report are kept in the run.",
            size="sm",
        ),
        dmc.Group(
            [
                dmc.Button("Prune and evaluate", id="prune"),
                dmc.Button("Cancel", id="cancel", disabled=True, color="red"),
            ],
            my="sm",
        ),
        dmc.Progress(id="progress", value=0, **{"aria-label": "progress"}),
        html.Div(id="stage", **{"aria-live": "polite"}),
    )  # fmt: skip


def choice(state: State) -> Cut:
    return Cut(state.allocation, state.units)  # type: ignore[arg-type]  # the state has checked it


def planned_mask(data: RunData, state: State) -> Mask:
    """What would go.

    Raises:
        GraphpruneError: the scores don't cover the units, or the sparsity is out of reach.
    """
    known = Made(data.score_stamp(state.score), (data.model(), data.scores(state.score)))
    mask = _cut(known, state.sparsity, choice(state))
    return data.edited(mask, state.edit) if state.edit else mask


@once(maxsize=64)
def _cut(known: Made[tuple[Model, Scores]], sparsity: float, chosen: Cut) -> Mask:
    return cut(*known.value, sparsity, chosen)


def planned(data: RunData, state: State) -> go.Figure:
    mask = planned_mask(data, state)
    return plots.anatomy(
        data.units(), scores=data.scores(state.score), mask=mask, selected=state.unit, origin=data.name(),
        title=f"What {state.sparsity:.0%} by {state.score} removes",
    )  # fmt: skip


def threshold(data: RunData, state: State) -> go.Figure:
    scores, mask = data.scores(state.score), planned_mask(data, state)
    group = ".".join(state.unit.split(".")[:2]) if state.unit else ""
    groups = [group] if group in mask.keep and group in scores.values else [
        name for name in scores.values if name.split(".")[0] in kinds_of(choice(state), scores.kinds)
    ]  # fmt: skip
    return plots.kept_and_removed(scores, mask, groups)


def plan(data: RunData, state: State) -> Any:
    model, mask = data.model(), planned_mask(data, state)
    facts = removed(model, mask, kinds_of(choice(state), data.scores(state.score).kinds))
    gone = facts["units_removed"]
    left = model.n_parameters - facts["n_params_removed"]
    cards = [
        number("parameters that stay", f"{left:,}", f"of {model.n_parameters:,}"),
        number("parameters saved", f"{facts['n_params_removed']:,}", f"{facts['params_removed']:.1%} of the model"),
        number("sparsity", f"{facts['sparsity']:.2%}", "exact to one unit"),
        number("neurons that go", f"{gone.get(NEURON, 0):,}"),
        number("heads that go", f"{gone.get(HEAD, 0):,}"),
        number("predicted perplexity", *data.predicted(state.allocation, state.sparsity)),
    ]
    return numbers(*cards)


def label(state: State) -> str:
    """What the mask, the checkpoint and the report are called."""
    parts = (state.score, f"{state.sparsity:g}", state.allocation, state.compensation, state.units)
    return "-".join(part for part in parts if part not in {"none", "all"})


def commands(data: RunData, state: State) -> dict[str, list[str]]:
    """The commands that the button runs, by what they are for."""
    source = str(data.manifest()["model"].get("folder") or data.name())
    prune = ["prune", source, "--scores", str(data.score_path(state.score)), "--sparsity", f"{state.sparsity:g}"]
    prune += ["--allocation", state.allocation, "--compensation", state.compensation, "--units", state.units]
    prune += ["-o", str(data.folder), "--name", label(state)]
    if state.compensation != "none":
        prune += ["--calibration", str(data.calibration), *SAMPLED]
    judge = ["--text", str(data.text), "--seq-len", "256", "--max-windows", "10", "-o", str(data.folder)]
    checkpoint = str(data.folder / "models" / label(state))
    return {
        "prune": prune,
        "evaluate": ["evaluate", checkpoint, *judge, "--name", label(state)],
        "dense": ["evaluate", source, *judge, "--name", DENSE],
    }


SAMPLED = ("--n-samples", "32", "--seq-len", "256")
DENSE = "dense"


def measured(data: RunData, state: State) -> Any:
    """The report on the chosen mask, beside the dense model and what was predicted."""
    there = data.evaluations_there()
    if state.mask not in there:
        return dmc.Text("Nothing has been measured for this yet.", size="sm", className="quiet")
    report = data.evaluation(state.mask)
    rows = [["perplexity", f"{report['perplexity']:.2f}"], ["parameters", f"{report['params']:,}"]]
    rows += [["checkpoint", f"{report['checkpoint_bytes'] / 1e6:.1f} MB"], ["tokens read", f"{report['tokens']:,}"]]
    if DENSE in there:
        rows.insert(0, ["perplexity, dense", f"{data.evaluation(DENSE)['perplexity']:.2f}"])
    predicted, interval = data.predicted(state.allocation, state.sparsity)
    rows.insert(0, ["perplexity, predicted", predicted if predicted == UNKNOWN else f"{predicted} ({interval})"])
    return table(("of", "value"), rows, label=f"{state.mask}; lower perplexity is better")


def take(data: RunData, state: State) -> Any:
    command = "graphprune " + shlex.join(commands(data, state)["prune"])
    return [
        dmc.Text("The command that repeats it:", size="sm"),
        html.Pre(command, className="command", tabIndex="0"),
        *([note("Changes by hand are in the mask only.", colour="yellow")] if state.edit else []),
        html.A(f"Download the mask {label(state)}", href=f"/mask.safetensors{state.query()}", id="mask-link"),
    ]


FIGURES = {"planned": planned, "threshold": threshold}
TEXTS = {"plan": plan, "measured": measured, "take": take}
TABLES: dict[str, Any] = {}

"""Pruning: what a score, an allocation and a sparsity would remove, at once; and the same for real."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
import torch
from dash import html

from graphprune import plots
from graphprune.allocation import ALLOCATIONS
from graphprune.centrality.pagerank import pagerank
from graphprune.centrality.path_mass import total_path_mass
from graphprune.comparison.percolation import kept_credit
from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.methods import COMPENSATIONS, Cut
from graphprune.models.model import Model
from graphprune.pruning import cut, kinds_of
from graphprune.surgery.removed import removed

from .data import EDITED, RunData
from .editing import Region, below, enclosed
from .kept import Made, once
from .parts import box, controls, note, number, numbers, panel, segments, select, slider, table, text_input, words
from .state import State

TITLE = "Prune"
UNKNOWN = "not predicted"
COMPENSATED = {
    "none": "none: what stays is left as it is",
    "obs": "obs: refit by least squares",
    "bias": "bias: add the mean of what goes",
    "sparsellm": "sparsellm: whole MLPs together",
    "reconstruct": "reconstruct: by gradient steps",
}
UNITS = (("all", "heads and neurons"), ("neuron", "neurons"), ("head", "heads"))
HEADS = (("group", "as whole groups"), ("balanced", "one of every group"))


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
            segments("heads", "Heads go (a group shares keys and values)", HEADS, state.heads),
            slider("sparsity", "Sparsity (share of their parameters)", state.sparsity, low=0.0, high=0.8, step=0.01),
        ),
        words("plan"),
        words("remains"),
        dmc.Grid(
            [
                dmc.GridCol(
                    dmc.Stack([panel("planned"), panel("divided"), panel("threshold")]), span={"base": 12, "lg": 8}
                ),
                dmc.GridCol(
                    dmc.Stack(
                        [
                            box("Measured", words("measured")),
                            box("Take it with you", words("take")),
                            box("By hand", *_by_hand(data, state)),
                        ]
                    ), span={"base": 12, "lg": 4},
                ),
            ]
        ),
    ]  # fmt: skip


def _by_hand(data: RunData, state: State) -> list[Any]:
    """Controls that change the mask: what is drawn around in the figure, a threshold, or names."""
    return [
        select("against", "The figure's vertical score", data.scores_there(), state.against),
        dmc.Text(
            "Draw a box or a lasso in the figure, or give a threshold of the score; then choose what happens to those "
            f"units. The mask is kept in the run as {EDITED}NAME, and pruned for real like any other.",
            size="sm", className="quiet", my="xs",
        ),
        dmc.Group(
            [
                dmc.Button("Remove what is drawn around", id={"edit": "remove"}, size="compact-sm", variant="light"),
                dmc.Button("Keep what is drawn around", id={"edit": "keep"}, size="compact-sm", variant="light"),
            ], gap="xs",
        ),
        dmc.Group(
            [
                dmc.NumberInput(id="cut", label=f"Threshold of {state.score}", miw=150, hideControls=True),
                dmc.Button("Remove what scores less", id={"edit": "below"}, size="compact-sm", variant="light"),
            ], gap="xs", align="end", my="xs",
        ),
        text_input(
            "edit", "Units that go (-) or stay (+)", state.edit, placeholder="-neuron.3.17,+neuron.0.4",
            help_="names, with commas between them",
        ),
        dmc.Button("Keep these changes", id={"edit": "names"}, size="compact-sm", variant="light", my="xs"),
        html.Div(id="edit-said", **{"aria-live": "polite"}),
        select("edited", "Edited mask", edited_there(data), state.edited, help_="instead of the plan", clearable=True),
    ]  # fmt: skip


def edited_there(data: RunData) -> list[str]:
    """The run's masks that were changed by hand."""
    return [name for name in data.masks_there() if name.startswith(EDITED)]


def changed_by_hand(data: RunData, state: State, how: str, drawn: Mapping[str, Any] | None, cut_at: Any) -> State:
    """The state that shows the plan, or the edited mask, as changed and kept in the run.

    Raises:
        InputError: nothing was chosen to be changed, or what is left can't run.
    """
    mask = planned_mask(data, state)
    if how == "names":
        if not state.edit:
            raise InputError("name units that go or stay first")
        return replace(state, edited=data.keep_edited(mask, state.edited or label(state)), edit="")
    if how == "below":
        if not isinstance(cut_at, int | float):
            raise InputError("give a threshold first: the score below which units go")
        chosen = below(float(cut_at), data.scores(state.score), _groups(data, state))
    else:
        a, b = data.scores(state.score), data.scores(state.against or state.score)
        chosen = enclosed(Region.parse(drawn), a, b, _groups(data, state))
    keep = dict(mask.keep)
    for group, units in chosen.items():
        keep[group] = keep[group] | units if how == "keep" else keep[group] & ~units
    name = data.keep_edited(data.changed(mask, keep), state.edited or label(state))
    return replace(state, edited=name, edit="")


def _groups(data: RunData, state: State) -> list[str]:
    """The groups that may be pruned, and that both scores have."""
    a, b = data.scores(state.score), data.scores(state.against or state.score)
    kinds = kinds_of(choice(state), a.kinds)
    return [name for name in a.values if name.split(".")[0] in kinds and name in b.values]


def divided(data: RunData, state: State) -> go.Figure:
    names = (state.score, state.against or state.score)
    x, y = (data.scores(name) for name in names)
    return plots.kept_scatter(x, y, planned_mask(data, state), _groups(data, state), labels=names)


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
    return Cut(state.allocation, state.units, state.heads)  # type: ignore[arg-type]  # the state has checked them


def planned_mask(data: RunData, state: State) -> Mask:
    """What would go: by the plan, or by an edited mask; with the changes by name that aren't kept yet.

    Raises:
        GraphpruneError: the scores don't cover the units, or the sparsity is out of reach.
    """
    if state.edited:
        mask = data.mask(state.edited)
        return data.edited(mask, state.edit) if state.edit else mask
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
        title=f"What {state.edited or f'{state.sparsity:.0%} by {state.score}'} removes",
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
        number("predicted perplexity", *foretold(data, mask)),
    ]
    return numbers(*cards)


def remains(data: RunData, state: State) -> Any:
    """What the mask leaves of the graph."""
    made, mask = data.graph_made(), planned_mask(data, state)
    dense = _dense(made)
    left = made.value.masked(mask)
    share = kept_credit(made.value, dense.credit, left.in_caller_order(left.indicator()))
    weight = exp(total_path_mass(left, dense.inputs, dense.outputs) - dense.paths)
    shown = f"{weight:.2%}" if weight >= 0.001 else f"{weight:.1e}"
    return numbers(
        number("paths that stay", shown, "of the weight of all, input to output"),
        number("credit that stays", f"{share:.2%}", "of what the outputs owe to heads and neurons"),
    )


@dataclass(frozen=True)
class Dense:
    """What is asked of the dense graph again and again.

    Attributes:
        inputs: the nodes that no weight reaches.
        outputs: the nodes that no weight leaves.
        paths: the log of the weight of all paths from the ones to the others.
        credit: of its nodes.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    paths: float
    credit: torch.Tensor


@once(maxsize=2)
def _dense(made: Made[ModelGraph]) -> Dense:
    """Of a graph.

    Raises:
        InputError: its weights are signed.
    """
    graph = made.value
    if graph.weight == "signed":
        raise InputError("what remains of the graph needs weights without a sign; export another graph")
    inputs, outputs = (
        graph.in_caller_order((far == 0).to(graph.dtype)) for far in (graph.in_strength, graph.out_strength)
    )
    credit = pagerank(graph, direction="backward", personalization=outputs).scores
    return Dense(inputs, outputs, total_path_mass(graph, inputs, outputs), credit)


def foretold(data: RunData, mask: Mask) -> tuple[str, str]:
    """The perplexity that the run's predictor expects, and its interval or why there is none."""
    try:
        found = data.predicted(mask)
    except (GraphpruneError, ValueError) as error:
        return UNKNOWN, str(error)
    if found is None:
        return UNKNOWN, "`graphprune search` measures masks to predict from"
    interval = f"{found.low:.2f} to {found.high:.2f} (90 %)"
    if found.beyond:
        interval = f"extrapolated, without an interval: {found.beyond};"
    made = f"if pruned like the {found.pairs} masks it is from: {found.made}"
    return f"{found.value:.2f}", f"{interval} on {found.text}, {made}"


def label(state: State) -> str:
    """What the mask, the checkpoint and the report are called."""
    if state.edited:
        return state.edited
    parts = (state.score, f"{state.sparsity:g}", state.allocation, state.compensation, state.units, state.heads)
    return "-".join(part for part in parts if part not in {"none", "all", "group"})


def commands(data: RunData, state: State) -> dict[str, list[str]]:
    """The commands that the button runs, by what they are for."""
    source = data.source()
    prune = ["prune", source, "--scores", str(data.score_path(state.score)), "--sparsity", f"{state.sparsity:g}"]
    prune += ["--allocation", state.allocation, "--compensation", state.compensation, "--units", state.units]
    prune += ["--head-mode", state.heads]
    prune += ["-o", str(data.folder), "--name", label(state)]
    if state.compensation != "none":
        read = data.calibrating()
        prune += ["--calibration", str(read.text), "--n-samples", str(read.windows), "--seq-len", str(read.seq_len)]
        prune += ["--seed", str(read.seed)]
    if state.edited:
        mask = str(data.mask_path(state.edited))
        prune = ["mask", "apply", source, mask, "-o", str(data.folder), "--name", state.edited]
    read = data.judging()
    judge = ["--text", str(read.text), "--seq-len", str(read.seq_len), "--max-windows", str(read.windows)]
    judge += ["--leave-out", *map(str, read.leave_out)] if read.leave_out else []
    judge += ["-o", str(data.folder)]
    checkpoint = str(data.folder / "models" / label(state))
    return {
        "prune": prune,
        "evaluate": ["evaluate", checkpoint, *judge, "--name", label(state)],
        "dense": ["evaluate", source, *judge, "--name", DENSE],
    }


DENSE = "dense"


def measured(data: RunData, state: State) -> Any:
    """The report on the chosen mask, beside the dense model and what was predicted."""
    there = data.evaluations_there()
    if state.mask not in there:
        return dmc.Text("Nothing has been measured for this yet.", size="sm", className="quiet")
    report, model, mask = data.evaluation(state.mask), data.model(), data.mask(state.mask)
    stay = model.n_parameters - removed(model, mask, kinds_of(Cut(), model.units.kinds))["n_params_removed"]
    predicted, interval = foretold(data, mask)
    rows = [["perplexity, predicted", predicted if predicted == UNKNOWN else f"{predicted} ({interval})"]]
    rows.append(["perplexity, measured", f"{report['perplexity']:.2f}"])
    if DENSE in there:
        rows.append(["perplexity, dense", f"{data.evaluation(DENSE)['perplexity']:.2f}"])
    rows.append(["parameters that stay", f"{stay:,}"])
    if report["params"] > stay:
        rows.append(["parameters in the checkpoint, padded with zeros to equal widths", f"{report['params']:,}"])
    rows += [["checkpoint", f"{report['checkpoint_bytes'] / 1e6:.1f} MB"], ["tokens read", f"{report['tokens']:,}"]]
    return table(("of", "value"), rows, label=f"{state.mask}; lower perplexity is better")


def take(data: RunData, state: State) -> Any:
    command = "graphprune " + shlex.join(commands(data, state)["prune"])
    return [
        dmc.Text("The command that repeats it:", size="sm"),
        html.Pre(command, className="command", tabIndex="0"),
        *([note("Changes by name are pruned once they are kept.", colour="yellow")] if state.edit else []),
        *([note("An edited mask is cut as it is, without compensation.")] if state.edited else []),
        dmc.List(
            [
                dmc.ListItem(html.A(f"Download the {what} {label(state)}", href=f"{path}{state.query()}"))
                for what, path in (("mask", "/mask.safetensors"), ("recipe", "/recipe.json"), ("commands", "/prune.sh"))
            ],
            size="sm",
        ),
    ]


def recipe(data: RunData, state: State) -> dict[str, Any]:
    """All that the mask depends on, and the commands that repeat it."""
    facts = data.manifest()["model"]
    mask = planned_mask(data, state)
    return {
        "model": {name: facts.get(name) for name in ("name", "folder", "identity")},
        "mask": {"name": label(state), "method": mask.method, "options": dict(mask.options)},
        "choices": {name: getattr(state, name) for name in CHOICES},
        "commands": {name: ["graphprune", *words] for name, words in commands(data, state).items()},
    }


CHOICES = ("score", "sparsity", "allocation", "compensation", "units", "heads", "edit", "edited")
FIGURES = {"divided": divided, "planned": planned, "threshold": threshold}
TEXTS = {"plan": plan, "remains": remains, "measured": measured, "take": take}
TABLES: dict[str, Any] = {}

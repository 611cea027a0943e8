"""The overview: the model as a picture, what lies in the run, and what has been done."""

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go

from graphprune import plots
from graphprune.core.errors import GraphpruneError, InputError

from .data import RunData
from .parts import box, controls, note, number, numbers, panel, select, table, words
from .state import State

TITLE = "Overview"


def layout(data: RunData, state: State) -> list[Any]:
    return [
        controls(*score_and_mask(data, state)),
        words("facts"),
        dmc.Grid(
            [
                dmc.GridCol(dmc.Stack([panel("anatomy"), panel("removed")]), span={"base": 12, "lg": 8}),
                dmc.GridCol(box("In this run folder", words("contents")), span={"base": 12, "lg": 4}),
            ]
        ),
    ]


def score_and_mask(data: RunData, state: State) -> list[Any]:
    """The two choices that most pages share."""
    scores, masks = data.scores_there(), data.masks_there()
    return [
        select("score", "Colour by score", scores, state.score, help_="higher = keep"),
        select("mask", "Mask", masks, state.mask, help_="hatched: what it removes", clearable=True),
    ]


def anatomy(data: RunData, state: State) -> go.Figure:
    scores = data.scores(state.score) if data.scores_there() else None
    mask = data.mask(state.mask) if state.mask else None
    return plots.anatomy(data.units(), scores=scores, mask=mask, selected=state.unit, origin=data.name())


def removed(data: RunData, state: State) -> go.Figure:
    chosen = [name for name in (state.mask, state.beside) if name] or data.masks_there()[:3]
    if not chosen:
        raise InputError("this run has no masks yet; the page Prune makes one")
    return plots.removed({name: data.mask(name) for name in chosen})


def facts(data: RunData, state: State) -> Any:  # noqa: ARG001 - all texts are written from the state
    manifest = data.manifest()
    model, graph = manifest["model"], manifest.get("steps", {}).get("export", {}).get("result", {})
    cards = [
        number("model", str(model.get("name", "unnamed")), str(model.get("model_type", ""))),
        number("parameters", f"{model.get('n_parameters', 0):,}"),
        number("blocks", f"{model.get('n_layers', 0):,}", "each an attention and an MLP"),
        number("graph", _counted(graph, "nodes"), f"{_counted(graph, 'edges')} edges" if graph else "none exported"),
        number("scores", str(len(data.scores_there())), "files, one for each scorer"),
        number("masks", str(len(data.masks_there())), "True = stays"),
    ]
    return numbers(*cards)


def _counted(graph: Mapping[str, Any], what: str) -> str:
    return f"{graph[what]:,}" if what in graph else "none"


def contents(data: RunData, state: State) -> Any:  # noqa: ARG001 - likewise
    hints = []
    if data.unfinished():
        hints.append(
            note("A step of this run was stopped. The same command goes on where it stopped.", colour="yellow")
        )
    if not data.scores_there():
        hints.append(note(f"No scores yet: `graphprune score MODEL --scorer magnitude -o {data.folder}`."))
    rows = [[name, *_pruned(data, name)] for name in data.masks_there()]
    steps = [[name, f"{step.get('result', {}).get('seconds', 0):.1f} s"] for name, step in data.steps().items()]
    return [
        *hints,
        *([table(("mask", "sparsity", "parameters gone"), rows, label="masks")] if rows else []),
        table(("step", "took"), steps[-14:], label="what has been done, the last steps") if steps else None,
        dmc.Text(str(data.folder), size="xs", className="quiet", mt="sm"),
    ]


def _pruned(data: RunData, name: str) -> tuple[str, str]:
    """How much a mask removes, as the step that made it said, else as the mask says."""
    result = data.steps().get(f"prune {name}", {}).get("result", {})
    if "sparsity" in result:
        return f"{result['sparsity']:.1%}", f"{result['params_removed']:.1%}"
    try:
        units = data.units()
        return f"{data.mask(name).removed_parameters(units) / units.prunable_parameters():.1%}", ""
    except GraphpruneError:
        return "damaged", ""


FIGURES = {"anatomy": anatomy, "removed": removed}
TEXTS = {"facts": facts, "contents": contents}
TABLES: dict[str, Any] = {}

"""What a run folder knows: tables and figures, each with the files it comes from, and what is missing."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphprune import plots
from graphprune.core.graph_store import load_graph
from graphprune.core.io import read_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.reporting.comparisons import add_comparisons
from graphprune.reporting.source import FILE, STEP, Figure, Missing, Row, Source, Table, as_text

MOST_SCORES = 24  # in one figure
PATHS = ("mask", "checkpoint", "pairs", "search")  # of a search, which are shown elsewhere


@dataclass(frozen=True)
class Content:
    """Everything a report says.

    Attributes:
        model: its name.
        folder: the run folder.
        parts: tables and figures, in the order of the page.
        missing: what the run folder doesn't have.
    """

    model: str
    folder: Path
    parts: tuple[Table | Figure, ...]
    missing: tuple[Missing, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(part for part in self.parts if isinstance(part, Table))

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(part for part in self.parts if isinstance(part, Figure))

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "model": self.model,
            "run": str(self.folder),
            "tables": {table.name: list(table.rows) for table in self.tables},
            "figures": [
                {"name": f.name, "title": f.title, "caption": f.caption, "files": list(f.files)} for f in self.figures
            ],
            "missing": [{"what": missing.what, "command": missing.command} for missing in self.missing],
        }


def gather(run: Run) -> Content:
    """What a run folder has to report.

    Raises:
        FormatError: one of its files is damaged.
    """
    source = Source.of(run)
    _model(source)
    scores = _scores(source)
    _agreement(source, scores)
    masks = _masks(source)
    _quality(source, masks)
    _searches(source)
    _predictions(source)
    add_comparisons(source)
    _steps(source)
    return Content(source.model, run.folder, tuple(source.parts), tuple(source.missing))


def _model(source: Source) -> None:
    facts = {name: value for name, value in source.about.items() if isinstance(value, str | int | float)}
    facts |= {f"version of {name}": value for name, value in source.manifest.get("versions", {}).items()}
    rows = [{"fact": name, "value": value, FILE: "manifest.json", STEP: ""} for name, value in facts.items()]
    caption = "The dense network that everything below is about. `identity` is a hash of its configuration and weights."
    source.table("model", "The model", caption, rows)
    export = source.result("export")
    if not export:
        source.lacks("the graph of the model", "export MODEL -o RUN")
        return
    row = {name: export.get(name) for name in ("nodes", "edges", "level", "weight", "bytes", "seconds")}
    caption = (
        "The network as a directed acyclic graph. Nodes are its activations (the residual stream, heads, neurons), "
        "edges the entries of its weight matrices; `weight` says what an edge weighs."
    )
    source.table("graph", "Its graph", caption, [row | {FILE: "graph/manifest.json", STEP: "export"}])


def _scores(source: Source) -> dict[Path, Scores]:
    found = {path: Scores.load(path) for path in source.files("scores", "*.safetensors")}
    rows = []
    for path, scores in found.items():
        values = torch.cat([row for name, row in scores.values.items() if name.split(".")[0] in {HEAD, NEURON}] or
                           list(scores.values.values()))  # fmt: skip
        rows.append({
            "scores": path.stem, "scorer": scores.method, "options": as_text(scores.options),
            "units": ", ".join(scores.kinds), "number": len(values), "lowest": float(values.min()),
            "median": float(values.median()), "highest": float(values.max()), FILE: source.place(path),
            STEP: source.step_of(path),
        })  # fmt: skip
    caption = (
        "How much each attention head and each neuron matters, by every scorer or centrality that was run; higher = "
        "keep. Scales differ from scorer to scorer: only the order of the units counts. Lowest, median and highest are "
        "over heads and neurons where there are any."
    )
    source.table("scores", "Scores", caption, rows)
    if not rows:
        source.lacks("scores", "score MODEL --scorer wanda -o RUN --calibration FILE")
    return found


def _agreement(source: Source, scores: Mapping[Path, Scores]) -> None:
    chosen = {path.stem: each for path, each in scores.items() if {HEAD, NEURON} & set(each.kinds)}
    files = [path for path in scores if path.stem in chosen]
    if len(chosen) < 2:
        source.lacks("two scores to compare", "score MODEL --scorer magnitude -o RUN")
        return
    if not (source.run.graph_folder / "manifest.json").is_file():
        return
    if len(chosen) > MOST_SCORES:
        chosen = dict([*chosen.items()][:MOST_SCORES])
    title = "Do the scorers rank the units alike?"
    caption = (
        "Spearman's rank correlation of the scores of the units that all scorers know: 1 for the same order, 0 for "
        "unrelated orders, -1 for the opposite. Similar scorers stand beside each other. Blank: a scorer says the same "
        "of all units."
    )
    figure = source.figure(
        "agreement", title, caption, files,
        lambda: plots.agreement(load_graph(source.run.graph_folder), chosen, title=title),
    )  # fmt: skip
    if figure is None:
        return
    (cells,) = figure.data
    rows = [
        {"scores": str(one), "with": str(other), "spearman": _number(cells.z[i][j]), FILE: f"scores/{one}.safetensors",
         STEP: source.step_of(source.run.scores_path(str(one)))}
        for i, one in enumerate(cells.y) for j, other in enumerate(cells.x) if i < j
    ]  # fmt: skip
    source.table("agreement", "The same in numbers", "The correlations of the figure above, a pair a line.", rows)


def _masks(source: Source) -> dict[str, Row]:
    """The masks' rows, by label."""
    files = source.files("masks", "*.safetensors")
    masks = {path.stem: Mask.load(path) for path in files}
    rows = {}
    for path in files:
        mask, step = masks[path.stem], source.step_of(path)
        result = source.result(step)
        facts = {name: result.get(name) for name in ("sparsity", "params_removed", "rung", "checkpoint_params")}
        allocation, compensation = (result.get(n) or mask.options.get(n) for n in ("allocation", "compensation"))
        rows[path.stem] = {
            "mask": path.stem, "made by": mask.method, "allocation": allocation, "compensation": compensation,
            "heads removed": _gone(mask, HEAD), "neurons removed": _gone(mask, NEURON),
            "weights removed": sum(int((~keep).sum()) for keep in mask.weights.values()), **facts,
            "max_difference": result.get("max_difference"), FILE: source.place(path), STEP: step,
        }  # fmt: skip
    caption = (
        "What was removed. `sparsity` is the share of the prunable parameters (those of heads and neurons in the "
        "blocks), `params_removed` the share of all. `rung` is the shape of the checkpoint: `uniform` and `padded` are "
        "smaller, `masked` has zeros in place; `max_difference` is how far its logits were from those of the zeroed "
        "model when it was loaded again. Empty: the step that wrote the mask doesn't say."
    )
    source.table("masks", "Masks and checkpoints", caption, [*rows.values()])
    if not files:
        source.lacks("a mask", "prune MODEL --method wanda --sparsity 0.2 -o RUN --calibration FILE")
        return {}
    title = "Where the masks remove units"
    caption = (
        "A row is a mask, a column is a block of the network (0 is the first), a cell is the share of the block's "
        "attention heads (left) or neurons (right) that goes."
    )
    source.figure("removed", title, caption, files, lambda: plots.removed(masks, title=title))
    blocks = [
        {"mask": label, "units": name, "removed": int((~keep).sum()), "of": keep.numel(),
         FILE: f"masks/{label}.safetensors", STEP: rows[label][STEP]}
        for label, mask in masks.items() for name, keep in mask.keep.items() if name.startswith((HEAD, NEURON))
    ]  # fmt: skip
    source.table("removed", "The same in numbers", "Units that go, by mask, kind and block.", blocks)
    return rows


def _gone(mask: Mask, kind: str) -> int:
    return sum(int((~keep).sum()) for name, keep in mask.keep.items() if name.startswith(f"{kind}."))


def _quality(source: Source, masks: Mapping[str, Row]) -> None:
    rows: list[Row] = []
    for path in source.files("evaluations", "*.json"):
        facts = read_json(path)
        of_dense = facts.get("identity") == source.about["identity"]
        label = Path(str(facts.get("model", ""))).name
        label = label if label in masks else path.stem if path.stem in masks else ""
        rows.append({
            "evaluation": path.stem, "mask": "none: the dense model" if of_dense else label,
            "sparsity": 0.0 if of_dense else masks.get(label, {}).get("sparsity"),
            **{name: facts.get(name) for name in (
                "perplexity", "accuracy", "windows", "tokens", "params", "nonzero_params", "checkpoint_bytes"
            )},
            "text": str(facts.get("text", ""))[:12], FILE: source.place(path), STEP: "evaluate",
        })  # fmt: skip
    rows = [{name: value for name, value in row.items() if not _is_empty_in(rows, name)} for row in rows]
    caption = (
        "Quality and size. `perplexity` is the exponential of the mean loss a token, lower = better; it can be "
        "compared only on the same text (`text` is the beginning of its hash) and the same number of windows. `params` "
        "are parameters, tied ones counted once, `nonzero_params` those that aren't zero."
    )
    source.table("evaluations", "Evaluations", caption, rows)
    evaluated = {row["mask"] for row in rows}
    if "none: the dense model" not in evaluated:
        source.lacks("an evaluation of the dense model", "evaluate MODEL --text FILE -o RUN --name dense")
    left = [label for label in masks if label not in evaluated and source.run.model_folder(label).is_dir()]
    if left:
        what = f"evaluations of {len(left)} checkpoint{'s' * (len(left) > 1)}: {', '.join(left)}"
        source.lacks(what, f"evaluate RUN/models/{shlex.quote(left[0])} --text FILE -o RUN")
    for unit in ("perplexity", "accuracy"):
        for text in dict.fromkeys(row["text"] for row in rows if row.get(unit) is not None):
            _cost(source, masks, [row for row in rows if row["text"] == text and row.get(unit) is not None], unit, text)


def _is_empty_in(rows: Sequence[Row], column: str) -> bool:
    return all(row[column] is None for row in rows)


def _cost(source: Source, masks: Mapping[str, Row], rows: Sequence[Row], unit: str, text: str) -> None:
    """Quality over sparsity, of models that were evaluated on the same text."""
    pruned = [row for row in rows if row["mask"] in masks and row["sparsity"] is not None]
    if not pruned:
        return
    dense = next((row[unit] for row in rows if row["mask"] not in masks and row["sparsity"] == 0), None)
    points = [plots.Point(row["evaluation"], _method(masks[row["mask"]]), row["sparsity"], row[unit]) for row in pruned]
    title = "What pruning costs"
    better = "lower" if unit == "perplexity" else "higher"
    caption = (
        f"The {unit} ({better} is better) of every pruned model that was evaluated on the text {text}, over the share "
        "of the prunable parameters that was removed. Models pruned in the same way are joined by a line."
        + (" The dashed line is the dense model." if dense is not None else "")
    )
    files = [source.run.folder / row[FILE] for row in rows] + [source.run.mask_path(row["mask"]) for row in pruned]
    source.figure(
        f"cost-{unit}-{text}", title, caption, [*dict.fromkeys(files)],
        lambda: plots.quality(points, dense=dense, unit=unit, title=title),
    )  # fmt: skip


def _method(row: Row) -> str:
    parts = [row["made by"], *(row[name] for name in ("allocation", "compensation") if row[name] not in {None, "none"})]
    return ", ".join(parts)


def _searches(source: Source) -> None:
    for path in source.files("searches", "*.json"):
        found, step = read_json(path), source.step_of(path)
        plain = {name: x for name, x in found.items() if isinstance(x, str | int | float) and name not in PATHS}
        row = plain | {FILE: source.place(path), STEP: step}
        caption = (
            "The allocation (how much goes from which block) that a search found best, among candidates that were "
            "really pruned and evaluated. The column named like a text is the quality that was searched for, on it."
        )
        source.table(f"search-{path.stem}", f"Search: {path.stem}", caption, [row])
        compared = [each | {FILE: source.place(path), STEP: step} for each in found.get("compared", [])]
        caption = "The same budget by other allocations, and by random search with as many evaluations."
        source.table(f"search-{path.stem}-compared", "Compared with", caption, compared)
        if checked := found.get("predicted_then_measured"):
            title = "What the search's predictor said, and what was measured then"
            caption = "A point is a candidate; the bar is the predictor's interval; on the grey line it was right."
            source.figure(
                f"search-{path.stem}-predicted", title, caption, [path],
                partial(plots.predicted_and_measured, checked, title=title),
            )  # fmt: skip
    if not source.files("searches", "*.json"):
        source.lacks("a searched allocation", "search MODEL --sparsity 0.2 -o RUN --calibration FILE")


def _predictions(source: Source) -> None:
    for path in source.files("predictions", "*.json"):
        found = read_json(path)
        end = {FILE: source.place(path), STEP: "predict"}
        for name, title, caption in (
            ("held_out", "How good the predictor is", "Predicted against measured damage, on pairs it hasn't seen."),
            ("kinds", "Kinds of predictor", "The same for every kind of predictor, on the same pairs."),
            ("predicted", "Predicted allocations", "What allocations would cost, with intervals; none was measured."),
        ):
            source.table(f"{path.stem}-{name}", title, caption, [row | end for row in found.get(name, [])])
        groups = {row["group"]: (row["importance"], row["sd"]) for row in found.get("importance", [])}
        title = "Which blocks matter to the predictor"
        caption = "How much worse it predicts when the sparsities of a block's attention or MLP are shuffled."
        if groups:
            source.figure(f"{path.stem}-importance", title, caption, [path], partial(plots.importance, groups))
        curve = {row["pairs"]: (row["spearman"], row["sd"]) for row in found.get("learning_curve", [])}
        title = "How many measured candidates the predictor needs"
        caption = "Rank correlation on pairs that were left out, over the number of pairs that it learned from."
        if curve:
            kind = str(found.get("kind", "predictor"))
            source.figure(
                f"{path.stem}-curve", title, caption, [path],
                partial(plots.learning_curve, {kind: curve}),
            )  # fmt: skip
    if source.files("pairs", "*.jsonl") and not source.files("predictions", "*.json"):
        source.lacks("what the search's pairs teach", "predict MODEL -o RUN")


def _steps(source: Source) -> None:
    rows = [
        {STEP: name, "seconds": step.get("result", {}).get("seconds"), "options": as_text(step.get("options", {})),
         "outputs": ", ".join(map(str, step.get("outputs", []))), FILE: "manifest.json"}
        for name, step in source.steps.items()
    ]  # fmt: skip
    caption = "Every step that has run in this folder, with its options, so that each can be repeated."
    source.table("steps", "Steps", caption, rows)


def _number(value: float) -> float | None:
    """None for what is no number."""
    return float(value) if value == value else None  # noqa: PLR0124 - NaN is the number that isn't itself

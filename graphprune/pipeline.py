"""The steps on a run folder, in order. Each finds its result again if it has run with the same inputs.

Options and paths are checked before a model is loaded or a text is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Int

from graphprune.calibration.forward import calibrate, calibration_rows, site_sizes
from graphprune.calibration.text import read_text
from graphprune.centrality import centrality as centrality_named
from graphprune.centrality.units import per_unit
from graphprune.core.errors import InputError
from graphprune.core.graph import Level, ModelGraph, Weight
from graphprune.core.graph_store import load_graph, read_graph_manifest
from graphprune.core.io import digest, file_digest, write_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.core.stats import CalibrationStats
from graphprune.evaluation.evaluate import evaluate
from graphprune.extraction.export import export, n_bytes
from graphprune.models.model import DTYPES, Model
from graphprune.pruning import PRESETS, Cut, Preset, check_compensation, cut, kinds_of
from graphprune.scorers import make_scorer, score, scorer_options
from graphprune.scorers.inputs import Scorer
from graphprune.solvers.sequential import Overlaid, repaired
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.cut import Plan


class Calibration:
    """Which text is read, how much of it, and where; hashed so that a step can be found again."""

    def __init__(
        self,
        text: Path | None,
        *,
        n_samples: int = 32,
        seq_len: int = 512,
        seed: int = 0,
        dtype: str | None = None,
        device: str = "cpu",
    ) -> None:
        if text is not None and not text.is_file():
            raise InputError(f"the text {text} is not there")
        if n_samples < 1 or seq_len < 2:
            raise InputError(f"calibration needs at least 1 sample of 2 tokens, not {n_samples} of {seq_len}")
        if not 0 <= seed < 1 << 63:
            raise InputError(f"the seed is a whole number from 0 to 2^63 - 1, not {seed}")
        self.text = text
        self.options: dict[str, Any] = {"n_samples": n_samples, "seq_len": seq_len, "seed": seed, "dtype": dtype}
        self.device = device

    def key(self) -> object:
        return None if self.text is None else {"text": file_digest(self.text), **self.options}

    def rows(self, model: Model) -> Int[torch.Tensor, "windows seq_len"]:
        """The windows of text.

        Raises:
            InputError: no text was given.
        """
        if self.text is None:
            raise InputError("this needs calibration; give --calibration FILE")
        sizes = {name: self.options[name] for name in ("n_samples", "seq_len", "seed")}
        return calibration_rows(model, self.text, **sizes)

    def stats(self, model: Model, run: Run) -> CalibrationStats:
        """The statistics, from the run folder if it has them.

        Raises:
            InputError: no text was given.
        """
        if self.text is None:
            raise InputError("this needs calibration; give --calibration FILE")
        path = run.stats_path(digest([model.identity, self.key()]))
        if path.is_file():
            return CalibrationStats.load(path, site_sizes(model), model.identity)
        if not model.is_perceptron:
            read_text(self.text)
        options = self.options | {"dtype": dtype_of(self.options["dtype"]), "device": self.device}
        stats = calibrate(model, self.text, **options)
        stats.save(path)
        return stats


def calibrated_scorer(name: str, options: Mapping[str, Any], calibration: Calibration) -> Scorer:
    """A scorer by name, once it is certain that it has all it needs.

    Raises:
        InputError: an unknown scorer or option, or no calibration text where one is needed.
    """
    scorer = make_scorer(name, **options)
    if scorer.needs_stats and calibration.text is None:
        raise InputError(f"the scorer {name} needs calibration; give --calibration FILE")
    return scorer


def dtype_of(name: str | None) -> Any:
    """A torch dtype by name; None is left to the model.

    Raises:
        InputError: the name is unknown.
    """
    if name is not None and name not in DTYPES:
        raise InputError(f"the dtype is one of {', '.join(DTYPES)}, not {name!r}")
    return None if name is None else DTYPES[name]


def open_run(folder: Path, model: Model) -> Run:
    """The run folder of a model, made if need be."""
    facts = {
        "name": model.name,
        "folder": None if model.folder is None else str(model.folder),
        "n_parameters": model.n_parameters,
        **model.architecture.facts(),
    }
    return Run.open(folder, identity=model.identity, facts=facts)


def export_step(
    model: Model, run: Run, *, level: Level = "channel", weight: Weight = "magnitude", calibration: Calibration
) -> dict[str, Any]:
    """Writes the model's graph to ``RUN/graph``."""
    needs = calibration.key() if weight == "activation" else None
    if weight == "activation" and needs is None:
        raise InputError("edge weights by activation need calibration; give --calibration FILE")
    options = {"level": level, "weight": weight, "calibration": needs}
    inputs = digest([model.identity, options])
    if (found := run.finished("export", inputs)) is not None:
        return found | {"found": True}
    with run.recording("export", inputs, options) as record:
        stats = calibration.stats(model, run) if weight == "activation" else None
        graph = export(model, level=level, weight=weight, stats=stats, folder=run.graph_folder, inputs=inputs)
        record.outputs.append(run.graph_folder / "manifest.json")
        record.result.update(
            nodes=graph.n_nodes, edges=graph.n_edges, graph=str(run.graph_folder), bytes=n_bytes(run.graph_folder),
            level=level, weight=weight,
        )  # fmt: skip
    return record.result


@dataclass(frozen=True)
class Repair:
    """How the survivors of a cut make up for what goes.

    Attributes:
        calibration: the text to repair with.
        compensation: `none`, or `obs` (least squares).
        damping: of the Hessians, as a share of their mean diagonal.
    """

    calibration: Calibration
    compensation: str = "none"
    damping: float = 0.01

    def check(self) -> None:
        """Checks all that can be checked without a model.

        Raises:
            InputError: an option is unknown or out of range, or there is no text to repair with.
        """
        check_compensation(self.compensation, self.damping)
        if self.compensation != "none" and self.calibration.text is None:
            raise InputError(f"the compensation {self.compensation} needs calibration; give --calibration FILE")

    def key(self) -> object:
        return None if self.compensation == "none" else [self.compensation, self.damping, self.calibration.key()]

    def of(self, model: Model, mask: Mask) -> Model:
        """The model with its readers of removed units repaired."""
        if self.compensation == "none":
            return model
        options = {"dtype": dtype_of(self.calibration.options["dtype"]), "device": self.calibration.device}
        weights = repaired(model, mask, self.calibration.rows(model), damping=self.damping, **options)
        return replace(model, parameters=Overlaid(model.parameters, weights))


@dataclass(frozen=True)
class Ranked:
    """Which graph is ranked: the run's, or a coarser or sparser one made of it.

    Attributes:
        level: take this coarser level first.
        top_k: keep each node's strongest incoming edges.
        share: keep the strongest edges that hold this share of the weight.
        device: where the edges are swept.
    """

    level: Level | None = None
    top_k: int | None = None
    share: float | None = None
    device: str = "cpu"

    def graph(self, run: Run) -> ModelGraph:
        graph = load_graph(run.graph_folder)
        if self.level is not None:
            graph = graph.quotient(self.level)
        if self.top_k is not None or self.share is not None:
            graph, _ = graph.sparsify(top_k=self.top_k, share=self.share)
        return graph.to(self.device)

    def key(self) -> list[Any]:
        return [self.level, self.top_k, self.share]


def rank_step(
    run: Run,
    *,
    centrality: str = "pagerank",
    name: str | None = None,
    top: int = 10,
    ranked: Ranked | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A centrality of ``RUN/graph``, by unit, to ``RUN/scores``.

    Raises:
        InputError: the centrality or an option is unknown, or the graph is not one it can rank.
    """
    ranked = ranked or Ranked()
    measure = centrality_named(centrality)
    settings = measure_options(centrality, options)
    manifest = read_graph_manifest(run.graph_folder)
    label = name or "-".join([centrality, *([str(options["direction"])] if "direction" in options else [])])
    made_of = [manifest["model"], manifest["level"], manifest["weight"], manifest["inputs"], ranked.key()]
    inputs = digest([made_of, centrality, settings])
    step = f"rank {label}"
    path = run.scores_path(label)
    if (found := run.finished(step, inputs)) is not None:
        return found | {"found": True, "top": _top(Scores.load(path).values, top)}
    with run.recording(step, inputs, settings) as record:
        try:
            graph = ranked.graph(run)
            result = measure(graph, **settings)
        except ValueError as error:
            raise InputError(str(error)) from error
        values = per_unit(graph, result)
        facts = settings | {"direction": result.direction, "normalisation": result.normalisation}
        Scores(values, centrality, facts, str(graph.model.get("identity", "")), inputs).save(path)
        record.outputs.append(path)
        record.result.update(
            centrality=centrality, scores=str(path), direction=result.direction, normalisation=result.normalisation,
            solver=result.solver, residual=result.residual,
        )  # fmt: skip
    return record.result | {"top": _top(values, top)}


def measure_options(centrality: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a centrality, checked for their names and types.

    Raises:
        InputError: it has no option of a name, or a value is of another type.
    """
    hints = get_type_hints(centrality_named(centrality))
    known = [name for name in hints if name not in {"graph", "return"}]
    checked = {}
    for option, value in options.items():
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"the centrality {centrality} has no option {option!r}; {has}")
        if not _fits(hints[option], value):
            raise InputError(f"the centrality {centrality}: {option} can't be {value!r}{_instead(hints[option])}")
        parts = _parts(hints[option])
        checked[option] = float(value) if type(value) is int and float in parts and int not in parts else value
    return checked


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _fits(hint: Any, value: object) -> bool:
    """Whether a value that JSON can express is of a type; a whole number may stand for a float."""
    if len(_parts(hint)) > 1:
        return any(_fits(part, value) for part in _parts(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in {int, float}
    return type(value) is hint


def _instead(hint: Any) -> str:
    """The values there are to choose from, if they are few."""
    names = [str(name) for part in _parts(hint) if get_origin(part) is Literal for name in get_args(part)]
    return f"; it is {' or '.join(names)}" if names else ""


def _top(values: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The highest-ranked heads, neurons and modules; ties by kind, layer and position."""
    entries = []
    for name in sorted(values, key=_place):
        scores = values[name]
        if name.startswith(("head.", "neuron.", "block.")):
            best, positions = scores.sort(descending=True, stable=True)
            entries += [
                {"unit": f"{name}.{i}" if len(scores) > 1 else name, "score": s}
                for s, i in zip(best[:n].tolist(), positions[:n].tolist(), strict=True)
            ]
    return sorted(entries, key=lambda entry: -entry["score"])[:n]


def _place(name: str) -> tuple[str, int, str]:
    """Kind, layer, and what is left of a group's name, to sort by."""
    kind, layer, *rest = name.split(".")
    return kind, int(layer), ".".join(rest)


def run_graph(run: Run) -> ModelGraph | None:
    """The run's graph, if it has one."""
    return load_graph(run.graph_folder) if (run.graph_folder / "manifest.json").is_file() else None


def score_step(
    model: Model,
    run: Run,
    *,
    scorer: str,
    calibration: Calibration,
    name: str | None = None,
    **options: Any,
) -> tuple[Scores, dict[str, Any]]:
    """Scores of every unit to ``RUN/scores``."""
    chosen = calibrated_scorer(scorer, options, calibration)
    needs = calibration.key() if chosen.needs_stats else None
    label = name or scorer
    settings = scorer_options(chosen)
    inputs = digest([model.identity, scorer, settings, needs])
    path = run.scores_path(label)
    if (found := run.finished(f"score {label}", inputs)) is not None:
        return Scores.load(path, model.units, model.identity), found | {"found": True}
    stats = calibration.stats(model, run) if chosen.needs_stats else None
    with run.recording(f"score {label}", inputs, settings) as record:
        scores = score(model, chosen, stats=stats, graph=run_graph(run))
        scores.save(path)
        record.outputs.append(path)
        record.result.update(scorer=scorer, options=settings, scores=str(path), units=list(scores.kinds))
    return scores, record.result


def prune_step(
    model: Model,
    run: Run,
    *,
    method: str,
    sparsity: float,
    calibration: Calibration,
    choice: Cut,
    scorer: str | None = None,
    scorer_settings: dict[str, Any] | None = None,
    rung: str = "auto",
    name: str | None = None,
    repair: Repair | None = None,
) -> dict[str, Any]:
    """A mask to ``RUN/masks`` and a checkpoint to ``RUN/models``, loaded again and compared."""
    if method not in PRESETS:
        raise InputError(f"no method is named {method!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[method]
    choice = choice.with_defaults(preset)
    choice.check(sparsity)
    label = name or f"{method}-{sparsity:g}"
    chosen = calibrated_scorer(scorer or preset.scorer, scorer_settings or {}, calibration)
    key = [model.identity, chosen.name, scorer_options(chosen), calibration.key() if chosen.needs_stats else None]

    def scores() -> Scores:
        return score_step(model, run, scorer=chosen.name, calibration=calibration, **scorer_options(chosen))[0]

    return _cut_step(model, run, method, chosen.name, key, scores, sparsity, choice, rung, label, repair)


def prune_by_step(
    model: Model,
    run: Run,
    *,
    scores: Path,
    sparsity: float,
    choice: Cut,
    rung: str = "auto",
    name: str | None = None,
    repair: Repair | None = None,
) -> dict[str, Any]:
    """As `prune_step`, by scores that are there already: a centrality's, or somebody else's.

    Raises:
        InputError: the file is not there, or has no scores of units that can be removed.
        FormatError: it is damaged, or of another model.
    """
    given = Scores.load(scores, model.units, model.identity)
    if not {"head", "neuron"} & set(given.kinds):
        raise InputError(f"{scores} scores no heads and no neurons; rank a graph of channels or units")
    choice = choice.with_defaults(Preset(given.method))
    choice.check(sparsity)
    label = name or f"{scores.stem}-{sparsity:g}"
    key = [model.identity, "scores", file_digest(scores)]
    return _cut_step(model, run, given.method, given.method, key, lambda: given, sparsity, choice, rung, label, repair)


def _cut_step(
    model: Model,
    run: Run,
    method: str,
    scorer: str,
    key: list[Any],
    scored: Callable[[], Scores],
    sparsity: float,
    choice: Cut,
    rung: str,
    label: str,
    repair: Repair | None,
) -> dict[str, Any]:
    """Scores to mask to checkpoint, unless that has been done."""
    compensation = "none" if repair is None else repair.compensation
    if repair is not None:
        repair.check()
    inputs = digest([*key, sparsity, asdict(choice), rung, *([repair.key()] if repair and repair.key() else [])])
    if (found := run.finished(f"prune {label}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"prune {label}", inputs, {"sparsity": sparsity, **asdict(choice), "rung": rung}) as record:
        scores = scored()
        mask = cut(model, scores, sparsity, choice)
        source = model if repair is None else repair.of(model, mask)
        saved = save_pruned(source, mask, run.model_folder(label), rung=rung)
        mask.save(run.mask_path(label))
        record.outputs += [run.mask_path(label), saved.folder]
        record.result.update(method=method, scorer=scorer, allocation=choice.allocation, compensation=compensation)
        record.result.update(removed(model, mask, kinds_of(choice, scores)))
        record.result.update(
            mask=str(run.mask_path(label)), checkpoint=str(saved.folder), rung=saved.rung, why=saved.why,
            checkpoint_params=saved.n_parameters, checkpoint_bytes=saved.n_bytes, max_difference=saved.max_difference,
        )  # fmt: skip
    return record.result


def removed(model: Model, mask: Mask, kinds: tuple[str, ...]) -> dict[str, Any]:
    """How much a mask removes: of the prunable parameters (those of the kinds pruned) and of all.

    ``sparsity`` and ``prunable_params_removed`` are the same fraction; ``params_removed`` is of the whole model.
    """
    owned = model.units.prunable_parameters(*kinds, *(("kv_head",) if "head" in kinds else ()))
    if model.is_perceptron:  # a weight between two hidden layers belongs to a neuron of each, and counts once
        owned = sum(_numel(model, name) for name in {own.parameter for group in model.units for own in group.owns})
    count = model.n_parameters - Plan.of(mask, model.units).n_parameters_left(model.shapes)
    units = {
        kind: sum(int((~mask.keep[g.name]).sum()) for g in model.units.of_kind(kind)) for kind in model.units.kinds
    }
    return {
        "sparsity": count / max(owned, 1),
        "prunable_params_removed": count / max(owned, 1),
        "params_removed": count / model.n_parameters,
        "n_params_removed": count,
        "n_prunable_params": owned,
        "units_removed": units,
    }


def _numel(model: Model, name: str) -> int:
    total = 1
    for size in model.shapes[name]:
        total *= size
    return total


def evaluate_step(
    model: Model,
    text: Path,
    *,
    run: Run | None = None,
    name: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Quality and size of a model; kept in ``RUN/evaluations`` if a run is given."""
    if not text.is_file():
        raise InputError(f"the text {text} is not there")
    report = evaluate(model, text, **options).facts()
    if run is not None:
        label = name or (model.folder.name if model.folder is not None else model.name)
        facts = {"model": model.name, "identity": model.identity, "text": file_digest(text)}
        write_json(run.evaluation_path(label), facts | report)
    return report

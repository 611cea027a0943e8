"""The steps on a run folder, in order. Each finds its result again if it has run with the same inputs.

Options and paths are checked before a model is loaded or a text is read.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jaxtyping import Shaped

from graphprune.calibration.forward import calibrate, calibration_rows, site_sizes
from graphprune.calibration.text import read_text
from graphprune.centrality import centrality as centrality_named
from graphprune.centrality.units import per_unit
from graphprune.core.errors import InputError
from graphprune.core.graph import MEASURED, Level, ModelGraph, Weight
from graphprune.core.graph_store import load_graph, read_graph_manifest
from graphprune.core.io import digest, file_digest, write_json
from graphprune.core.run import Run
from graphprune.core.scores import BLOCK, Scores
from graphprune.core.stats import VERSION as STATS_VERSION
from graphprune.core.stats import CalibrationStats
from graphprune.core.typed import choices, converted, fits
from graphprune.core.units import HEAD, NEURON
from graphprune.evaluation.evaluate import evaluate
from graphprune.extraction.export import export, n_bytes
from graphprune.methods import Recipe, any_scorer, needs_text
from graphprune.models.model import DTYPES, Model
from graphprune.pruning import Evidence, apply
from graphprune.scorers import scorer_options
from graphprune.scorers.inputs import Scorer
from graphprune.solvers.mlp import MLP_ERROR
from graphprune.solvers.scores import SolvedScorer
from graphprune.solvers.sequential import Journal, Operated
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.removed import removed


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

    def told(self) -> dict[str, Any]:
        """What it takes to calibrate something else in the same way."""
        return {"text": None if self.text is None else str(self.text.absolute()), **self.options}

    def rows(self, model: Model) -> Shaped[torch.Tensor, "windows seq_len"]:
        """The windows of text, or a perceptron's inputs.

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
        path = run.stats_path(digest([model.identity, self.key(), STATS_VERSION]))
        if path.is_file():
            return CalibrationStats.load(path, site_sizes(model), model.identity)
        if not model.is_perceptron:
            read_text(self.text)
        options = self.options | {"dtype": dtype_of(self.options["dtype"]), "device": self.device}
        stats = calibrate(model, self.text, **options)
        stats.save(path)
        return stats

    def evidence(self, model: Model, run: Run) -> Evidence:
        """All of it, each part read or measured when it is first asked for; statistics are kept in the run folder."""
        return Evidence(
            model,
            None if self.text is None else lambda: self.rows(model),
            None if self.text is None else lambda: self.stats(model, run),
            lambda: run_graph(run),
            folder=run.folder / "stats",
            dtype=dtype_of(self.options["dtype"]),
            device=self.device,
        )


def calibrated_scorer(name: str, options: Mapping[str, Any], calibration: Calibration) -> Scorer | SolvedScorer:
    """A scorer by name, once it is certain that it has all it needs.

    Raises:
        InputError: an unknown scorer or option, or no calibration text where one is needed.
    """
    scorer = any_scorer(name, options)
    if needs_text(scorer) and calibration.text is None:
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
    needs = calibration.key() if weight in MEASURED else None
    if weight in MEASURED and needs is None:
        raise InputError(f"edge weights by {weight} need calibration; give --calibration FILE")
    options = {"level": level, "weight": weight, "calibration": needs}
    inputs = digest([model.identity, options])
    if (found := run.finished("export", inputs)) is not None:
        return found | {"found": True}
    with run.recording("export", inputs, options) as record:
        stats = calibration.stats(model, run) if weight in MEASURED else None
        graph = export(model, level=level, weight=weight, stats=stats, folder=run.graph_folder, inputs=inputs)
        record.outputs.append(run.graph_folder / "manifest.json")
        record.result.update(
            nodes=graph.n_nodes, edges=graph.n_edges, graph=str(run.graph_folder), bytes=n_bytes(run.graph_folder),
            level=level, weight=weight,
        )  # fmt: skip
    return record.result


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
        if not fits(hints[option], value):
            raise InputError(f"the centrality {centrality}: {option} can't be {value!r}{_instead(hints[option])}")
        checked[option] = converted(hints[option], value)
    return checked


def _instead(hint: Any) -> str:
    """The values there are to choose from, if they are few."""
    return f"; it is {' or '.join(choices(hint))}" if choices(hint) else ""


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
    return _score(model, run, calibrated_scorer(scorer, options, calibration), calibration, name)


def _score(
    model: Model, run: Run, scorer: Scorer | SolvedScorer, calibration: Calibration, name: str | None = None
) -> tuple[Scores, dict[str, Any]]:
    needs = calibration.key() if needs_text(scorer) else None
    label = name or scorer.name
    settings = asdict(scorer) if isinstance(scorer, SolvedScorer) else scorer_options(scorer)
    inputs = digest([model.identity, scorer.name, settings, needs])
    path = run.scores_path(label)
    journal = run.journal_folder(inputs)
    if (found := run.finished(f"score {label}", inputs)) is not None:
        shutil.rmtree(journal, ignore_errors=True)  # a kill may have come between the result and this
        return Scores.load(path, model.units, model.identity), found | {"found": True}
    evidence = calibration.evidence(model, run)
    if not isinstance(scorer, SolvedScorer) and scorer.needs_stats:
        evidence.stats  # noqa: B018 - an artefact of its own, kept although scoring may fail
    with run.recording(f"score {label}", inputs, settings) as record:
        if isinstance(scorer, SolvedScorer):
            scores = evidence.solved_scores(scorer, journal=Journal(journal))
        else:
            scores = evidence.scores(scorer)
        scores.save(path)
        record.outputs.append(path)
        record.result.update(scorer=scorer.name, options=settings, scores=str(path), units=list(scores.kinds))
        record.result["calibration"] = needs
    shutil.rmtree(journal, ignore_errors=True)
    return scores, record.result


def prune_step(
    model: Model,
    run: Run,
    *,
    recipe: Recipe,
    sparsity: float,
    calibration: Calibration,
    scores: Path | None = None,
    method: str | None = None,
    rung: str = "auto",
    name: str | None = None,
    remove: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """A mask to ``RUN/masks`` and a checkpoint to ``RUN/models``, loaded again and compared.

    Args:
        model: the dense model.
        run: its run folder.
        recipe: how it is pruned.
        sparsity: the fraction removed.
        calibration: the text, and how much of it.
        scores: a file to go by, a centrality's or somebody else's, instead of the recipe's scorer.
        method: what the recipe is called.
        rung: shape of the checkpoint.
        name: of mask and checkpoint.
        remove: how many pieces of every group go, such as a search has found, instead of the recipe's allocation.

    Raises:
        InputError: an option is unknown or something that is needed is missing.
        FormatError: the scores are damaged, or of another model.
    """
    recipe.check(sparsity)
    rung = recipe.rung(rung)
    if calibration.text is None:
        recipe.check_without_text(given_scores=scores is not None)
    given = None if scores is None else _read_scores(scores, model, whole=recipe.cut.depth == 1)
    method = method or (recipe.scorer if given is None else given.method)
    label = name or f"{method if scores is None else scores.stem}-{sparsity:g}"
    key = [model.identity, asdict(recipe), sparsity, calibration.key(), None if scores is None else file_digest(scores)]
    if remove is not None:
        key.append(dict(remove))
    inputs = digest([*key, rung])
    journal = run.journal_folder(digest(key))
    if (found := run.finished(f"prune {label}", inputs)) is not None:
        shutil.rmtree(journal, ignore_errors=True)  # a kill may have come between the result and this
        return found | {"found": True}
    with run.recording(f"prune {label}", inputs, {"sparsity": sparsity, **asdict(recipe), "rung": rung}) as record:
        evidence = replace(
            calibration.evidence(model, run), scored=lambda scorer: _score(model, run, scorer, calibration)[0]
        )
        cutting = apply(recipe, sparsity, evidence, given=given, journal=Journal(journal), remove=remove)
        saved = save_pruned(cutting.model, cutting.mask, run.model_folder(label), rung=rung)
        cutting.mask.save(run.mask_path(label))
        record.outputs += [run.mask_path(label), saved.folder]
        record.result.update(
            method=method, scorer=recipe.scorer if given is None else given.method,
            allocation=recipe.cut.allocation if remove is None else "given",
            compensation=recipe.compensation, pattern=recipe.pattern, **_which_layers(recipe),
        )  # fmt: skip
        record.result.update(removed(model, cutting.mask, cutting.kinds))
        record.result.update(
            mask=str(run.mask_path(label)), checkpoint=str(saved.folder), rung=saved.rung, why=saved.why,
            checkpoint_params=saved.n_parameters, checkpoint_bytes=saved.n_bytes, max_difference=saved.max_difference,
        )  # fmt: skip
        if cutting.operated is not None:
            record.result.update(_report(cutting.operated))
    shutil.rmtree(journal, ignore_errors=True)
    return record.result


def _read_scores(path: Path, model: Model, *, whole: bool) -> Scores:
    """Scores of units, or of sub-blocks where nothing but whole ones goes."""
    if not path.is_file():
        raise InputError(f"the scores {path} are not there")
    given = Scores.load(path, model.units, model.identity)
    if not ({HEAD, NEURON} | ({BLOCK} if whole else set())) & set(given.kinds):
        raise InputError(f"{path} scores no heads and no neurons; rank a graph of channels or units")
    return given


def _which_layers(recipe: Recipe) -> dict[str, Any]:
    """Which blocks lose single weights, and whose MLPs were solved as a whole, where that is a choice."""
    facts = {"blocks": recipe.blocks} if recipe.of_weights else {}
    if recipe.of_weights and recipe.joint_method:
        facts |= {"global_layers": recipe.global_layers, "variant": recipe.joint.variant}
    return facts


def _report(operated: Operated) -> dict[str, Any]:
    """What the engine says: tokens, where the time went, the relative squared error of every layer it changed.

    ``mlp_error`` is the mean of that of the MLPs that were solved as a whole, ``mlp_error_local`` before that.
    """
    seconds = {name: round(value, 3) for name, value in operated.seconds.items()}
    errors = {site: float(f"{error:.6g}") for site, error in operated.errors.items()}
    mean = sum(errors.values()) / max(len(errors), 1)
    facts = {"calibrated": operated.tokens, "engine_seconds": seconds, "output_error": mean, "output_errors": errors}
    solved = [note for name, note in operated.notes.items() if name.startswith(f"{MLP_ERROR}.")]
    if solved:
        for name, which in (("mlp_error", -1), ("mlp_error_local", 0)):
            facts[name] = float(f"{sum(float(note[which]) for note in solved) / len(solved):.6g}")
    return facts


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

"""The steps of a search on a run folder: measure architectures, find the best, prune by it, say what was learned.

Pairs are kept in ``RUN/pairs``, one file for each way of pruning and judging, with a JSON of the same name that says
which; what a search found is in ``RUN/searches``. A step that is killed goes on with the pairs it has.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from graphprune.calibration.text import left_over, read_text, spread, windows
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import digest, file_digest, read_json, write_json
from graphprune.core.run import Run, checked_name
from graphprune.core.scores import Scores
from graphprune.evaluation.tasks import Accuracy
from graphprune.evaluation.tasks import Task as Questions
from graphprune.methods import BY_CURVES, BY_GRAPH, Cut, Recipe
from graphprune.models.model import Model
from graphprune.prediction.architecture import Architecture, Space
from graphprune.prediction.data import Data, GraphFeatures
from graphprune.prediction.executors import Executor, measured
from graphprune.prediction.measure import ACCURACY, Job, Judge, Stop, prepared
from graphprune.prediction.pairs import Origin, Pair, PairStore, origin_of
from graphprune.prediction.predictor import Predictor, learn
from graphprune.prediction.report import agreement, compared, coverage, learning_curve
from graphprune.prediction.search import STRATEGIES, Found, Options, Task, check_installed, pareto_of, random_search
from graphprune.pruning import Evidence, allocated, kinds_of
from graphprune.scorers import scorer_options
from graphprune.scorers.inputs import Scorer
from graphprune.steps.pipeline import Calibration, prune_step, score_step

STARTS = ("uniform", "log", BY_CURVES)
COMPARED = ("uniform", "log", BY_GRAPH)
DEFAULT_METHOD = "wanda"
PREDICTED = ("uniform", "log", "linear")


@dataclass(frozen=True)
class Judged:
    """What candidates are judged on: held-out windows of the calibration text, or texts of their own.

    Attributes:
        texts: files; none for what the statistics leave of the calibration text.
        max_windows: of each, at most, spread evenly.
        tasks: local questions, whose accuracies are further targets.
        limit: the first so many questions of every task; all by default.
    """

    texts: tuple[Path, ...] = ()
    max_windows: int = 12
    tasks: tuple[Questions, ...] = ()
    limit: int | None = None

    def check(self, calibration: Calibration) -> None:
        """Checks all that needs no model.

        Raises:
            InputError: a text isn't there, or is the one that the statistics are of; or there are too few windows.
        """
        if calibration.text is None:
            raise InputError("a search needs calibration; give --calibration FILE")
        if self.max_windows < 2:
            raise InputError(f"candidates are judged on at least 2 windows, not {self.max_windows}")
        for task in self.tasks:
            Accuracy(task, None, self.limit)
        stems = [path.stem for path in self.texts]
        for path in self.texts:
            if not path.is_file():
                raise InputError(f"the text {path} is not there")
            if stems.count(path.stem) > 1:
                raise InputError(f"two texts are called {path.stem!r}; their names tell the results apart")
            if file_digest(path) == file_digest(calibration.text):
                raise InputError(
                    f"{path} is the calibration text: leave --text out, and candidates are judged on the windows of it "
                    "that the statistics don't see"
                )

    def rows(self, model: Model, calibration: Calibration) -> dict[str, Int[torch.Tensor, "_windows _seq_len"]]:
        """The windows, by name of the text.

        Raises:
            InputError: a text is too short.
        """
        seq_len, n, seed = (calibration.options[name] for name in ("seq_len", "n_samples", "seed"))
        if self.texts:
            found = {path.stem: windows(model.tokenizer, read_text(path), seq_len, needed=2) for path in self.texts}
            return {name: spread(rows, self.max_windows) for name, rows in found.items()}
        if calibration.text is None:
            raise InputError("a search needs calibration; give --calibration FILE")
        everything = windows(model.tokenizer, read_text(calibration.text), seq_len, needed=n + 2)
        return {calibration.text.stem: spread(left_over(everything, n, seed), self.max_windows)}

    def told(self, calibration: Calibration) -> dict[str, Any]:
        """What it takes to measure something else in the same way."""
        texts = [str(path.absolute()) for path in self.texts or (calibration.text,) if path is not None]
        n, seed = calibration.options["n_samples"], calibration.options["seed"]
        told = {"texts": texts, "seq_len": calibration.options["seq_len"], "max_windows": self.max_windows}
        return told | {"leave_out": None if self.texts else [n, seed]}

    def judges(self, model: Model) -> dict[str, Judge]:
        """What else is measured of a candidate."""
        return {f"{ACCURACY}{task.name}": Accuracy(task, model.tokenizer, self.limit) for task in self.tasks}


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Attributes:
        sparsity: the budget.
        recipe: how candidates are pruned, and with statistics behind pruned blocks what is found.
        final: how what is found is pruned, if in another way.
        protected: blocks that lose nothing.
        most: the largest share that a group may lose.
        sequential: every candidate gets a pass through its blocks.
        margin: by how many nats a token a candidate must be worse than the uniform allocation after a part of the
            windows, so that the rest isn't read; None reads all of all.
    """

    sparsity: float
    recipe: Recipe
    final: Recipe | None = None
    protected: tuple[int, ...] = ()
    most: float = 1.0
    sequential: bool = False
    margin: float | None = 1.0

    def check(self) -> None:
        """Checks all that needs no model.

        Raises:
            InputError: an option is unknown, out of range, or doesn't go with another.
        """
        for recipe in (self.recipe, *([] if self.final is None else [self.final])):
            recipe.check(self.sparsity)
            if recipe.of_weights:
                raise InputError("a search finds how many heads and neurons go; single weights have a pattern instead")
        if self.final is not None and _shape(self.final.cut) != _shape(self.recipe.cut):
            raise InputError("candidates and what is found lose the same units, heads in the same way")
        if self.margin is not None:
            Stop(self.margin, {})


def _shape(choice: Cut) -> tuple[object, ...]:
    return choice.units, choice.heads, choice.floor


def default_recipe(method: str | None = None, **given: Any) -> Recipe:
    """How candidates are pruned unless told otherwise: Wanda with repair, since it needs no pass a candidate."""
    if method is None:
        given = {"compensation": "obs"} | {name: value for name, value in given.items() if value is not None}
    return Recipe.of(method or DEFAULT_METHOD, **given)


@dataclass(frozen=True)
class Bench:
    """All that a search on a run folder measures with.

    Attributes:
        model: the dense model.
        evidence: what calibration tells of it.
        space: the architectures.
        job: what a measurement depends on.
        store: the pairs.
        executor: where candidates are measured.
        goal: what all of it is for.
        known: how many pairs the store had before.
    """

    model: Model
    evidence: Evidence
    space: Space
    job: Job
    store: PairStore
    executor: Executor
    goal: Goal
    known: int

    def measure(self, architectures: Sequence[Architecture]) -> list[Pair]:
        return measured(self.executor, self.job, self.model, architectures, self.store)

    def allocation(self, name: str) -> Architecture:
        """An allocation by name, as near as protected blocks allow."""
        recipe = self.goal.recipe
        recipe = replace(recipe, cut=replace(recipe.cut, allocation=name, normalise=None))
        if name == BY_CURVES:
            recipe = replace(recipe, head_error="exact")
        kinds = kinds_of(recipe.cut, self.model.units.kinds)
        counts = allocated(recipe, self.goal.sparsity, self.evidence, kinds)
        free = {group: count for group, count in counts.items() if group in self.space.groups}
        return self.space.realised(self.space.vector(Architecture(free)), self.goal.sparsity)

    @classmethod
    def of(
        cls, model: Model, run: Run, goal: Goal, calibration: Calibration, judged: Judged, executor: Executor
    ) -> "Bench":
        """Measures statistics, and the uniform allocation that others are compared with on the way.

        Raises:
            InputError: something that is needed is missing.
            InfeasibleError: no allocation meets the budget; the nearest sparsity is named.
        """
        space = Space.of(model, goal.recipe.cut, protected=goal.protected, most=goal.most)
        space.check_reachable(goal.sparsity)
        rows = judged.rows(model, calibration)
        kept = partial(_kept_scores, model, run, calibration)
        evidence = replace(calibration.evidence(model, run), scored=kept)
        job = prepared(
            evidence, goal.recipe, rows, scratch=run.folder / "stats", sequential=goal.sequential,
            judges=judged.judges(model),
        )  # fmt: skip
        name = f"{goal.recipe.scorer}-{digest(asdict(job.origin))[:8]}"
        store = PairStore(run.folder / "pairs" / f"{name}.jsonl", job.origin)
        about: dict[str, Any] = {
            "cut": asdict(goal.recipe.cut),
            "scorer": goal.recipe.scorer,
            "targets": list(job.targets),
        }
        about |= {"protected": list(goal.protected), "most": goal.most, "compensation": goal.recipe.compensation}
        about |= {"calibrated": calibration.told(), "judged": judged.told(calibration)}
        write_json(store.path.with_suffix(".json"), about)
        bench = cls(model, evidence, space, job, store, executor, goal, len(store.pairs()))
        if goal.margin is None:
            return bench
        (reference,) = bench.measure([bench.allocation("uniform")])
        if not reference.losses or reference.stopped:  # another search may have stopped it
            return bench
        return replace(bench, job=replace(job, stop=Stop(goal.margin, reference.losses)))


def _kept_scores(model: Model, run: Run, calibration: Calibration, scorer: Scorer) -> Scores:
    """Scores that lie in the run folder, where `predict_step` finds them."""
    return score_step(model, run, scorer=scorer.name, calibration=calibration, **scorer_options(scorer))[0]


def search_step(
    model: Model,
    run: Run,
    *,
    goal: Goal,
    calibration: Calibration,
    judged: Judged | None = None,
    options: Options | None = None,
    strategy: str = "surrogate",
    starts: Sequence[str] = STARTS,
    against: Sequence[str] | None = None,
    graph: Path | None = None,
    executor: Executor | None = None,
    rung: str = "auto",
    name: str | None = None,
) -> dict[str, Any]:
    """The best allocation that a search finds to ``RUN/searches``, its mask and its checkpoint.

    Args:
        model: the dense model.
        run: its run folder.
        goal: what is searched for.
        calibration: the text that statistics are of.
        judged: what candidates are judged on.
        options: how the search goes about it.
        strategy: `surrogate`, `paper` or `random`.
        starts: allocations that the surrogate's search begins with; they count.
        against: allocations to compare with, and random search with as many evaluations; None compares nothing.
        graph: scores of a measure on the graph: the predictor is also told what share of them an architecture removes.
        executor: where candidates are measured.
        rung: shape of the checkpoint.
        name: of the search, the mask and the checkpoint.

    Raises:
        InputError: an option is unknown or something that is needed is missing.
        InfeasibleError: no allocation meets the budget; the nearest sparsity is named.
    """
    judged, options, executor = judged or Judged(), options or Options(), executor or Executor()
    check_search(goal, calibration, judged, options, strategy, graph)
    label = checked_name(name or f"{strategy}-{goal.sparsity:g}")
    settings: dict[str, Any] = {
        "goal": asdict(goal),
        "options": asdict(options),
        "strategy": strategy,
        "starts": list(starts),
    }
    settings |= {"against": None if against is None else list(against), "max_windows": judged.max_windows}
    settings["graph"] = None if graph is None else file_digest(graph)
    texts = [file_digest(path) for path in judged.texts]
    texts += [digest([task.name, task.key, judged.limit]) for task in judged.tasks]
    inputs = digest([model.identity, settings, calibration.key(), texts, rung])
    if (found := run.finished(f"search {label}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"search {label}", inputs, settings) as record:
        bench = Bench.of(model, run, goal, calibration, judged, executor)
        begun = [bench.allocation(each) for each in starts]
        features = None if graph is None else graph_features(model, graph, goal.recipe.cut)
        task = Task(bench.space, goal.sparsity, bench.measure, options, begun, features)
        result = STRATEGIES[strategy](task)
        record.result.update(_told(bench, result))
        if against is not None:
            record.result["compared"] = _compared(bench, task, result, against)
        in_all = len(bench.store.pairs())
        record.result.update(measured_now=in_all - bench.known, measured_in_all=in_all)
        final = goal.final or goal.recipe
        pruned = prune_step(
            model, run, recipe=final, sparsity=goal.sparsity, calibration=calibration, rung=rung, name=label,
            remove=result.best.architecture.remove,
        )  # fmt: skip
        for key in ("sparsity", "params_removed", "mask", "checkpoint", "rung", "checkpoint_params"):
            record.result[key] = pruned[key]
        path = run.folder / "searches" / f"{label}.json"
        write_json(path, record.result | {"remove": dict(result.best.architecture.remove), "settings": settings})
        record.outputs.append(path)
        record.result["search"] = str(path)
    return record.result


def graph_features(model: Model, path: Path, choice: Cut) -> GraphFeatures:
    """What a file of scores says is removed.

    Raises:
        InputError: the scores don't cover the units that may go, or add up to nothing.
        FormatError: they are not there, damaged, or of another model.
    """
    return GraphFeatures.of(model, Scores.load(path, model.units, model.identity), choice)


def check_search(
    goal: Goal, calibration: Calibration, judged: Judged, options: Options, strategy: str, graph: Path | None = None
) -> None:
    """Checks all that needs no model.

    Raises:
        InputError: an option is unknown, out of range, or something that is needed is missing.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"no search is named {strategy!r}; there are {', '.join(STRATEGIES)}")
    goal.check()
    if any(recipe is not None and recipe.cut.depth for recipe in (goal.recipe, goal.final)):
        raise InputError("a search decides what goes from which layer; influence removes whole ones, so leave it out")
    options.check()
    judged.check(calibration)
    if graph is not None and not graph.is_file():
        raise InputError(f"the scores {graph} are not there")
    check_installed(strategy)


def _told(bench: Bench, found: Found) -> dict[str, Any]:
    """What a search says of itself."""
    target = bench.job.targets[0]
    facts: dict[str, Any] = {
        "strategy": found.strategy, "evaluations": found.evaluations, "pairs": str(bench.store.path),
        "stopped_early": sum(pair.stopped for pair in found.pairs), target: found.best.quality[target],
    }  # fmt: skip
    front = pareto_of(bench.space, found.pairs, bench.job.targets)
    facts["pareto"] = [
        {"sparsity": bench.space.sparsity(pair.architecture), **pair.quality} for pair in front if not pair.stopped
    ]
    if found.predictor is not None:
        facts["predictor"] = {name: vars(each) for name, each in agreement(found.predictor).items()}[target]
        facts["predicted_then_measured"] = [
            {"predicted": each.predicted, "low": each.low, "high": each.high, "measured": each.measured}
            for each in found.checked
        ]
        facts["importance"] = {group: mean for group, (mean, _) in found.predictor.importance().items()}
    return facts


def _compared(bench: Bench, task: Task, found: Found, against: Sequence[str]) -> list[dict[str, Any]]:
    """The same budget by other allocations, and by random search at the same number of evaluations."""
    target = bench.job.targets[0]
    rows = [{"allocation": found.strategy, "evaluations": found.evaluations, target: found.best.quality[target]}]
    for name in against:
        (pair,) = bench.measure([bench.allocation(name)])
        rows.append({"allocation": name, "evaluations": 1, target: pair.quality.get(target, float("inf"))})
    drawn = random_search(task)
    rows.append({"allocation": "random", "evaluations": drawn.evaluations, target: drawn.best.quality[target]})
    return rows


def predict_step(
    model: Model,
    run: Run,
    *,
    pairs: Path | None = None,
    kind: str = "both",
    level: float = 0.9,
    sparsities: Sequence[float] = (),
    architecture: Path | None = None,
    graph: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What the run's pairs teach: how well, which groups matter, and what allocations would cost.

    Args:
        model: the dense model.
        run: its run folder.
        pairs: a file of pairs; the run's own if there is one of them.
        kind: of predictor.
        level: of intervals.
        sparsities: at which allocations by depth are predicted.
        architecture: a JSON file with `remove`, such as a search has written, that is predicted too.
        graph: scores of a measure on the graph: the predictor is also told what share of them an architecture removes.
        seed: of the folds.

    Raises:
        InputError: there are no pairs or too few, or an option is unknown.
        FormatError: the pairs are of another model, or what says how they were made is missing or damaged.
    """
    path = pairs or only_pairs(run)
    data, scorer = _data_of(path, model, graph)
    predictor = learn(data, kind=kind, seed=seed)
    facts: dict[str, Any] = {"pairs": len(data), "kind": kind}
    facts["held_out"] = [{"target": name, **vars(each)} for name, each in agreement(predictor).items()]
    facts["coverage"] = coverage(data, kind=kind, level=level, seed=seed) if len(data) >= 2 / (1 - level) else None
    facts["kinds"] = [{"kind": name, **vars(each)} for name, each in compared(data, seed=seed).items()]
    if len(data) >= 20:
        curve = learning_curve(data, kind=kind, seed=seed)
        facts["learning_curve"] = [{"pairs": n, "spearman": mean, "sd": sd} for n, (mean, sd) in curve.items()]
    importance = sorted(predictor.importance(seed=seed).items(), key=lambda each: -each[1][0])
    facts["importance"] = [{"group": group, "importance": mean, "sd": sd} for group, (mean, sd) in importance]
    facts["predicted"] = _predicted(predictor, model, level, sparsities, architecture)
    if (scores := run.scores_path(scorer)).is_file():
        label = f"predictor-{path.stem}"
        predictor.scores(Scores.load(scores, model.units, model.identity)).save(run.scores_path(label))
        facts["scores"] = str(run.scores_path(label))
    report = run.folder / "predictions" / f"{path.stem}.json"
    write_json(report, facts)
    return facts | {"report": str(report)}


def predictor_of(path: Path, model: Model) -> Predictor:
    """What a file of pairs teaches of the first target.

    Raises:
        InputError: there are no pairs or too few.
        FormatError: the pairs are of another model, or what says how they were made is missing or damaged.
    """
    return learn(_data_of(path, model)[0])


def _data_of(path: Path, model: Model, graph: Path | None = None) -> tuple[Data, str]:
    """Pairs as numbers, and the scorer that chose the units."""
    origin = origin_of(path)
    if origin is None:
        raise InputError(f"{path} holds no pairs; `graphprune search` measures some")
    known = PairStore(path, Origin(model.identity, origin.method, origin.text)).pairs()
    space, choice, scorer = _space_of(path, model)
    features = None if graph is None else graph_features(model, graph, choice)
    return Data.of(space, list(known.values()), graph=features), scorer


def only_pairs(run: Run) -> Path:
    """The run's one file of pairs.

    Raises:
        InputError: there is none, or there are several.
    """
    found = sorted((run.folder / "pairs").glob("*.jsonl"))
    if not found:
        raise InputError(f"{run.folder} has no pairs; `graphprune search` measures some")
    if len(found) > 1:
        raise InputError(f"{run.folder} has several files of pairs; name one with --pairs, such as {found[0]}")
    return found[0]


def _space_of(path: Path, model: Model) -> tuple[Space, Cut, str]:
    """The architectures that pairs are from, how they are cut, and what chose the units."""
    about = read_json(path.with_suffix(".json"))
    try:
        choice = Cut(**about["cut"])
        space = Space.of(model, choice, protected=about["protected"], most=about["most"])
        return space, choice, checked_name(about["scorer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path.with_suffix('.json')} is damaged: {error}") from error


def _predicted(
    predictor: Predictor, model: Model, level: float, sparsities: Sequence[float], given: Path | None
) -> list[dict[str, Any]]:
    """Allocations, the quality that they would have, and its interval."""
    space, made = predictor.space, dict[str, Architecture]()
    for sparsity in sparsities:
        for name in PREDICTED:
            recipe = Recipe.of("magnitude", cut=Cut(allocation=name))
            counts = allocated(recipe, sparsity, Evidence(model), kinds_of(recipe.cut, model.units.kinds))
            free = Architecture({group: count for group, count in counts.items() if group in space.groups})
            made[f"{name} {sparsity:g}"] = space.realised(space.vector(free), sparsity)
    if given is not None:
        made[given.stem] = _architecture(given)
    if not made:
        return []
    vectors = space.vectors(list(made.values()))
    middle, (low, high) = predictor.predict(vectors), predictor.intervals(vectors, level)
    least, most = predictor.reach
    extrapolated = f"extrapolated: the pairs remove {least:.1%} to {most:.1%}"
    notes = ["" if covered else extrapolated for covered in predictor.covers(vectors).tolist()]
    rows = []
    for i, (name, architecture) in enumerate(made.items()):
        for j, target in enumerate(predictor.targets):
            row = {"allocation": name, "sparsity": space.sparsity(architecture), "target": target}
            row |= {"predicted": float(middle[i, j]), "low": float(low[i, j]), "high": float(high[i, j])}
            rows.append(row | {"note": notes[i]})
    return rows


def _architecture(path: Path) -> Architecture:
    remove = read_json(path).get("remove")
    if not isinstance(remove, dict) or not all(type(count) is int for count in remove.values()):
        raise FormatError(f"{path} is no architecture: it needs `remove`, a number of pieces for every group")
    return Architecture(remove)

"""Which architecture is best under a budget, with every real evaluation counted.

- `random`: architectures are drawn and evaluated; the best counts. What the others must beat at the same number.
- `paper` (Ji, Cao and Liu, arXiv 2309.09507): pairs are drawn, the space is narrowed by feature importance, of 10,000
  samples from it those predicted best are really evaluated.
- `surrogate`: in rounds, Optuna looks for what the predictor of all pairs so far says is best, and what the predictors
  without a fold of them say, so that a round tries what the pairs leave open. That is really evaluated, and learned
  from.

All candidates meet the budget exactly. The surrogate's search stays within a trust region around the best architecture
so far, which shrinks after a round that found nothing better: a predictor is wrong first where it is most hopeful.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graphprune.core.errors import GraphpruneError, InputError
from graphprune.prediction.architecture import Architecture, Space, Vector
from graphprune.prediction.data import LEAST, Data, GraphFeatures, damage_of
from graphprune.prediction.pairs import Pair
from graphprune.prediction.predictor import DEFAULT, Predictor, learn
from graphprune.prediction.regressors import REGRESSORS, Regressor, boosting
from graphprune.prediction.sampling import DESIGNS, sampled

Measure = Callable[[Sequence[Architecture]], list[Pair]]
SAMPLERS = {
    "cmaes": 1000,
    "tpe": 150,
}  # and how many trials a look takes by default: TPE's cost a hundred times as much
BATCH = 25
TRUST, SMALLEST, LARGEST, SHRINKS, GROWS = 0.1, 0.03, 0.4, 0.5, 1.5  # the trust region: sparsities either way
IMPORTANT, UNIMPORTANT = 1 / 3, 1 / 3


@dataclass(frozen=True)
class Options:
    """How a search goes about it.

    Attributes:
        evaluations: how many architectures are really evaluated, all in all.
        pairs: how many of them are drawn to learn from; None for half.
        rounds: of the surrogate's search, after these.
        design: of the draw; see `sampling.DESIGNS`.
        kind: of predictor; see `REGRESSORS`.
        sampler: Optuna's: `cmaes` or `tpe`.
        trials: of a look at the surrogate; None for the sampler's own.
        samples: of the paper's search.
        target: what is minimised, by name; the first that is measured by default.
        seed: of all draws.
    """

    evaluations: int = 120
    pairs: int | None = None
    rounds: int = 12
    design: str = "paper"
    kind: str = DEFAULT
    sampler: str = "cmaes"
    trials: int | None = None
    samples: int = 10_000
    target: str | None = None
    seed: int = 0

    @property
    def to_learn(self) -> int:
        return round(self.evaluations / 2) if self.pairs is None else self.pairs

    def check(self) -> None:
        """Checks what can be checked without a model.

        Raises:
            InputError: an option is unknown or out of range, or there is nothing left to evaluate after learning.
        """
        for name, value, known in (
            ("design", self.design, DESIGNS), ("predictor", self.kind, REGRESSORS), ("sampler", self.sampler, SAMPLERS),
        ):  # fmt: skip
            if value not in known:
                raise InputError(f"no {name} is named {value!r}; there are {', '.join(known)}")
        if self.to_learn < LEAST:
            raise InputError(
                f"a predictor needs at least {LEAST} measured architectures, not {self.to_learn}; raise --pairs"
            )
        if self.evaluations <= self.to_learn:
            raise InputError(
                f"{self.evaluations} evaluations leave none to search with after {self.to_learn} pairs to learn from"
            )
        for name in ("rounds", "samples", "trials"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"the number of {name} is at least 1, not {number}")


@dataclass(frozen=True)
class Checked:
    """An architecture that was predicted first and measured then.

    Attributes:
        architecture: which.
        predicted: its quality.
        low, high: its interval, from the pairs known by then.
        measured: its quality; None if the network gave no number.
    """

    architecture: Architecture
    predicted: float
    low: float
    high: float
    measured: float | None


@dataclass(frozen=True)
class Found:
    """What a search found, and at what cost.

    Attributes:
        strategy: which search.
        best: the architecture that measured best.
        pairs: every real evaluation, in order.
        checked: those that a predictor had chosen.
        predictor: what was learned in the end, if anything.
    """

    strategy: str
    best: Pair
    pairs: tuple[Pair, ...]
    checked: tuple[Checked, ...] = ()
    predictor: Predictor | None = None

    @property
    def evaluations(self) -> int:
        return len(self.pairs)


@dataclass
class Ledger:
    """Real evaluations, counted; never more than were granted.

    Attributes:
        measure: evaluates.
        granted: how many may be.
        pairs: those that were, by key.
    """

    measure: Measure
    granted: int
    pairs: dict[str, Pair] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.granted - len(self.pairs)

    def __call__(self, architectures: Sequence[Architecture]) -> list[Pair]:
        """Evaluates those that weren't before, as many as are left."""
        new = {made.key: made for made in architectures if made.key not in self.pairs}
        found = self.measure(list(new.values())[: self.left])
        self.pairs |= {pair.architecture.key: pair for pair in found}
        return found

    def best(self, target: str | None) -> Pair:
        """The pair with the least damage, of those that were read to the end.

        Raises:
            GraphpruneError: no evaluation gave a finite number.
        """
        usable = [pair for pair in self.pairs.values() if pair.quality]
        if not usable:
            raise GraphpruneError("no candidate gave a finite quality; try --dtype float32, or a smaller sparsity")
        return min(usable, key=lambda pair: (pair.stopped, _damage(pair, target)))


def _damage(pair: Pair, target: str | None) -> float:
    name = target or next(iter(pair.quality))
    if name not in pair.quality:
        raise InputError(f"{name} was not measured; there are {', '.join(pair.quality)}")
    return damage_of(name, pair.quality[name])


@dataclass(frozen=True)
class Task:
    """What is searched.

    Attributes:
        space: the architectures.
        sparsity: the budget.
        measure: evaluates architectures, in order.
        options: how.
        starts: architectures that are known to be good, such as other allocations; they are evaluated, and counted.
        graph: features of the graph for the predictor.
    """

    space: Space
    sparsity: float
    measure: Measure
    options: Options = field(default_factory=Options)
    starts: Sequence[Architecture] = ()
    graph: GraphFeatures | None = None

    def ledger(self) -> Ledger:
        """A new one, once everything is certain to make sense."""
        self.options.check()
        self.space.check_reachable(self.sparsity)
        return Ledger(self.measure, self.options.evaluations)

    def drawn(self, n: int, sparsity: float | None) -> tuple[Architecture, ...]:
        return sampled(self.space, n, design=self.options.design, sparsity=sparsity, seed=self.options.seed)

    def learned(self, ledger: Ledger) -> Predictor:
        target = self.options.target
        targets = None if target is None else [target]
        data = Data.of(self.space, list(ledger.pairs.values()), targets, graph=self.graph)
        return learn(data, kind=self.options.kind, seed=self.options.seed)

    def check(self, predictor: Predictor, ledger: Ledger, chosen: Sequence[Architecture]) -> list[Checked]:
        """Predicts, then measures."""
        chosen = [made for made in {made.key: made for made in chosen}.values() if made.key not in ledger.pairs]
        chosen = chosen[: ledger.left]
        if not chosen:
            return []
        vectors, name = self.space.vectors(chosen), predictor.targets[0]
        low, high = predictor.intervals(vectors, min(0.9, len(predictor.data) / (len(predictor.data) + 1)))
        rows = zip(ledger(chosen), predictor.predict(vectors)[:, 0], low[:, 0], high[:, 0], strict=True)
        return [
            Checked(pair.architecture, float(mean), float(least), float(most), pair.quality.get(name))
            for pair, mean, least, most in rows
        ]


def random_search(task: Task) -> Found:
    """The best of as many architectures as there are evaluations, drawn on the budget."""
    ledger = task.ledger()
    ledger(task.drawn(task.options.evaluations, task.sparsity))
    return Found("random", ledger.best(task.options.target), tuple(ledger.pairs.values()))


def paper_search(task: Task) -> Found:
    """The paper's: learn from free ratios, narrow the space, sample it, evaluate what is predicted best."""
    ledger, options = task.ledger(), task.options
    ledger(task.drawn(options.to_learn, None))
    predictor = task.learned(ledger)
    narrow = narrowed(task.space, predictor, task.sparsity)
    rng = np.random.default_rng(options.seed)
    drawn = rng.uniform(narrow.lows / narrow.sizes, narrow.highs / narrow.sizes, (options.samples, len(narrow)))
    candidates = [narrow.realised(vector, task.sparsity) for vector in drawn]
    order = predictor.damage(task.space.vectors(candidates))[:, 0].argsort(kind="stable")
    best = list({candidates[at].key: candidates[at] for at in order.tolist()}.values())
    checked = task.check(predictor, ledger, best[: ledger.left])
    on_budget = Ledger(task.measure, 0, {c.architecture.key: ledger.pairs[c.architecture.key] for c in checked})
    return Found("paper", on_budget.best(options.target), tuple(ledger.pairs.values()), tuple(checked), predictor)


def narrowed(space: Space, predictor: Predictor, sparsity: float) -> Space:
    """The important third of the groups loses no more than the budget's share, the unimportant third no less than half.

    Bounds that would put the budget out of reach are left as they were.
    """
    importance = predictor.importance()
    order = sorted(space.groups, key=lambda group: -importance[group][0])
    important = set(order[: round(IMPORTANT * len(order))])
    unimportant = set(order[len(order) - round(UNIMPORTANT * len(order)) :])
    seen = predictor.data.vectors.max(axis=0)
    high = np.array([sparsity if group in important else most for group, most in zip(space.groups, seen, strict=True)])
    low = np.array([sparsity / 2 if group in unimportant else 0.0 for group in space.groups])
    narrow = space.narrowed(low, np.maximum(low, high))
    return narrow if _reaches(narrow, sparsity) else space


def _reaches(space: Space, sparsity: float) -> bool:
    amount = round(sparsity * space.prunable)
    return int(space.lows @ space.costs) <= amount <= int(space.highs @ space.costs)


def surrogate_search(task: Task) -> Found:
    """Learn, look for what the predictors say is best, evaluate it, learn again."""
    _optuna()
    ledger, options = task.ledger(), task.options
    ledger(task.starts)
    ledger(task.drawn(max(options.to_learn - len(ledger.pairs), 1), task.sparsity))
    checked: list[Checked] = []
    radius = TRUST
    for number in range(options.rounds):
        before, predictor = ledger.best(options.target), task.learned(ledger)
        count = -(-ledger.left // (options.rounds - number))
        checked += task.check(predictor, ledger, _promising(task, predictor, ledger, count, number, radius))
        better = ledger.best(options.target) != before
        radius = min(radius * GROWS, LARGEST) if better else max(radius * SHRINKS, SMALLEST)
    if ledger.left:  # rounds that found nothing new
        ledger(task.drawn(options.evaluations, task.sparsity))
    pairs = tuple(ledger.pairs.values())
    return Found("surrogate", ledger.best(options.target), pairs, tuple(checked), task.learned(ledger))


def _promising(
    task: Task, predictor: Predictor, ledger: Ledger, count: int, number: int, radius: float
) -> list[Architecture]:
    """As many new architectures as asked for, each the best that one of the predictors knows of nearby."""
    start = task.space.vector(ledger.best(task.options.target).architecture)
    near = task.space.narrowed(start - radius, start + radius)  # the start meets the budget, so there is a way
    laws = [predictor.whole[0], *(fold[0] for fold in predictor.folds)]
    chosen: dict[str, Architecture] = {}
    for look in range(count):
        law, seed = laws[look % len(laws)], task.options.seed + 1000 * number + look
        for made in _looked_for(task, near, predictor.data, law, start, seed):
            if made.key not in ledger.pairs and made.key not in chosen:
                chosen[made.key] = made
                break
    return list(chosen.values())


def _looked_for(task: Task, near: Space, data: Data, law: Regressor, start: Vector, seed: int) -> list[Architecture]:
    """What Optuna tries, best first by a law, all on the budget."""
    optuna, space, options = _optuna(), task.space, task.options
    first = dict(zip(space.groups, start.tolist(), strict=True))
    low, high = near.lows / near.sizes - start, near.highs / near.sizes - start
    wide = max(float(np.abs([low, high]).max()), 1e-6)
    axes = {  # around the start, since CMA-ES begins in the middle of its axes, with a deviation of a sixth of them
        group: optuna.distributions.FloatDistribution(at - wide, at + wide) for group, at in first.items()
    }
    sampler = _sampler(optuna, options.sampler, seed)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial(first)
        tried: list[tuple[float, Architecture]] = []
        for _ in range(-(-(options.trials or SAMPLERS[options.sampler]) // BATCH)):
            trials = [study.ask(axes) for _ in range(BATCH)]
            given = [trial.params for trial in trials]  # a deep copy each time it is asked for
            wanted = [np.array([params[group] for group in space.groups]) for params in given]
            made = [near.realised(vector, task.sparsity) for vector in wanted]
            damage = law.predict(data.features(space.vectors(made))).tolist()
            for trial, architecture, value in zip(trials, made, damage, strict=True):
                study.tell(trial, value)
                tried.append((value, architecture))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [architecture for _, architecture in sorted(tried, key=lambda each: each[0])]


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.CmaEsSampler(seed=seed, popsize=BATCH, n_startup_trials=1)


def check_installed(strategy: str) -> None:
    """Checks that what a strategy needs is there.

    Raises:
        InputError: it isn't; the message says how to install it.
    """
    if strategy != "random":
        boosting()
    if strategy == "surrogate":
        _optuna()


def _optuna() -> Any:
    """The `optuna` module.

    Raises:
        InputError: it, or what its CMA-ES needs, isn't installed.
    """
    try:
        import cmaes  # noqa: F401 - Optuna imports it when it is first asked for a sample
        import optuna
    except ImportError:
        raise InputError("Optuna is not installed; `pip install graphprune[search]` installs it") from None
    return optuna


def pareto_front(points: Float[np.ndarray, "points objectives"]) -> Int[np.ndarray, " front"]:
    """The points that no other beats in all objectives, all minimised; in order of the first."""
    order = np.lexsort(points.T[::-1])
    front: list[int] = []
    for at in order.tolist():
        beaten = [np.all(points[other] <= points[at]) for other in front]
        if not any(beaten):
            front.append(at)
    return np.array(front, dtype=int)


def pareto_of(space: Space, pairs: Sequence[Pair], targets: Sequence[str]) -> list[Pair]:
    """Of measured architectures, those that none beats in size and all of the targets (a latency may be one)."""
    usable = [pair for pair in pairs if all(name in pair.quality for name in targets)]
    if not usable:
        return []
    rows = [
        [-space.removed(pair.architecture), *(damage_of(name, pair.quality[name]) for name in targets)]
        for pair in usable
    ]
    return [usable[at] for at in pareto_front(np.array(rows, dtype=float)).tolist()]


STRATEGIES: dict[str, Callable[[Task], Found]] = {
    "surrogate": surrogate_search,
    "paper": paper_search,
    "random": random_search,
}

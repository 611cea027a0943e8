"""A search keeps the budget, counts what it costs, and is worth what it costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import GraphpruneError, InfeasibleError, InputError
from graphprune.prediction.pairs import Pair
from graphprune.prediction.predictor import learn
from graphprune.prediction.sampling import sampled
from graphprune.prediction.search import (
    STRATEGIES,
    Found,
    Options,
    Task,
    narrowed,
    pareto_front,
    pareto_of,
    random_search,
    surrogate_search,
)
from tests.prediction import planted

SMALL = Options(evaluations=40, pairs=28, rounds=4, trials=75, samples=500)
SPARSITY = 0.3


def task(measure: object = planted.measure, options: Options = SMALL) -> Task:
    assert callable(measure)
    return Task(planted.SPACE, SPARSITY, measure, options)


def loss(found: Found) -> float:
    return float(np.log(found.best.quality[planted.TARGET]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_real_evaluation_is_counted_and_none_is_made_twice(strategy: str) -> None:
    counting = planted.Counting()
    found = STRATEGIES[strategy](task(counting))
    assert found.evaluations == SMALL.evaluations == len(counting.asked) == len(set(counting.asked))
    assert [pair.architecture.key for pair in found.pairs] == counting.asked
    assert found.best in found.pairs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_found_meets_the_budget_to_one_unit(strategy: str) -> None:
    found = STRATEGIES[strategy](task())
    on_budget = found.pairs if strategy != "paper" else [c for c in found.pairs if c == found.best]
    for pair in on_budget:
        assert abs(planted.SPACE.removed(pair.architecture) - SPARSITY * planted.SPACE.prunable) <= 7 / 2
    for checked in found.checked:
        assert abs(planted.SPACE.removed(checked.architecture) - SPARSITY * planted.SPACE.prunable) <= 7 / 2


def test_with_as_many_evaluations_a_search_beats_random_search() -> None:
    """On a law with noise, for three seeds; the planted law itself judges."""
    gains = []
    for seed in range(3):
        options = replace(SMALL, seed=seed)
        found = {name: search(task(lambda m: planted.measure(m, 0.01), options)) for name, search in STRATEGIES.items()}
        best = planted.SPACE.vectors([each.best.architecture for each in found.values()])
        true = dict(zip(found, planted.nats(best).tolist(), strict=True))
        assert true["surrogate"] < true["random"]
        assert len({each.evaluations for each in found.values()}) == 1
        gains.append(true["random"] - true["surrogate"])
    assert np.mean(gains) > 0.1  # nats


def test_the_papers_search_beats_the_pairs_that_it_learned_from() -> None:
    found = STRATEGIES["paper"](task())
    drawn = sampled(planted.SPACE, SMALL.evaluations, sparsity=SPARSITY)
    assert loss(found) < np.log(np.mean([pair.quality[planted.TARGET] for pair in planted.measure(drawn)]))
    assert len(found.checked) == SMALL.evaluations - SMALL.to_learn


def test_the_same_seed_finds_the_same_and_another_something_else() -> None:
    first, again = surrogate_search(task()), surrogate_search(task())
    assert [pair.architecture.key for pair in first.pairs] == [pair.architecture.key for pair in again.pairs]
    other = surrogate_search(task(options=replace(SMALL, seed=1)))
    assert other.pairs != first.pairs


def test_tpe_searches_too() -> None:
    found = surrogate_search(task(options=replace(SMALL, evaluations=32, rounds=2, sampler="tpe", trials=50)))
    assert found.evaluations == 32
    assert len(found.checked) == 4


def test_starts_are_evaluated_first_and_counted() -> None:
    start = planted.SPACE.realised(1 / planted.STEEP, SPARSITY)
    found = surrogate_search(replace(task(), starts=(start, start)))
    assert found.pairs[0].architecture == start
    assert found.evaluations == SMALL.evaluations
    assert loss(found) <= float(planted.nats(planted.SPACE.vectors([start]))[0])


def test_what_was_predicted_is_noted_before_it_is_measured() -> None:
    found = surrogate_search(task(options=replace(SMALL, kind="linear")))
    for checked in found.checked:
        (pair,) = planted.measure([checked.architecture])
        assert checked.measured == pytest.approx(pair.quality[planted.TARGET], rel=1e-12)
        assert checked.low <= checked.high
        assert checked.predicted == pytest.approx(checked.measured, rel=0.5)
    assert len({checked.predicted for checked in found.checked}) > 1


def test_important_groups_are_narrowed_downwards_and_unimportant_ones_upwards() -> None:
    predictor = learn(planted.data(80))
    narrow = narrowed(planted.SPACE, predictor, SPARSITY)
    bounds = {part.group: (part.low / part.size, part.high / part.size) for part in narrow.parts}
    assert bounds[planted.MOST][1] <= SPARSITY
    assert bounds[planted.LEAST][0] >= SPARSITY / 2 - 0.01
    narrow.check_reachable(SPARSITY)
    assert narrowed(planted.SPACE, predictor, 0.9) == planted.SPACE


def test_candidates_without_a_number_are_counted_and_never_best() -> None:
    def some_fail(architectures: list[object]) -> list[Pair]:
        pairs = planted.measure(architectures)  # type: ignore[arg-type]
        return [replace(pair, quality={}) if i % 3 == 0 else pair for i, pair in enumerate(pairs)]

    found = surrogate_search(task(some_fail))
    assert found.evaluations == SMALL.evaluations
    assert found.best.quality
    with pytest.raises(GraphpruneError, match="no candidate gave a finite quality"):
        random_search(task(lambda made: [replace(pair, quality={}) for pair in planted.measure(made)]))


def test_a_candidate_that_was_stopped_is_best_only_if_all_were() -> None:
    def stopped(architectures: list[object]) -> list[Pair]:
        pairs = planted.measure(architectures)  # type: ignore[arg-type]
        best = min(pairs, key=lambda pair: pair.quality[planted.TARGET])
        return [replace(pair, stopped=pair == best) for pair in pairs]

    assert not random_search(task(stopped)).best.stopped


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_the_front_is_what_brute_force_says(rows: list[tuple[int, int, int]]) -> None:
    points = np.array(rows, dtype=float)
    beaten = [any(np.all(other <= point) and np.any(other < point) for other in points) for point in points]
    front = pareto_front(points)
    assert {tuple(points[at]) for at in front} == {tuple(p) for p, lost in zip(points, beaten, strict=True) if not lost}
    assert len({tuple(points[at]) for at in front}) == len(front)


def test_the_front_of_size_and_quality_has_the_smallest_and_the_best() -> None:
    pairs = planted.measure(sampled(planted.SPACE, 40))
    front = pareto_of(planted.SPACE, pairs, [planted.TARGET])
    sizes = [planted.SPACE.removed(pair.architecture) for pair in front]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) == max(planted.SPACE.removed(pair.architecture) for pair in pairs)
    assert min(pairs, key=lambda pair: pair.quality[planted.TARGET]) in front
    assert pareto_of(planted.SPACE, [replace(pairs[0], quality={})], [planted.TARGET]) == []


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pairs": 5}, "needs at least 10 measured architectures, not 5; raise --pairs"),
        ({"evaluations": 20, "pairs": 20}, "20 evaluations leave none"),
        ({"evaluations": 18, "pairs": None}, "at least 10 .* not 9"),
        ({"kind": "forest"}, "no predictor is named 'forest'"),
        ({"design": "grid"}, "no design is named 'grid'"),
        ({"sampler": "genetic"}, "no sampler is named 'genetic'"),
        ({"rounds": 0}, "rounds is at least 1, not 0"),
        ({"trials": 0}, "trials is at least 1, not 0"),
        ({"samples": 0}, "samples is at least 1, not 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_measured(
    change: dict[str, object], words: str
) -> None:
    counting = planted.Counting()
    with pytest.raises(InputError, match=words):
        surrogate_search(task(counting, replace(SMALL, **change)))  # type: ignore[arg-type]
    assert not counting.asked


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_that_no_allocation_meets_is_refused_before_anything_is_measured(strategy: str) -> None:
    counting = planted.Counting()
    with pytest.raises(InfeasibleError, match="is out of reach"):
        STRATEGIES[strategy](replace(task(counting), sparsity=0.99))
    assert not counting.asked


def test_a_target_that_is_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="accuracy was not measured"):
        random_search(task(options=replace(SMALL, target="accuracy")))


def test_optuna_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(InputError, match=r"Optuna is not installed; `pip install graphprune\[search\]`"):
        surrogate_search(task())

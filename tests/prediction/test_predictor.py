"""A planted law is found again, intervals hold, and what can't be learned from is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graphprune import Model
from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.prediction.architecture import Architecture, Space
from graphprune.prediction.data import LEAST, Data, GraphFeatures, damage_of, quality_of
from graphprune.prediction.pairs import Pair
from graphprune.prediction.predictor import DEFAULT, learn
from graphprune.prediction.regressors import REGRESSORS
from graphprune.prediction.report import agreement, best_kind, compared, coverage, learning_curve
from graphprune.prediction.sampling import sampled
from graphprune.scorers import score
from tests.prediction import planted


def test_a_planted_law_is_recovered() -> None:
    predictor = learn(planted.data(80))
    fresh = planted.SPACE.vectors(sampled(planted.SPACE, 200, design="untied", seed=9))
    truth = planted.nats(fresh)
    assert np.corrcoef(predictor.damage(fresh)[:, 0], truth)[0, 1] > 0.97
    assert np.abs(predictor.damage(fresh)[:, 0] - truth).mean() < 0.2 * truth.std()
    np.testing.assert_allclose(predictor.predict(fresh), np.exp(predictor.damage(fresh)))
    report = agreement(predictor)[planted.TARGET]
    assert report.spearman > 0.95
    assert report.r2 > 0.9


def test_kinds_are_compared_by_held_out_ranks_and_the_default_is_among_the_best() -> None:
    comparison = compared(planted.data(80, noise=0.02))
    assert set(comparison) == set(REGRESSORS)
    best = comparison[best_kind(comparison)].spearman
    assert best == max(each.spearman for each in comparison.values())
    assert comparison[DEFAULT].spearman > best - 0.02


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_a_monotone_predictor_never_says_that_more_sparsity_helps(kind: str) -> None:
    predictor = learn(planted.data(60, noise=0.3), kind=kind, n_folds=2)
    vectors = np.random.default_rng(0).uniform(0, 0.5, (50, len(planted.SPACE)))
    before = predictor.damage(vectors)
    for column in range(len(planted.SPACE)):
        more = vectors.copy()
        more[:, column] += 0.2
        assert (predictor.damage(more) >= before - 1e-9).all()


@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_monotone_transform_of_the_quality_keeps_the_order(kind: str) -> None:
    data = planted.data(40)
    squared = replace(data, damage=2 * data.damage)  # the square of every perplexity
    vectors = planted.data(30, seed=3).vectors
    once, twice = (learn(each, kind=kind, n_folds=2).damage(vectors)[:, 0] for each in (data, squared))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4)


def test_targets_are_learned_side_by_side_each_as_if_alone() -> None:
    data = planted.data(40)
    other = np.square(data.vectors).sum(axis=1)
    both = replace(data, targets=(planted.TARGET, "accuracy.task"), damage=np.column_stack([data.damage[:, 0], other]))
    predicted = learn(both).damage(data.vectors)
    np.testing.assert_allclose(predicted[:, :1], learn(data).damage(data.vectors))
    assert np.corrcoef(predicted[:, 1], other)[0, 1] > 0.98
    np.testing.assert_allclose(learn(both).predict(data.vectors)[:, 1], 1 - predicted[:, 1])


def test_damage_is_lower_for_what_is_better() -> None:
    assert damage_of("perplexity.a", 20.0) < damage_of("perplexity.a", 30.0)
    assert damage_of("accuracy.a", 0.9) < damage_of("accuracy.a", 0.5)
    assert damage_of("latency", 1.0) < damage_of("latency", 2.0)
    for name, value in (("perplexity.a", 20.0), ("accuracy.a", 0.7), ("latency", 1.5)):
        assert quality_of(name, np.array([damage_of(name, value)]))[0] == pytest.approx(value)


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_cover_at_their_level_and_are_no_wider_than_they_must_be(level: float) -> None:
    """With noise that no predictor can know; over several draws of the pairs, since each draw's coverage varies."""
    inside, widths, noise = [], [], 0.2
    for seed in range(6):
        predictor = learn(planted.data(60, noise=noise, seed=seed), kind="linear")
        fresh = planted.data(300, noise=noise, seed=100 + seed)
        low, high = predictor.damage_intervals(fresh.vectors, level)
        inside.append((low <= fresh.damage) & (fresh.damage <= high))
        widths.append((high - low).mean())
    share = np.concatenate(inside).mean()
    assert level - 0.04 <= share <= level + 0.08
    perfect = 2 * noise * {0.8: 1.2816, 0.9: 1.6449}[level]  # if the law itself were known
    assert np.mean(widths) < 1.8 * perfect


def test_intervals_are_of_the_quality_and_hold_what_is_predicted() -> None:
    predictor = learn(planted.data(60, noise=0.1))
    vectors = planted.data(20, seed=4).vectors
    low, high = predictor.intervals(vectors, 0.9)
    damage = predictor.damage_intervals(vectors, 0.9)
    np.testing.assert_allclose(low, np.exp(damage[0]))
    np.testing.assert_allclose(high, np.exp(damage[1]))
    assert ((low < predictor.predict(vectors)) & (predictor.predict(vectors) < high)).all()


def test_what_removes_more_than_any_pair_is_extrapolated() -> None:
    predictor = learn(planted.data(60))
    shares = planted.SPACE.sizes * planted.SPACE.costs / planted.SPACE.prunable
    removed = predictor.data.vectors @ shares
    np.testing.assert_allclose(predictor.reach, (removed.min(), removed.max()))
    inside = predictor.data.vectors[:1]
    more = np.full_like(inside, removed.max() / shares.sum() + 0.02)
    assert predictor.covers(np.concatenate([inside, more, 0 * inside])).tolist() == [True, False, False]


def test_coverage_is_measured_on_pairs_that_nothing_was_learned_from() -> None:
    assert 0.75 <= coverage(planted.data(60, noise=0.2), kind="linear", level=0.9) <= 1.0


def test_importance_names_the_groups_that_matter_and_those_that_do_not() -> None:
    importance = learn(planted.data(80)).importance()
    order = sorted(importance, key=lambda group: -importance[group][0])
    assert planted.MOST in order[:3]
    assert planted.LEAST in order[-4:]
    assert all(deviation >= 0 for _, deviation in importance.values())
    steepest = planted.STEEP[[planted.SPACE.groups.index(group) for group in order]]
    assert np.corrcoef(np.arange(len(order)), steepest)[0, 1] < -0.8


def test_more_pairs_rank_better() -> None:
    curve = learning_curve(planted.data(80, noise=0.05), (12, 30, 64))
    assert list(curve) == [12, 30, 64]
    assert curve[12][0] < curve[30][0]
    assert curve[12][0] < curve[64][0]
    assert list(learning_curve(planted.data(40), kind="linear")) == [10, 16, 24, 32]


def test_a_report_of_a_predictor_that_knows_nothing_says_so() -> None:
    data = planted.data(60)
    nonsense = replace(data, damage=np.random.default_rng(0).permutation(data.damage))
    report = agreement(learn(nonsense))[planted.TARGET]
    assert abs(report.spearman) < 0.4
    assert report.r2 < 0.2


def test_features_of_the_graph_are_what_the_lowest_pieces_carry(tiny: Model) -> None:
    scores = score(tiny, "magnitude")
    space = Space.of(tiny)
    graph = GraphFeatures.of(tiny, scores)
    architecture = Architecture({"neuron.2": 3, "head.1": 1})
    found = graph(space, space.vectors([architecture]))[0]
    everything = sum(
        float(scores.values[f"{kind}.{layer}"].double().sum()) for kind in ("head", "neuron") for layer in range(6)
    )
    neurons = float(scores.values["neuron.2"].double().sort().values[:3].sum()) / everything
    heads = float(scores.values["head.1"].double().view(4, 2).sum(dim=1).min()) / everything
    by_group = dict(zip(space.groups, found, strict=False))
    assert by_group["neuron.2"] == pytest.approx(neurons, rel=1e-5)
    assert by_group["head.1"] == pytest.approx(heads, rel=1e-5)
    assert found[-1] == pytest.approx(neurons + heads, rel=1e-5)
    assert sum(value != 0 for value in by_group.values()) == 2


def test_features_of_the_graph_help_where_the_law_is_theirs(tiny: Model) -> None:
    space, scores = Space.of(tiny), score(tiny, "magnitude")
    graph = GraphFeatures.of(tiny, scores)
    made = sampled(space, 60, design="sobol")
    value = np.exp(3 + 4 * graph(space, space.vectors(made))[:, -1])
    pairs = [Pair(each, {"perplexity.t": float(x)}) for each, x in zip(made, value, strict=True)]
    without = agreement(learn(Data.of(space, pairs)))["perplexity.t"]
    knowing = agreement(learn(Data.of(space, pairs, graph=graph)))["perplexity.t"]
    assert knowing.mae < without.mae


def test_predicted_damage_is_a_score_of_the_same_units(tiny: Model) -> None:
    """A slope that is planted comes back, shared out as the units' own scores say."""
    space, units = Space.of(tiny), score(tiny, "magnitude")
    steep = np.linspace(1.0, 3.0, len(space))
    made = sampled(space, 80, design="sobol")
    values = np.exp(space.vectors(made) @ steep)
    pairs = [Pair(each, {"perplexity.t": float(x)}) for each, x in zip(made, values, strict=True)]
    predictor = learn(Data.of(space, pairs), kind="linear")
    scores = predictor.scores(units)
    assert set(scores.values) == {
        *space.groups,
        *(f"block.{layer}.{part}" for layer in range(6) for part in ("attn", "mlp")),
    }
    for slope, group in zip(steep, space.groups, strict=True):
        assert float(scores.values[group].sum()) == pytest.approx(slope, rel=0.15)
        assert torch.equal(scores.values[group].argsort(), units.values[group].argsort())
    seen = predictor.data.vectors[:, 1].max() - predictor.data.vectors[:, 1].min()
    assert float(scores.values["block.0.mlp"]) == pytest.approx(steep[1] * seen, rel=0.15)
    assert scores.model == tiny.identity
    assert scores.method == "predictor"


def test_units_keep_their_order_where_removing_more_does_no_harm(tiny: Model) -> None:
    space, units = Space.of(tiny), score(tiny, "magnitude")
    steep = np.r_[-1.0, np.linspace(1.0, 3.0, len(space) - 1)]
    made = sampled(space, 80, design="sobol")
    values = np.exp(space.vectors(made) @ steep)
    pairs = [Pair(each, {"perplexity.t": float(x)}) for each, x in zip(made, values, strict=True)]
    scores = learn(Data.of(space, pairs), kind="linear").scores(units)
    first = space.groups[0]
    assert torch.equal(scores.values[first].argsort(), units.values[first].argsort())
    assert float(scores.values[first].max()) < min(float(scores.values[name].min()) for name in space.groups[1:])


def test_scores_of_a_predictor_go_where_other_scores_go(tiny: Model, tmp_path: object) -> None:
    from pathlib import Path

    from graphprune.pruning import cut

    space = Space.of(tiny)
    pairs = [Pair(each, {"perplexity.t": 20.0 + i}) for i, each in enumerate(sampled(space, 20, design="sobol"))]
    scores = learn(Data.of(space, pairs)).scores(score(tiny, "magnitude"))
    path = Path(str(tmp_path)) / "predictor.safetensors"
    scores.save(path)
    again = Scores.load(path, None, tiny.identity)
    assert cut(tiny, again, 0.2).removed_parameters(tiny.units) == pytest.approx(0.2 * space.prunable, abs=200)


# Bad input


def test_too_few_pairs_say_how_many_are_needed() -> None:
    pairs = planted.measure(sampled(planted.SPACE, LEAST - 1))
    with pytest.raises(InputError, match=f"needs at least {LEAST} measured architectures, not {LEAST - 1}"):
        Data.of(planted.SPACE, pairs)
    nothing = [replace(pair, quality={}) for pair in pairs]
    with pytest.raises(InputError, match=f"not {LEAST - 1}"):
        Data.of(planted.SPACE, [*pairs, *nothing])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -3.0])
def test_a_target_that_is_no_perplexity_is_refused(value: float) -> None:
    pairs = planted.measure(sampled(planted.SPACE, 12))
    pairs[5] = replace(pairs[5], quality={planted.TARGET: value})
    with pytest.raises(InputError, match=r"perplexity\.text of an architecture is .* nothing can be learned"):
        Data.of(planted.SPACE, pairs)


def test_a_target_that_was_not_measured_is_refused() -> None:
    pairs = planted.measure(sampled(planted.SPACE, 12))
    with pytest.raises(InputError, match=r"accuracy\.task was not measured"):
        Data.of(planted.SPACE, pairs, ["accuracy.task"])
    with pytest.raises(InputError, match="other is not predicted"):
        learn(planted.data(12)).importance("other")


@pytest.mark.parametrize(("level", "words"), [(0.0, "not 0"), (1.0, "not 1"), (0.99, "need 99 pairs, not 20")])
def test_a_level_that_can_not_be_had_is_refused(level: float, words: str) -> None:
    predictor = learn(planted.data(20), kind="linear")
    with pytest.raises(InputError, match=words):
        predictor.intervals(predictor.data.vectors, level)


def test_other_nonsense_is_refused(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no predictor is named 'forest'"):
        learn(planted.data(12), kind="forest")
    with pytest.raises(InputError, match="from 10 to 15, not 18"):
        learning_curve(planted.data(20), (18,))
    flat = Scores({group.name: torch.zeros(group.size) for group in tiny.units.of_kind("head", "neuron")}, "flat")
    with pytest.raises(InputError, match="flat add up to 0"):
        GraphFeatures.of(tiny, flat)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match=r"pip install graphprune\[search\]"):
        learn(planted.data(12))

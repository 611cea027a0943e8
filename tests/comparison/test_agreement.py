"""Comparisons: scopes, seeds, what can't be compared, files."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from graphprune import Comparison, Scores, compare
from graphprune.comparison.ranks import persistence, rank_biased_overlap
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import load_tensors, save_tensors
from tests.oracles.ranks import jaccard
from tests.unchecked import unchecked

SIZES = {"head.0": 4, "head.1": 4, "neuron.0": 12, "neuron.1": 12}


def scores(seed: int = 0, method: str = "wanda", sizes: Mapping[str, int] = SIZES, **facts: Any) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(size, generator=generator) for name, size in sizes.items()}
    return Scores(values, method, **{"model": "model", "inputs": f"{method}-{seed}", **facts})


def noisy(base: Scores, seed: int, noise: float = 0.3) -> Scores:
    """The same scorer at another calibration seed."""
    other = scores(seed)
    values = {name: value + noise * other.values[name] for name, value in base.values.items()}
    return replace(base, values=values, inputs=f"{base.inputs}-{seed}")


def row(found: Scores, *groups: str) -> list[float]:
    chosen: list[float] = torch.cat([found.values[name] for name in groups or SIZES]).double().tolist()
    return chosen


def test_every_scope_has_the_statistics_of_its_units() -> None:
    a, b = scores(0), scores(1, "taylor")
    found = compare({"a": a, "b": b}, budgets=(0.25, 0.5))
    assert [scope.name for scope in found.scopes] == ["overall", "head", "neuron", *SIZES]
    for scope in found.scopes:
        x, y = row(a, *scope.groups), row(b, *scope.groups)
        assert scope.units == len(x)
        values = {name: found.agreed("a", "b", name, scope.name).value for name in ("spearman", "kendall", "rbo")}
        assert values["spearman"] == pytest.approx(spearmanr(x, y).statistic)
        assert values["kendall"] == pytest.approx(kendalltau(x, y).statistic)
        assert values["rbo"] == pytest.approx(rank_biased_overlap(np.array([x, y]), persistence(len(x)))[0, 1])
        for budget in (0.25, 0.5):
            shared = found.agreed("a", "b", "jaccard", scope.name, budget=budget).value
            assert shared == pytest.approx(jaccard(x, y, int(budget * len(x) + 0.5)))


def test_what_is_not_asked_for_is_not_worked_out_and_says_so(tmp_path: Path) -> None:
    several = {"a": scores(0), "b": scores(1, "taylor"), "c": scores(2, "flap")}
    every, some = compare(several), compare(several, statistics=["jaccard"])
    assert some.statistics == ("spearman", "jaccard")
    assert some.order == every.order
    assert some.inputs != every.inputs
    some.save(tmp_path / "some.safetensors")
    some = Comparison.load(tmp_path / "some.safetensors")
    assert some.matrix() == every.matrix()
    assert some.matrix("jaccard", budget=0.5) == every.matrix("jaccard", budget=0.5)
    with pytest.raises(ValueError, match="kendall was not worked out; there are spearman, jaccard"):
        some.agreed("a", "b", "kendall")
    with pytest.raises(ValueError, match="rbo was not worked out"):
        some.stability("a", "rbo")
    with pytest.raises(InputError, match="no statistic is named 'pearson'"), unchecked():
        compare(several, statistics=["pearson"])  # type: ignore[list-item]


def test_a_scorer_agrees_with_itself() -> None:
    found = compare({"a": scores(0), "b": scores(1), "twin": scores(0)})
    for statistic in ("spearman", "kendall", "rbo"):
        assert found.agreed("a", "twin", statistic).value == pytest.approx(1)
        assert found.agreed("b", "b", statistic).value == pytest.approx(1)
    assert found.agreed("a", "twin", "jaccard", budget=0.3).value == 1
    assert found.clusters()[0] == ("a", "twin")


def test_order_alone_counts() -> None:
    a, b = scores(0), scores(1)
    bent = replace(a, values={name: value.exp() * 7 for name, value in a.values.items()})
    assert compare({"a": a, "b": b}).matrix("kendall") == compare({"a": bent, "b": b}).matrix("kendall")


def test_one_seed_gives_no_interval_and_says_so() -> None:
    base = scores(0)
    found = compare({"a": [base, noisy(base, 5)], "b": scores(1)})
    agreed = found.agreed("a", "b")
    assert agreed.value is not None
    assert (agreed.low, agreed.high) == (None, None)
    assert agreed.why == "b: one calibration seed, so no interval"
    assert found.stability("b").why == "b: one calibration seed"
    assert any("one calibration seed of b" in note for note in found.notes)


def test_intervals_hold_what_pairs_of_seeds_say() -> None:
    first, second = scores(0), scores(1, "taylor")
    a, b = [noisy(first, seed) for seed in range(10, 14)], [noisy(second, seed) for seed in range(20, 23)]
    found = compare({"a": a, "b": b})
    pairs = [spearmanr(row(x), row(y)).statistic for x in a for y in b]
    agreed = found.agreed("a", "b")
    assert agreed.value == pytest.approx(np.mean(pairs))
    assert agreed.low is not None
    assert agreed.high is not None
    assert min(pairs) <= agreed.low < np.mean(pairs) < agreed.high <= max(pairs)
    own = [spearmanr(row(x), row(y)).statistic for i, x in enumerate(a) for y in a[:i]]
    assert found.stability("a").value == pytest.approx(np.mean(own))
    wide = compare({"a": [noisy(first, s, 2.0) for s in range(10, 14)], "b": b}).agreed("a", "b")
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > agreed.high - agreed.low


def test_seeds_that_say_the_same_have_an_interval_of_no_width() -> None:
    a, b = scores(0), scores(1)
    agreed = compare({"a": [a, a, a], "b": [b, b]}).agreed("a", "b", "kendall", "neuron")
    assert agreed.low == pytest.approx(agreed.value)
    assert agreed.high == pytest.approx(agreed.value)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    several = {"a": [noisy(scores(0), seed) for seed in range(3)], "b": [noisy(scores(1), seed) for seed in range(3)]}
    once, again, other = compare(several), compare(several), compare(several, seed=1)
    assert torch.equal(once.tensors["spearman.low"], again.tensors["spearman.low"])
    assert not torch.equal(once.tensors["spearman.low"], other.tensors["spearman.low"])


def test_constant_scores_have_no_correlation_and_the_reason_is_told() -> None:
    flat = Scores({name: torch.ones(size) for name, size in SIZES.items()}, "flat", model="model")
    found = compare({"a": scores(0), "flat": flat, "b": scores(1)})
    agreed = found.agreed("a", "flat", "kendall", "neuron.1")
    assert agreed.value is None
    assert agreed.why == "flat scores all units of neuron.1 alike"
    assert found.agreed("flat", "flat").value is None
    assert found.matrix()[1] == [None, None, None]
    assert 0 <= (found.agreed("a", "flat", "rbo").value or -1) <= 1
    assert found.clusters()[-1] == ("flat",)
    assert found.order[-1] == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors.values())


def test_scores_that_are_constant_in_one_layer_are_compared_in_the_others() -> None:
    a = scores(0)
    b = replace(scores(1), values={**scores(1).values, "neuron.0": torch.zeros(12)})
    found = compare({"a": a, "b": b})
    assert found.agreed("a", "b", scope="neuron.0").value is None
    assert found.agreed("a", "b", scope="neuron.1").value is not None
    assert found.agreed("a", "b", scope="neuron").value is not None


def test_ties_everywhere_are_ranked_by_averages() -> None:
    a, b = scores(0), scores(1)
    coarse = replace(a, values={name: (value * 2).round() for name, value in a.values.items()})
    found = compare({"coarse": coarse, "b": b})
    assert found.agreed("coarse", "b").value == pytest.approx(spearmanr(row(coarse), row(b)).statistic)
    assert found.agreed("coarse", "b", "kendall").value == pytest.approx(kendalltau(row(coarse), row(b)).statistic)


def test_scorers_of_neurons_alone_are_compared_on_neurons() -> None:
    neurons = scores(2, "llmrank", {"neuron.0": 12, "neuron.1": 12})
    found = compare({"a": scores(0), "llmrank": neurons})
    assert [scope.name for scope in found.scopes] == ["overall", "neuron", "neuron.0", "neuron.1"]
    assert "heads are not compared: of all scorers only a score them" in found.notes
    assert found.scope("overall").units == 24


def test_kinds_can_be_chosen() -> None:
    found = compare({"a": scores(0), "b": scores(1)}, kinds=["head"])
    assert found.scope("overall").groups == ("head.0", "head.1")


def test_whole_modules_are_compared_with_whole_modules() -> None:
    sizes = {f"block.{layer}.{what}": 1 for layer in range(3) for what in ("attn", "mlp")}
    found = compare({"a": scores(0, sizes=sizes), "b": scores(1, sizes=sizes)})
    assert [scope.name for scope in found.scopes] == ["overall", "block"]
    assert found.scope("block").units == 6


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "one": ({"a": scores()}, {}, "at least two scorers"),
    "models": ({"a": scores(), "b": scores(model="other")}, {}, "a and b are of different models"),
    "levels": ({"a": scores(), "b": scores(sizes={"block.0.attn": 1})}, {}, "no units in common: a scores head"),
    "missing": (
        {"a": scores(), "b": scores(sizes={**SIZES, "neuron.2": 12})}, {},
        "the scores of a are incomplete: neuron.2 missing",
    ),
    "size": ({"a": scores(), "b": scores(sizes={**SIZES, "neuron.1": 13})}, {}, "12 units in a, 13 in b"),
    "kind": ({"a": scores(), "b": scores(sizes={"neuron.0": 12})}, {"kinds": ["head"]}, "b scores no heads"),
    "mixed": ({"a": [scores(), scores(1, "taylor")], "b": scores()}, {}, "differ in more than a seed"),
    "nothing": ({"a": [], "b": scores()}, {}, "no scores of a"),
    "p": ({"a": scores(), "b": scores(1)}, {"p": 1.0}, "between 0 and 1, not 1"),
    "budgets": ({"a": scores(), "b": scores(1)}, {"budgets": (0.5, 1.5)}, "not 0.5, 1.5"),
    "end": ({"a": scores(), "b": scores(1)}, {"end": "middle"}, "not of 'middle'"),
    "resamples": ({"a": scores(), "b": scores(1)}, {"resamples": 0}, "at least 1 sample"),
    "level": ({"a": scores(), "b": scores(1)}, {"level": 2.0}, "level of an interval"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_refused_in_a_sentence(name: str) -> None:
    given, options, message = BAD[name]
    with unchecked(), pytest.raises(InputError, match=message) as error:
        compare(given, **options)
    assert "\n" not in str(error.value)


def test_what_was_not_compared_is_told() -> None:
    found = compare({"a": scores(0), "b": scores(1)}, budgets=(0.5,))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: found.agreed("a", "c"), "'c' was not compared; there are a, b"),
        (lambda: found.agreed("a", "b", scope="neuron.9"), "nothing was compared on 'neuron.9'"),
        (lambda: found.agreed("a", "b", "jaccard"), "at the budgets 0.5, not None"),
        (lambda: found.agreed("a", "b", "jaccard", budget=0.3), "at the budgets 0.5, not 0.3"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def saved(tmp_path: Path) -> tuple[Comparison, Path]:
    found = compare({"a": [noisy(scores(0), seed) for seed in range(2)], "b": scores(1), "c": scores(2)})
    path = tmp_path / "comparison.safetensors"
    found.save(path)
    return found, path


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    found, path = saved(tmp_path)
    read = Comparison.load(path)
    assert replace(read, tensors={}) == replace(found, tensors={})
    assert read.tensors.keys() == found.tensors.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in found.tensors.items())
    assert "NaN" not in path.with_suffix(".json").read_text()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    tensors, facts = load_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    spoiled = {**tensors, "kendall": tensors["kendall"].clone().fill_(float("nan"))}
    cases: list[tuple[dict[str, torch.Tensor], dict[str, str], str]] = [
        (tensors, facts | {"format": "graphprune.scores"}, "is no graphprune.comparison file"),
        (tensors, facts | {"version": "99"}, "reads up to 1"),
        (tensors, facts | {"contenders": "[{}]"}, "damaged metadata"),
        (tensors, {name: value for name, value in facts.items() if name != "scopes"}, "damaged metadata"),
        ({"spearman": tensors["spearman"]}, facts, "kendall is missing"),
        (tensors, facts | {"budgets": "[0.5]"}, "jaccard is missing or of another size"),
        (spoiled, facts, "NaN or infinite"),
    ]
    for parts, metadata, message in cases:
        save_tensors(path, parts, metadata)
        with pytest.raises(FormatError, match=message):
            Comparison.load(path)

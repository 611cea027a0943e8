"""What holds for every entry of SCORERS, on decoders and perceptrons."""

from functools import cache
from typing import Any

import pytest
import torch

from graphprune import CalibrationStats, Model, Scores, calibrate, score
from graphprune.calibration.gradient import gradients
from graphprune.core.errors import InputError
from graphprune.core.units import HEAD, NEURON
from graphprune.scorers import SCORERS, make_scorer, scorer_options
from graphprune.scorers.inputs import WeightInputs, WeightScorer
from tests import families

MODELS = ("llama", "qwen2", "gemma3_text", "perceptron")
OPTIONS: dict[str, dict[str, Any]] = {  # every option, away from its default
    "random": {"seed": 7},
    "magnitude": {"norm": 2, "part": "incoming"},
    "activation": {},
    "wanda": {},
    "credit": {},
    "mlprank": {"rank": "mpr", "gamma": 0.3, "theta": 0.2, "blocks": "isolated", "mlp": "gated", "activation": "pre"},
    "llmrank": {"rank": "mpr", "gamma": 0.3, "theta": 0.2, "blocks": "isolated", "mlp": "gated", "activation": "post"},
    "graphrank": {"direction": "both", "weight": "magnitude", "alpha": 0.5, "personalization": "uniform",
                  "normalisation": "none"},
    "taylor": {"form": "unit"},
    "flap": {},
}  # fmt: skip
WRONG: dict[str, list[dict[str, Any]]] = {
    "random": [{"seed": -1}, {"seed": 1 << 64}, {"seed": 0.5}, {"seed": "x"}, {"seed": None}],
    "magnitude": [{"norm": 3}, {"norm": 0}, {"part": "x"}, {"part": None}],
    "activation": [],
    "wanda": [],
    "mlprank": [{"rank": "x"}, {"gamma": -0.1}, {"gamma": 1.1}, {"gamma": float("nan")}, {"gamma": "1"},
                {"gamma": True}, {"theta": 2}, {"theta": None}, {"blocks": "x"}, {"mlp": "x"}, {"activation": "x"}],
    "llmrank": [{"rank": "x"}, {"gamma": 2}, {"theta": -1}],
    "graphrank": [{"direction": "x"}, {"weight": "signed"}, {"alpha": 1.5}, {"alpha": float("nan")},
                  {"personalization": "x"}, {"personalization": "inputs"}, {"direction": "forward"},
                  {"normalisation": "x"}, {"alpha": "1"}],
    "taylor": [{"form": "x"}, {"form": None}, {"form": 1}],
    "flap": [],
    "credit": [],
}  # fmt: skip
PAIRS = [(name, scorer) for name in MODELS for scorer in SCORERS if (name, scorer) != ("perceptron", "taylor")]
TWO_MODELS = [(name, scorer) for name, scorer in PAIRS if name in {"llama", "perceptron"}]
WEIGHED = ("random", "magnitude", "wanda", "taylor")


@cache
def measured(name: str, seed: int = 0) -> tuple[Model, CalibrationStats]:
    if name == "perceptron":
        model = families.perceptron(seed=seed)
        return model, calibrate(model, torch.randn(32, 6, generator=torch.Generator().manual_seed(1)))
    model = families.decoder(name, seed=seed)
    return model, calibrate(model, families.token_ids(6, 12))


@cache
def slopes(name: str) -> dict[str, torch.Tensor] | None:
    return None if name == "perceptron" else gradients(measured(name)[0], families.token_ids(6, 12))


def scored(name: str, scorer: str, **options: Any) -> Scores:
    model, stats = measured(name)
    return score(model, scorer, stats=stats, gradients=slopes(name), **options)


def same(a: Scores, b: Scores) -> bool:
    return a.values.keys() == b.values.keys() and all(torch.equal(a.values[k], b.values[k]) for k in a.values)


def test_the_lists_of_options_cover_every_scorer() -> None:
    assert OPTIONS.keys() == WRONG.keys() == SCORERS.keys()
    for name, options in OPTIONS.items():
        assert options.keys() == scorer_options(make_scorer(name)).keys()


@pytest.mark.parametrize(("name", "scorer"), PAIRS)
@pytest.mark.parametrize("default", [True, False])
def test_gives_every_group_of_a_kind_one_finite_score_a_unit(name: str, scorer: str, default: bool) -> None:
    model, _ = measured(name)
    scores = scored(name, scorer, **({} if default else OPTIONS[scorer]))
    assert set(scores.kinds) <= {HEAD, NEURON}
    assert NEURON in scores.kinds
    assert scores.values.keys() == {group.name for group in model.units.of_kind(*scores.kinds)}
    for group_name, values in scores.values.items():
        assert values.dtype == torch.float32
        assert values.shape == (model.units[group_name].size,)
        assert torch.isfinite(values).all()
        assert len(set(values.tolist())) > 1
        assert (values >= 0).all()


@pytest.mark.parametrize(("name", "scorer"), TWO_MODELS)
def test_is_deterministic(name: str, scorer: str) -> None:
    first, second = scored(name, scorer), scored(name, scorer)
    assert same(first, second)
    assert first.inputs == second.inputs


@pytest.mark.parametrize(("name", "scorer"), TWO_MODELS)
def test_leaves_the_model_and_what_was_measured_as_they_are(name: str, scorer: str) -> None:
    model, stats = measured(name)
    looked_at = [model.parameters, stats.squares, stats.sums, slopes(name) or {}]
    before = [{key: value.clone() for key, value in tensors.items()} for tensors in looked_at]
    scored(name, scorer)
    for tensors, copies in zip(looked_at, before, strict=True):
        assert all(torch.equal(value, tensors[key]) for key, value in copies.items())


@pytest.mark.parametrize("scorer", SCORERS)
def test_says_what_it_did(scorer: str) -> None:
    model, _ = measured("llama")
    scores = scored("llama", scorer, **OPTIONS[scorer])
    assert scores.method == scorer
    assert scores.options == OPTIONS[scorer]
    assert scores.model == model.identity


@pytest.mark.parametrize(("scorer", "option"), [(name, option) for name, known in OPTIONS.items() for option in known])
def test_every_option_makes_a_difference(scorer: str, option: str) -> None:
    base = {"personalization": "uniform"} if option == "direction" else {}  # both ways from the outputs is one way
    default, changed = (
        scored("llama", scorer, **base),
        scored("llama", scorer, **base, **{option: OPTIONS[scorer][option]}),
    )
    assert not same(default, changed)
    assert default.inputs != changed.inputs


@pytest.mark.parametrize(("name", "scorer"), [pair for pair in TWO_MODELS if pair[1] != "random"])
def test_differs_from_random_and_from_every_other_scorer(name: str, scorer: str) -> None:
    def order(other: str) -> list[list[int]]:
        return [values.argsort(stable=True).tolist() for values in scored(name, other).values.values()]

    for other in (other for of, other in PAIRS if of == name):
        if other == scorer or (name == "perceptron" and {scorer, other} == {"wanda", "graphrank"}):
            continue
        assert order(scorer) != order(other), other


@pytest.mark.parametrize(("scorer", "options"), [(name, options) for name, wrong in WRONG.items() for options in wrong])
def test_refuses_an_option_out_of_range_in_one_sentence(scorer: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(InputError, match=f"the scorer {scorer}: .*{option}|seed") as caught:
        make_scorer(scorer, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("option", ["nonsense", "name", "needs_stats", "needs_gradients", "per", "graph", "stats"])
def test_refuses_an_unknown_option(scorer: str, option: str) -> None:
    with pytest.raises(InputError, match=f"the scorer {scorer} has no option '{option}'"):
        make_scorer(scorer, **{option: 1})


def test_refuses_an_unknown_scorer_and_names_the_known() -> None:
    with pytest.raises(InputError, match=f"no scorer is named 'nonsense'; there are {', '.join(SCORERS)}"):
        make_scorer("nonsense")


@pytest.mark.parametrize("scorer", [name for name in SCORERS if make_scorer(name).needs_stats])
def test_refuses_to_guess_without_statistics(scorer: str) -> None:
    model, _ = measured("llama")
    with pytest.raises(InputError, match=f"the scorer {scorer} needs calibration"):
        score(model, scorer)


@pytest.mark.parametrize("scorer", [name for name in SCORERS if make_scorer(name).needs_stats])
def test_refuses_statistics_of_another_model(scorer: str) -> None:
    model, _ = measured("llama")
    _, others = measured("llama", seed=1)
    with pytest.raises(InputError, match="belong to another model"):
        score(model, scorer, stats=others)


@pytest.mark.parametrize("scorer", [name for name in SCORERS if not make_scorer(name).needs_stats])
def test_needs_no_statistics_where_it_says_so(scorer: str) -> None:
    model, stats = measured("llama")
    known = slopes("llama")
    assert same(score(model, scorer, gradients=known), score(model, scorer, gradients=known, stats=stats))


@pytest.mark.parametrize("scorer", [name for name in SCORERS if make_scorer(name).needs_gradients])
def test_refuses_to_guess_without_gradients(scorer: str) -> None:
    model, stats = measured("llama")
    with pytest.raises(InputError, match=f"the scorer {scorer} needs calibration; give --calibration FILE"):
        score(model, scorer, stats=stats)


@pytest.mark.parametrize("scorer", [name for name in SCORERS if make_scorer(name).needs_gradients])
def test_refuses_a_model_that_has_no_loss(scorer: str) -> None:
    model, stats = measured("perceptron")
    with pytest.raises(InputError, match=f"^{scorer} needs a loss: perceptron is a perceptron"):
        score(model, scorer, stats=stats)


@pytest.mark.parametrize("scorer", [name for name in SCORERS if not make_scorer(name).needs_gradients])
def test_needs_no_gradients_where_it_says_so(scorer: str) -> None:
    model, stats = measured("llama")
    without, given = score(model, scorer, stats=stats), scored("llama", scorer)
    assert same(without, given)
    assert without.inputs == given.inputs


# Scores of single weights


def weighed(scorer: str, parameter: str = "model.layers.1.mlp.down_proj.weight") -> torch.Tensor:
    model, stats = measured("llama")
    known = slopes("llama")
    chosen = make_scorer(scorer)
    assert isinstance(chosen, WeightScorer)
    assert known is not None
    seen = WeightInputs(parameter, stats.rms("neuron.1"), known[parameter])
    return chosen.of_weights(model.parameters["model.layers.1.mlp.down_proj.weight"], seen)


def test_the_scorers_of_weights_are_these() -> None:
    assert tuple(name for name in SCORERS if isinstance(make_scorer(name), WeightScorer)) == WEIGHED


@pytest.mark.parametrize("scorer", WEIGHED)
def test_gives_every_weight_a_finite_score_and_the_same_again(scorer: str) -> None:
    found = weighed(scorer)
    assert found.dtype == torch.float32
    assert found.shape == (16, 24)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert len(set(found.flatten().tolist())) > 100
    assert torch.equal(found, weighed(scorer))


@pytest.mark.parametrize("scorer", WEIGHED)
def test_orders_the_weights_of_a_row_differently_from_the_others(scorer: str) -> None:
    orders = {other: weighed(other)[0].argsort().tolist() for other in WEIGHED}
    assert all(orders[scorer] != order for other, order in orders.items() if other != scorer)

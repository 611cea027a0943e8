"""Single weights removed inside the engine, against running everything and each kernel's definition."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.mask import WEIGHT
from graphprune.core.pattern import Pattern
from graphprune.methods import Cut, Recipe
from graphprune.models.model import Model, build_causal_lm
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.scorers import make_scorer
from graphprune.scorers.inputs import WeightScorer
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.sequential import Overlaid, Seen, operate
from graphprune.solvers.units import Compensation
from graphprune.solvers.weights import WeightSurgeon
from graphprune.surgery.removed import linear_weights
from tests.families import decoder
from tests.oracles import slimgpt
from tests.oracles import sparsegpt as oracle
from tests.solvers.test_blocks import read_by
from tests.solvers.test_sequential import tokens

DAMPING = 0.01
CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}  # Hessians are summed in float32, and feed on each other
IN_ORDER = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def weight_scorer(name: str) -> WeightScorer | None:
    if name == "sparsegpt":
        return None
    made = make_scorer(name)
    assert isinstance(made, WeightScorer)
    return made


def scored(method: str, W: Any, X: Any, n_removed: int, pattern: tuple[int, int] | None) -> Any:
    """Which weights stay by Wanda's or by their magnitude, sorted one group after the other."""
    scores = np.abs(W) * (np.sqrt(np.square(X).mean(axis=1)) if method == "wanda" else 1.0)
    if pattern is not None:
        groups, gone = scores.reshape(-1, pattern[1]), pattern[1] - pattern[0]
    elif method == "wanda":
        assert n_removed % len(W) == 0
        groups, gone = scores, n_removed // len(W)
    else:
        groups, gone = scores.reshape(1, -1), n_removed
    keep = np.ones(groups.shape, dtype=bool)
    for row, order in enumerate(groups.argsort(axis=1, kind="stable")[:, :gone]):
        keep[row, order] = False
    return keep.reshape(W.shape)


def by_running_everything(
    model: Model, rows: torch.Tensor, method: str, remove: dict[str, int], pattern: tuple[int, int] | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What becomes of every matrix, and what stays: the whole model runs before each group of layers is solved."""
    changed, keep = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for layer in range(model.decoder.n_layers):
        for modules in IN_ORDER:
            network = build_causal_lm(model.config, Overlaid(model.parameters, changed), None, torch.float32).eval()
            X = read_by(network, rows, model.decoder.parameter(layer, modules[0])).flatten(0, 1).double().numpy().T
            for module in modules:
                name = model.decoder.parameter(layer, f"{module}.weight")
                W = model.parameters[name].double().numpy()
                if method == "sparsegpt":
                    asked: dict[str, Any] = {"n_removed": remove[name]} if pattern is None else {"pattern": pattern}
                    solved, stays = oracle.prune(W, slimgpt.damped(X, DAMPING), **asked)
                else:
                    stays = scored(method, W, X, remove[name], pattern)
                    solved = W * stays
                changed[name], keep[f"{WEIGHT}{name}"] = torch.from_numpy(solved).float(), torch.from_numpy(stays)
    return changed, keep


@pytest.mark.parametrize("pattern", [None, (2, 4), (1, 4)], ids=str)
@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude"])
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_every_matrix_is_solved_as_by_running_all_of_it(
    model_type: str, method: str, pattern: tuple[int, int] | None
) -> None:
    model = decoder(model_type)
    rows, names = tokens(model), linear_weights(model)
    remove = {name: model.shapes[name][0] * (model.shapes[name][1] // 2) for name in names}
    surgeon = WeightSurgeon(
        model, weight_scorer(method), remove if pattern is None else Pattern(*pattern),
        "obs" if method == "sparsegpt" else "none", DAMPING,
    )  # fmt: skip
    found = operate(model, rows, surgeon, dtype=torch.float32)
    changed, keep = by_running_everything(model, rows, method, remove, pattern)
    assert set(changed) == set(found.parameters) == set(names)
    assert all(torch.equal(found.keep[name], stays) for name, stays in keep.items())
    for name, weights in changed.items():
        torch.testing.assert_close(found.parameters[name], weights, **CLOSE)
        assert not found.parameters[name][~keep[f"{WEIGHT}{name}"]].any()
    assert found.errors.keys() == {f"{s}.{i}" for i in range(2) for s in ("attn_in", "attn", "mlp_in", "neuron")}
    assert all(0 < error < 1.5 for error in found.errors.values())


def made(method: str, sparsity: float | None = None, **given: Any) -> tuple[Model, Cutting]:
    model = decoder("llama")
    recipe = Recipe.of(method, **given)
    amount = recipe.sparsity(sparsity)
    return model, apply(recipe, amount, Evidence.of_text(model, tokens(model)))


METHODS = [
    ("sparsegpt", "obs"), ("sparsegpt", "none"), ("wanda", "none"), ("wanda", "obs"), ("magnitude", "none"),
    ("magnitude", "obs"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "compensation"), METHODS)
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(4, 8), Pattern(1, 2)], ids=str)
def test_patterns_hold_in_every_group_of_every_matrix(method: str, compensation: str, pattern: Pattern) -> None:
    model, cutting = made(method, pattern=str(pattern), compensation=compensation)
    names = linear_weights(model)
    assert len(names) == 14
    for name in names:
        keep = cutting.mask.keep[f"{WEIGHT}{name}"]
        assert bool((keep.view(len(keep), -1, pattern.of).sum(dim=2) == pattern.stay).all())
        weights = cutting.model.parameters[name]
        assert not weights[~keep].any()
        assert bool((weights[keep] != 0).all())


@pytest.mark.parametrize(("method", "compensation"), METHODS)
@pytest.mark.parametrize("allocation", ["uniform", "log", "linear"])
@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.517])
def test_exactly_the_budget_goes(method: str, compensation: str, allocation: str, sparsity: float) -> None:
    model, cutting = made(method, sparsity, pattern="unstructured", compensation=compensation, cut=Cut(allocation))
    names = linear_weights(model)
    total = sum(model.parameters[name].numel() for name in names)
    gone = sum(int((~cutting.mask.keep[f"{WEIGHT}{name}"]).sum()) for name in names)
    assert abs(gone - sparsity * total) <= 1
    zeros = sum(int((cutting.model.parameters[name] == 0).sum()) for name in names)
    assert zeros == gone


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_repair_changes_the_weights_that_stay_but_not_the_first_mask(method: str) -> None:
    _, plain = made(method, 0.5, pattern="unstructured", compensation="none")
    model, better = made(method, 0.5, pattern="unstructured", compensation="obs")
    name = "model.layers.0.self_attn.q_proj.weight"
    keep = plain.mask.keep[f"{WEIGHT}{name}"]
    assert torch.equal(better.mask.keep[f"{WEIGHT}{name}"], keep)
    assert torch.equal(plain.model.parameters[name], model.parameters[name] * keep)
    assert (better.model.parameters[name] - plain.model.parameters[name]).abs().max() > 1e-3
    assert plain.operated is not None
    assert better.operated is not None
    assert better.operated.errors["attn_in.0"] < plain.operated.errors["attn_in.0"]


MODEL = decoder("llama")


def shown(X: Any) -> Seen:
    """The MLP's first two layers, if what they read is X (columns, tokens)."""
    hessian = Hessian.empty(len(X))
    hessian.add(torch.from_numpy(X.T).float())
    names = [f"model.layers.0.mlp.{module}_proj.weight" for module in ("gate", "up")]
    return Seen(0, "mlp_in", hessian, {name: MODEL.parameters[name] for name in names})


def error_of(compensation: Compensation, seen: Seen, remove: dict[str, int] | Pattern, scorer: str) -> float:
    return WeightSurgeon(MODEL, weight_scorer(scorer), remove, compensation, DAMPING)(seen).error


@given(st.integers(0, 1000), st.integers(1, 383), st.sampled_from(["wanda", "magnitude", "random"]))
def test_repair_never_errs_more_than_none_on_the_same_mask(seed: int, n_removed: int, scorer: str) -> None:
    random = np.random.default_rng(seed)
    seen = shown(random.normal(size=(16, 16)) @ random.normal(size=(16, 80)))
    if scorer == "random":
        scorer = "magnitude"  # of weights that have nothing to do with the inputs' sizes, in another order
        seen = Seen(0, "mlp_in", seen.hessian, {n: w.roll(seed, dims=1) for n, w in seen.weights.items()})
    remove = dict.fromkeys(seen.weights, n_removed)
    assert 0 < error_of("obs", seen, remove, scorer) <= error_of("none", seen, remove, scorer)


def test_a_repair_that_would_do_harm_is_left_out() -> None:
    """Inputs that have nearly all in common, and a mask that takes no account of it."""
    found = set()
    for seed in range(30):
        random = np.random.default_rng(seed)
        seen = shown(random.normal(size=(16, 3)) @ random.normal(size=(3, 80)) + 0.3 * random.normal(size=(16, 80)))
        remove = dict.fromkeys(seen.weights, 300)
        changes = [
            WeightSurgeon(MODEL, weight_scorer("magnitude"), remove, c, DAMPING)(seen) for c in ("none", "obs")
        ]  # fmt: skip
        for name, plain in changes[0].parameters.items():
            repaired = changes[1].parameters[name]
            found.add(torch.equal(repaired, plain))
        assert changes[1].error <= changes[0].error
    assert found == {True, False}


@pytest.mark.parametrize("compensation", ["none", "obs"])
def test_weights_of_inputs_that_are_never_there_go_first_and_those_that_stay_are_as_they_were(
    compensation: Compensation,
) -> None:
    X = np.random.default_rng(0).normal(size=(16, 16)) @ np.random.default_rng(1).normal(size=(16, 80))
    X[[2, 9]] = 0.0
    seen = shown(X)
    for n_removed in (40, 48):  # of 2 x 24
        change = WeightSurgeon(MODEL, None, dict.fromkeys(seen.weights, n_removed), compensation, DAMPING)(seen)
        assert change.error == 0
        for name, weights in change.parameters.items():
            keep = change.keep[f"{WEIGHT}{name}"]
            assert int((~keep).sum()) == n_removed
            assert bool(keep[:, [i for i in range(16) if i not in {2, 9}]].all())
            assert not weights[~keep].any()
            assert torch.equal(weights[keep], seen.weights[name][keep])


def test_half_precision_weights_stay_in_their_own_type() -> None:
    model = decoder("llama")
    half = Model.from_parameters(model.config, {name: model.parameters[name].bfloat16() for name in model.parameters})
    found = operate(half, tokens(half), WeightSurgeon(half, None, Pattern(2, 4), "obs"))
    assert all(weights.dtype == torch.bfloat16 for weights in found.parameters.values())
    assert all(not weights[~found.keep[f"{WEIGHT}{name}"]].any() for name, weights in found.parameters.items())


def test_layers_that_lose_nothing_are_not_operated_on() -> None:
    names = dict.fromkeys(linear_weights(MODEL), 0) | {"model.layers.1.mlp.up_proj.weight": 5}
    surgeon = WeightSurgeon(MODEL, weight_scorer("wanda"), names)
    assert surgeon.sites(0) == ()
    assert surgeon.sites(1) == ("mlp_in",)


def test_what_does_not_go_with_single_weights_is_refused() -> None:
    with pytest.raises(InputError, match="5 doesn't divide"):
        made("sparsegpt", pattern="2:5")
    with pytest.raises(InputError, match="scores units, not single weights"):
        made("flap", 0.5, pattern="unstructured", compensation="none")
    with pytest.raises(ValueError, match="no scorer to go by"):
        WeightSurgeon(MODEL, None, Pattern(2, 4)).by_score("a", torch.ones(2, 4))

"""Heads and neurons chosen and made up for inside the engine, against running everything and brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune import calibrate, score
from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, UnitGroup
from graphprune.masks.items import HeadMode
from graphprune.models.bias import biased
from graphprune.models.model import Model, build_causal_lm
from graphprune.scorers import make_scorer
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import HeadError
from graphprune.solvers.sequential import Operated, Overlaid, Seen, operate
from graphprune.solvers.units import ByElimination, ByScore, Chooser, Compensation, Decided, UnitSurgeon, output_error
from tests.families import decoder
from tests.oracles import obs
from tests.oracles import slimgpt as oracle
from tests.solvers.test_blocks import read_by
from tests.solvers.test_sequential import by_running_everything, pruned, tokens

DAMPING = 0.01
CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}  # Hessians are summed in float32, and feed on each other


def many_headed(**settings: Any) -> Model:
    return decoder("llama", **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4} | settings)


def surgery(model: Model, chooser: Chooser, compensation: Compensation = "obs", windows: int = 6) -> Operated:
    surgeon = UnitSurgeon(model, chooser, compensation, DAMPING)
    return operate(model, tokens(model, windows), surgeon, dtype=torch.float32)


def columns(group: UnitGroup, n_pieces: int) -> list[list[int]]:
    """The columns of each piece, by neighbours."""
    return np.arange(group.size * group.width).reshape(n_pieces, -1).tolist()


def read_in(model: Model, found: Operated, group: UnitGroup, windows: int = 6) -> Any:
    """What a group's reader was given, which is what it is given in the operated model; one column a token."""
    parameters = Overlaid(model.parameters, found.parameters)
    network = build_causal_lm(model.config, parameters, None, torch.float32).eval()
    name = group.outgoing[0].parameter.removesuffix(".weight")
    return read_by(network, tokens(model, windows), name).flatten(0, 1).double().numpy().T


HEADS: dict[str, tuple[HeadMode, int, int, list[oracle.Choose], dict[str, int]]] = {
    "group": ("group", 4, 2, [oracle.lowest(1)] * 2, {}),
    "balanced": ("balanced", 8, 2, [oracle.lowest_of_each(2, 4)] * 2, {"num_key_value_heads": 2}),
    "balanced, one left": ("balanced", 8, 3, [oracle.lowest_of_each(2, 4)] * 3, {"num_key_value_heads": 2}),
}


@pytest.mark.parametrize("head_error", ["grouped", "exact"])
@pytest.mark.parametrize("what", HEADS)
def test_heads_go_as_brute_force_has_them(what: str, head_error: Any) -> None:
    mode, n_pieces, count, choices, settings = HEADS[what]
    model: Model = many_headed(**settings)
    chosen: dict[str, list[int]] = {}

    def solve(group: UnitGroup, W: Any, X: Any) -> Any:
        if group.kind != HEAD:
            return None
        changed, chosen[group.name] = oracle.prune(
            W, X, columns(group, n_pieces), choices, damping=DAMPING, error=head_error
        )
        return changed

    expected = by_running_everything(model, tokens(model), solve)
    remove = {group.name: count for group in model.units.of_kind(HEAD)}
    found = surgery(model, ByElimination(model, remove, mode, head_error))
    for group in model.units.of_kind(HEAD):
        pieces = torch.arange(group.size).view(n_pieces, -1)
        keep = torch.ones(group.size, dtype=torch.bool).index_fill(
            0, pieces[chosen[group.name]].reshape(-1), value=False
        )
        assert torch.equal(found.keep[group.name], keep)
        assert int(keep.sum()) < group.size
        per_key_value = keep.view(settings.get("num_key_value_heads", 4), -1)
        assert torch.equal(found.keep[f"kv_head.{group.layer}"], per_key_value.any(dim=1))
    assert found.parameters.keys() == expected.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found.parameters[name], weights, **CLOSE)


def test_the_two_errors_of_a_head_may_choose_differently() -> None:
    """Or the tests above would say nothing about which of them is taken."""
    model, differ = many_headed(num_key_value_heads=8), 0
    group = model.units["head.0"]
    W = model.parameters[group.outgoing[0].parameter].double().numpy()
    errors: tuple[HeadError, ...] = ("grouped", "exact")
    for seed in range(8):
        X, chosen = correlated(seed, 32), list[list[int]]()
        for error in errors:
            found = ByElimination(model, {"head.0": 4}, "group", error)(group, shown(model, "head.0", X), DAMPING)
            _, gone = oracle.prune(W, X, columns(group, 8), [oracle.lowest(1)] * 4, damping=DAMPING, error=error)
            chosen.append(sorted(gone))
            assert (~found.keep).nonzero()[:, 0].tolist() == chosen[-1]
        differ += chosen[0] != chosen[1]
    assert differ


@pytest.mark.parametrize(
    ("start", "floor", "sizes"),
    [(1, 1, [1] * 9), (6, 2, [6, 3]), (4, 1, [4, 2, 1, 1, 1]), (None, None, [3, 1, 1, 1, 1, 1, 1]), (9, 9, [9])],
)
def test_neurons_go_as_brute_force_has_them(start: int | None, floor: int | None, sizes: list[int]) -> None:
    model, gone = decoder("qwen3"), dict[str, list[int]]()

    def solve(group: UnitGroup, W: Any, X: Any) -> Any:
        if group.kind == HEAD:
            return None
        steps = [oracle.lowest(size) for size in sizes]
        changed, gone[group.name] = oracle.prune(W, X, columns(group, group.size), steps, damping=DAMPING)
        return changed

    expected = by_running_everything(model, tokens(model), solve)
    remove = {group.name: 9 for group in model.units.of_kind("neuron")}
    found = surgery(model, ByElimination(model, remove, group_start=start, group_floor=floor))
    assert found.keep.keys() == {"neuron.0", "neuron.1"}
    for name, keep in found.keep.items():
        assert (~keep).nonzero()[:, 0].tolist() == sorted(gone[name])
    for name, weights in expected.items():
        torch.testing.assert_close(found.parameters[name], weights, **CLOSE)


def test_elimination_without_repair_zeroes_what_the_elimination_chose() -> None:
    model = decoder("llama")
    chooser = ByElimination(model, {"head.0": 1, "neuron.0": 7})
    plain, better = surgery(model, chooser, "none"), surgery(model, chooser, "obs")
    assert torch.equal(plain.keep["head.0"], better.keep["head.0"])
    for name, changed in plain.parameters.items():
        keep = plain.keep["head.0" if "o_proj" in name else "neuron.0"].repeat_interleave(8 if "o_proj" in name else 1)
        assert torch.equal(changed, model.parameters[name] * keep)
    assert better.errors["attn.0"] < plain.errors["attn.0"]


def scored_by_hand(scorer: str, W: Any, X: Any) -> Any:
    """Column by column."""
    rms = np.sqrt(np.square(X).mean(axis=1))
    return rms if scorer == "activation" else np.abs(W).sum(axis=0) * rms


@pytest.mark.parametrize("compensation", ["none", "obs"])
@pytest.mark.parametrize("scorer", ["wanda", "activation"])
def test_scores_are_of_what_the_pruned_blocks_give(scorer: str, compensation: Compensation) -> None:
    model = decoder("llama", num_hidden_layers=3)
    remove = {group.name: 1 if group.kind == HEAD else 10 for group in model.units.of_kind("head", "neuron")}
    chosen: dict[str, torch.Tensor] = {}

    def solve(group: UnitGroup, W: Any, X: Any) -> Any:
        channels = scored_by_hand(scorer, W, X).reshape(group.size, -1)
        heads = np.sqrt(np.square(channels).sum(axis=1)) if scorer == "activation" else channels.sum(axis=1)
        pieces = heads.reshape(2, -1).sum(axis=1) if group.kind == HEAD else heads
        units = np.arange(group.size).reshape(len(pieces), -1)
        keep = np.ones(group.size, dtype=bool)
        keep[units[np.argsort(pieces, kind="stable")[: remove[group.name]]].reshape(-1)] = False
        chosen[group.name] = torch.from_numpy(keep)
        kept = keep.repeat(group.width)
        return W * kept if compensation == "none" else obs.ridge_refit(W, X, kept.nonzero()[0].tolist(), DAMPING)

    expected = by_running_everything(model, tokens(model), solve)
    found = surgery(model, ByScore(model, make_scorer(scorer), remove, "group"), compensation)
    assert chosen.keys() == remove.keys()
    assert all(torch.equal(found.keep[name], keep) for name, keep in chosen.items())
    for name, weights in expected.items():
        torch.testing.assert_close(found.parameters[name], weights, **CLOSE)
    dense = score(model, scorer, stats=calibrate(model, tokens(model)))
    as_dense = {
        name: torch.ones(24, dtype=torch.bool).index_fill(0, dense.values[name].argsort(stable=True)[:10], value=False)
        for name in remove
        if name.startswith("neuron")
    }
    assert any(not torch.equal(found.keep[name], keep) for name, keep in as_dense.items())


def test_scores_of_the_first_site_are_the_dense_models() -> None:
    model = decoder("llama")
    dense = score(model, "wanda", stats=calibrate(model, tokens(model)))
    found = surgery(model, ByScore(model, make_scorer("wanda"), {"neuron.0": 10}, "group"), "none")
    gone = dense.values["neuron.0"].argsort(stable=True)[:10]
    assert not bool(found.keep["neuron.0"][gone].any())
    assert int(found.keep["neuron.0"].sum()) == 14


def test_a_bias_leaves_the_mean_output_of_every_layer_where_it_was() -> None:
    dense = decoder("llama")
    model, mask = biased(dense), pruned(dense)
    found = surgery(model, Decided(mask.keep), "bias")
    assert len(found.parameters) == 8
    for group in model.units.of_kind("head", "neuron"):
        name = group.outgoing[0].parameter
        bias = f"{name.removesuffix('weight')}bias"
        X = torch.from_numpy(read_in(model, found, group))
        W = dense.parameters[name].double()
        before = W @ X
        after = found.parameters[name].double() @ X + found.parameters[bias].double()[:, None]
        torch.testing.assert_close(after.mean(dim=1), before.mean(dim=1), rtol=1e-4, atol=1e-6)
        removed_only = found.parameters[name].double() @ X
        assert (removed_only.mean(dim=1) - before.mean(dim=1)).abs().max() > 1e-3
        error = float((after - before).square().sum() / before.square().sum())
        assert found.errors[f"{group.channel}.{group.layer}"] == pytest.approx(error, rel=1e-4)
        assert error < float((removed_only - before).square().sum() / before.square().sum())


def test_a_bias_that_there_is_already_is_added_to() -> None:
    model = decoder("llama", attention_bias=True, mlp_bias=True)
    name = "model.layers.0.mlp.down_proj"
    keep = {**Mask.full(model.units).keep, "neuron.0": torch.arange(24) >= 9}
    found = surgery(model, Decided(keep), "bias")
    assert found.parameters.keys() == {f"{name}.weight", f"{name}.bias"}
    mean = torch.from_numpy(read_in(model, found, model.units["neuron.0"])).mean(dim=1).float()
    W, b = model.parameters[f"{name}.weight"], model.parameters[f"{name}.bias"]
    torch.testing.assert_close(found.parameters[f"{name}.bias"], b + W[:, :9] @ mean[:9])
    assert b.abs().max() > 0.1


def shown(model: Model, name: str, X: Any) -> Seen:
    """What a surgeon sees where a group is read, if that is X (columns, tokens)."""
    group = model.units[name]
    hessian = Hessian.empty(len(X))
    hessian.add(torch.from_numpy(X.T).float())
    weights = {own.parameter: model.parameters[own.parameter] for own in group.outgoing}
    return Seen(group.layer, group.channel, hessian, weights)


def correlated(seed: int, rows: int = 24, n_tokens: int = 90) -> Any:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, rows)) @ random.normal(size=(rows, n_tokens)) + random.normal(size=(rows, 1))


MODEL = decoder("llama")
BIASED = biased(MODEL)


@given(st.integers(0, 1000), st.integers(1, 23))
def test_repair_never_errs_more_than_none_on_the_same_mask(seed: int, n_removed: int) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    keep = {"neuron.0": torch.ones(24, dtype=torch.bool).index_fill(0, order[:n_removed], value=False)}
    seen = shown(BIASED, "neuron.0", correlated(seed))
    kinds: tuple[Compensation, ...] = ("none", "obs", "bias")
    none, obs, bias = (UnitSurgeon(BIASED, Decided(keep), kind, DAMPING)(seen).error for kind in kinds)
    assert 0 < obs < none
    assert 0 < bias < none


@given(st.integers(0, 1000))
def test_the_error_is_that_of_the_outputs_with_and_without_a_bias(seed: int) -> None:
    random, X = np.random.default_rng(seed), correlated(seed, 7)
    W, changed, b = random.normal(size=(5, 7)), random.normal(size=(5, 7)), random.normal(size=5)
    hessian = Hessian.empty(7)
    hessian.add(torch.from_numpy(X.T).float())
    dense, new, shift = (torch.from_numpy(x).float() for x in (W, changed, b))
    error, whole = output_error(dense, new, hessian)
    assert error == pytest.approx(float(np.square((changed - W) @ X).sum()), rel=1e-4)
    assert whole == pytest.approx(float(np.square(W @ X).sum()), rel=1e-4)
    error, whole = output_error(dense, new, hessian, shift)
    assert error == pytest.approx(float(np.square((changed - W) @ X + b[:, None]).sum()), rel=1e-4)
    assert whole == pytest.approx(float(np.square(W @ X).sum()), rel=1e-4)


def with_dead_neurons(dead: list[int]) -> Model:
    dense, name = decoder("llama"), "model.layers.0.mlp.gate_proj.weight"
    gate = dense.parameters[name].clone()
    gate[dead] = 0.0
    return Model.from_parameters(dense.config, {**dense.parameters, name: gate})


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize(("n_removed", "gone"), [(1, {5}), (3, {5, 11, 20}), (4, {5, 11, 20})])
def test_neurons_that_are_never_active_go_first(n_removed: int, gone: set[int], damping: float) -> None:
    model = with_dead_neurons([5, 11, 20])
    chooser = ByElimination(model, {"neuron.0": n_removed}, group_start=1, group_floor=1)
    found = operate(model, tokens(model), UnitSurgeon(model, chooser, "obs", damping), dtype=torch.float32)
    went = set((~found.keep["neuron.0"]).nonzero()[:, 0].tolist())
    assert len(went) == n_removed
    assert gone <= went
    name = "model.layers.0.mlp.down_proj.weight"
    dense, changed = model.parameters[name], found.parameters[name]
    for column in {5, 11, 20} - went:
        assert torch.equal(changed[:, column], dense[:, column])
        assert bool(dense[:, column].any())
    if n_removed < 4:
        assert found.errors["neuron.0"] == 0
        others = [i for i in range(24) if i not in {5, 11, 20}]
        torch.testing.assert_close(changed[:, others], dense[:, others])
    else:
        assert found.errors["neuron.0"] > 0


@pytest.mark.parametrize("compensation", ["none", "obs", "bias"])
def test_a_mask_that_leaves_a_dead_neuron_leaves_its_weights(compensation: Compensation) -> None:
    model = biased(with_dead_neurons([5, 11]))
    keep = {**Mask.full(model.units).keep, "neuron.0": ~torch.isin(torch.arange(24), torch.tensor([0, 5, 7]))}
    found = surgery(model, Decided(keep), compensation)
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(found.parameters[name][:, 11], model.parameters[name][:, 11])
    assert not found.parameters[name][:, [0, 5, 7]].any()
    assert found.parameters[name].isfinite().all()


def test_a_constant_channel_can_go_if_a_bias_or_another_one_stands_in() -> None:
    X = correlated(1)
    X[4], X[9] = 2.0, -3.0
    seen = shown(BIASED, "neuron.0", X)
    keep = {"neuron.0": torch.arange(24) != 4}
    kinds: tuple[Compensation, ...] = ("none", "obs", "bias")
    none, obs, bias = (UnitSurgeon(BIASED, Decided(keep), kind, 1e-6)(seen).error for kind in kinds)
    assert none > 1e-4
    assert obs < 1e-3 * none
    assert bias < 1e-3 * none
    chosen = ByElimination(BIASED, {"neuron.0": 1})(BIASED.units["neuron.0"], seen, 1e-6).keep
    assert (~chosen).nonzero()[:, 0].tolist() in ([4], [9])


@pytest.mark.parametrize("compensation", ["none", "obs", "bias"])
def test_inputs_that_are_all_zero_cost_nothing(compensation: Compensation) -> None:
    keep = {"neuron.0": torch.arange(24) >= 6}
    change = UnitSurgeon(BIASED, Decided(keep), compensation, DAMPING)(shown(BIASED, "neuron.0", np.zeros((24, 30))))
    name = "model.layers.0.mlp.down_proj.weight"
    assert change.error == 0
    assert torch.equal(change.parameters[name], BIASED.parameters[name] * keep["neuron.0"])

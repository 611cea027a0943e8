"""Masks of single weights: files, surgery, and what is counted."""

import json
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from graphprune.core.errors import FormatError, InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.models.model import Model
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.cut import Plan, excised, zeroed
from graphprune.surgery.removed import linear_weights, removed
from graphprune.surgery.shape import shape_of
from tests.families import causal_lm, decoder, perceptron, token_ids
from tests.surgery.test_cut import scattered

families = pytest.mark.parametrize("model_type", ["qwen2", "gemma3_text"])
DOWN = "model.layers.0.mlp.down_proj.weight"


def half(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random half of every linear layer's weights."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(model.shapes[name], generator=generator) > 0.5 for name in linear_weights(model)}


def thinned(model: Model) -> Mask:
    return Mask.full(model.units).with_weights(half(model))


@families
def test_logits_of_the_masked_checkpoint_are_those_of_the_zeroed_model(model_type: str, tmp_path: Path) -> None:
    model = decoder(model_type)
    mask = thinned(model)
    saved = save_pruned(model, mask, tmp_path / "small")
    assert saved.rung == "masked"
    assert saved.max_difference == 0
    found = Model.from_folder(tmp_path / "small")
    assert found.shapes == model.shapes
    ids = token_ids(2, 10)
    network = causal_lm(model_type)
    dense = network(input_ids=ids).logits
    network.load_state_dict(zeroed(model.parameters, model.units, mask), strict=False)
    expected, logits = network(input_ids=ids).logits, found.module()(input_ids=ids).logits
    torch.testing.assert_close(logits, expected)
    assert (logits - dense).abs().max() > 0.1


def test_a_perceptron_of_single_weights_is_saved_masked(tmp_path: Path) -> None:
    model = perceptron()
    mask = thinned(model)
    saved = save_pruned(model, mask, tmp_path / "small")
    assert (saved.rung, saved.max_difference) == ("masked", 0)
    found = Model.from_folder(tmp_path / "small").parameters
    for name, tensor in model.parameters.items():
        assert torch.equal(found[name], tensor * mask.weights.get(name, True))


@families
def test_weights_that_go_are_zero_in_both_cuts_and_others_stay(model_type: str) -> None:
    model = decoder(model_type)
    units, weights = scattered(model), half(model)
    mask = units.with_weights(weights)
    hollow, small = (cut(model.parameters, model.units, mask) for cut in (zeroed, excised))
    by_units = zeroed(model.parameters, model.units, units)
    smaller = excised(hollow, model.units, units)
    for name in model.shapes:
        assert torch.equal(hollow[name], by_units[name] * weights.get(name, True))
        assert torch.equal(small[name], smaller[name])
    assert any(small[name].shape != tensor.shape for name, tensor in hollow.items())


def test_logits_of_zeroed_and_excised_agree_where_weights_and_units_go() -> None:
    """Llama's MLP reads its width from its weights, so the ragged parameters run in the dense module as they are."""
    module = causal_lm("llama").double()
    model = Model.from_module(module)
    units = {name: keep for name, keep in scattered(model).keep.items() if name.startswith("neuron")}
    mask = Mask({**Mask.full(model.units).keep, **units}).with_weights(half(model))
    settings = {"input_ids": token_ids(2, 10), "use_cache": False}
    hollow, small = (
        functional_call(module, cut(model.parameters, model.units, mask), kwargs=settings).logits
        for cut in (zeroed, excised)
    )
    torch.testing.assert_close(hollow, small)
    assert (hollow - module(**settings).logits).abs().max() > 0.1


@families
def test_what_is_left_is_what_is_not_zero(model_type: str) -> None:
    model = decoder(model_type)
    assert all(bool(tensor.all()) for tensor in model.parameters.values())
    for mask in (thinned(model), scattered(model), scattered(model).with_weights(half(model))):
        plan = Plan.of(mask, model.units)
        hollow = zeroed(model.parameters, model.units, mask)
        assert plan.n_parameters_left(model.shapes) == sum(int(tensor.count_nonzero()) for tensor in hollow.values())
        changed = {name for name, tensor in hollow.items() if not torch.equal(tensor, model.parameters[name])}
        assert plan.touched == changed
    assert not Plan.of(Mask.full(model.units), model.units).touched


def test_a_mask_of_another_shape_is_not_broadcast() -> None:
    model = decoder("llama")
    mask = Mask.full(model.units).with_weights({DOWN: torch.arange(24)[None] > 3})
    for cut in (zeroed, excised):
        with pytest.raises(ValueError, match=r"down_proj.weight is \(1, 24\), the parameter \(16, 24\)"):
            cut(model.parameters, model.units, mask)


@pytest.mark.parametrize("rung", ["uniform", "padded"])
def test_single_weights_leave_no_other_rung_for_a_decoder(rung: str) -> None:
    model = decoder("llama")
    assert [shape_of(model, thinned(model), asked).rung for asked in ("auto", "masked")] == ["masked", "masked"]
    both = scattered(model).with_weights(half(model))
    assert shape_of(model, both).rung == "masked"
    with pytest.raises(InputError, match=f"single weights .* so the checkpoint is masked, not {rung}"):
        shape_of(model, both, rung)


def test_single_weights_leave_no_other_rung_for_a_perceptron() -> None:
    model = perceptron()
    assert [shape_of(model, thinned(model), asked).rung for asked in ("auto", "masked")] == ["masked", "masked"]
    with pytest.raises(InputError, match="so the checkpoint is masked, not excised"):
        shape_of(model, thinned(model), "excised")
    with pytest.raises(InputError, match="excised or masked, not 'padded'"):
        shape_of(model, thinned(model), "padded")


@families
def test_single_weights_are_counted_among_all_linear_layers(model_type: str) -> None:
    model = decoder(model_type)
    mask = thinned(model)
    facts = removed(model, mask, ("head", "neuron"))
    linears = 2 * (2 * 16 * 32 + 2 * 16 * 16 + 3 * 16 * 24)
    gone = sum(int((~keep).sum()) for keep in mask.weights.values())
    assert facts["n_prunable_params"] == linears
    assert facts["n_params_removed"] == facts["weights_removed"] == gone
    assert facts["sparsity"] == facts["prunable_params_removed"] == gone / linears
    assert facts["params_removed"] == gone / model.n_parameters
    assert facts["units_removed"] == {"head": 0, "kv_head": 0, "neuron": 0}


def test_a_weight_that_goes_twice_is_counted_once_and_biases_are_not_linear_weights() -> None:
    model = perceptron((6, 10, 4))
    keep = torch.ones(10, 6, dtype=torch.bool)
    keep[3], keep[4, 0] = False, False
    mask = Mask({"neuron.0": torch.arange(10) != 3}).with_weights({"layers.0.weight": keep})
    facts = removed(model, mask, ("neuron",))
    assert facts["n_prunable_params"] == 60 + 40
    assert facts["n_params_removed"] == 6 + 1 + 4 + 1  # its row, its bias, its column, and one weight of another
    assert facts["sparsity"] == (6 + 4 + 1) / 100
    assert facts["weights_removed"] == 7
    assert facts["units_removed"] == {"neuron": 1}


@pytest.mark.parametrize("kinds", [("head", "neuron"), ("neuron",)])
def test_units_alone_are_counted_among_the_kinds_that_are_pruned(kinds: tuple[str, ...]) -> None:
    model = decoder("qwen2")
    keep = scattered(model).keep
    mask = Mask({name: value if "head" in kinds or "neuron" in name else value | True for name, value in keep.items()})
    facts = removed(model, mask, kinds)
    count = mask.removed_parameters(model.units)
    prunable = model.units.prunable_parameters(*kinds, *(("kv_head",) if "head" in kinds else ()))
    assert count > 0
    assert facts["n_params_removed"] == count
    assert facts["sparsity"] == count / prunable
    assert "weights_removed" not in facts


def test_a_perceptrons_units_are_counted_among_its_parameters_each_once() -> None:
    model = perceptron((6, 10, 10, 4))
    mask = Mask({"neuron.0": torch.arange(10) > 0, "neuron.1": torch.arange(10) > 1})
    facts = removed(model, mask, ("neuron",))
    left = 9 * 6 + 9 + 8 * 9 + 8 + 4 * 8 + 4
    assert facts["n_params_removed"] == model.n_parameters - left
    assert facts["n_prunable_params"] == model.n_parameters - 4  # the outputs' biases belong to no neuron


def test_a_mask_is_read_as_it_was_saved(tmp_path: Path) -> None:
    model = decoder("llama")
    mask = Mask(scattered(model).with_weights(half(model)).keep, "sparsegpt", {"sparsity": 0.5}, model.identity)
    path = tmp_path / "m.safetensors"
    mask.save(path)
    loaded = Mask.load(path, model.units, model.identity, model.shapes)
    assert loaded.keep.keys() == mask.keep.keys()
    assert all(torch.equal(loaded.keep[name], keep) for name, keep in mask.keep.items())
    assert loaded.weights.keys() == set(linear_weights(model))
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["kept"][f"weight.{DOWN}"] == int(mask.weights[DOWN].sum())
    assert described["units"][f"weight.{DOWN}"] == [16, 24]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"model.layers.9.mlp.up_proj.weight": torch.ones(24, 16, dtype=torch.bool)}, "is no parameter of this model"),
        ({DOWN: torch.ones(24, 16, dtype=torch.bool)}, r"is \(24, 16\), in this model \(16, 24\)"),
    ],
)
def test_masks_of_other_weights_are_refused(weights: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    model = decoder("llama")
    path = tmp_path / "m.safetensors"
    Mask.full(model.units).with_weights(weights).save(path)
    Mask.load(path, model.units)
    with pytest.raises(FormatError, match=message) as error:
        Mask.load(path, model.units, shapes=model.shapes)
    assert str(path) in str(error.value)


def test_a_mask_of_weights_alone_lacks_its_units(tmp_path: Path) -> None:
    model = decoder("llama")
    path = tmp_path / "m.safetensors"
    Mask({}).with_weights(half(model)).save(path)
    with pytest.raises(FormatError, match=r"head\.0 is missing"):
        Mask.load(path, model.units, shapes=model.shapes)


def test_scores_of_single_weights_are_refused(tmp_path: Path) -> None:
    model = perceptron()
    path = tmp_path / "s.safetensors"
    Scores(
        {"neuron.0": torch.ones(10), "neuron.1": torch.ones(8), "weight.layers.0.weight": torch.ones(60)}, "test"
    ).save(path)
    with pytest.raises(FormatError, match=r"weight\.layers\.0\.weight is no unit group of this model"):
        Scores.load(path, model.units)


def test_weights_are_added_to_a_copy() -> None:
    model = perceptron()
    full = Mask.full(model.units)
    mask = full.with_weights(half(model))
    assert not full.weights
    assert mask.with_weights({"layers.0.weight": torch.ones(10, 6, dtype=torch.bool)}).weights["layers.0.weight"].all()
    assert not mask.weights["layers.0.weight"].all()

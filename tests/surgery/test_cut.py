"""The cut: pure functions of parameters."""

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from graphprune.core.mask import Mask
from graphprune.core.units import UnitTable
from graphprune.models.model import Model
from graphprune.surgery.cut import Plan, excised, zeroed
from graphprune.surgery.shape import _pad, shape_of
from tests.families import GATED, MODEL_TYPES, causal_lm, decoder, perceptron, perceptron_module, token_ids

Cutter = Callable[[Mapping[str, torch.Tensor], UnitTable, Mask], dict[str, torch.Tensor]]
families = pytest.mark.parametrize("model_type", MODEL_TYPES)


def scattered(model: Model, seed: int = 0) -> Mask:
    """A legal mask with other units in every layer: one group of heads and a random half of the neurons."""
    generator = torch.Generator().manual_seed(seed)
    keep = dict(Mask.full(model.units).keep)
    for group in model.units:
        if group.kind == "neuron":
            keep[group.name] = torch.rand(group.size, generator=generator) > 0.5
        elif group.kind == "kv_head":
            gone = int(torch.randint(group.size, (), generator=generator))
            keep[group.name] = torch.arange(group.size) != gone
            heads = keep[f"head.{group.layer}"]
            keep[f"head.{group.layer}"] = keep[group.name].repeat_interleave(len(heads) // group.size)
    mask = Mask(keep, model=model.identity)
    mask.check_legal(model.units)
    return mask


@families
def test_zeroed_keeps_shapes_and_touches_only_what_goes(model_type: str) -> None:
    model = decoder(model_type)
    mask = scattered(model)
    cut = zeroed(model.parameters, model.units, mask)
    d, inner = model.decoder.d_head, ("gate", "up") if model_type in GATED else ("up",)
    for part, kind, axis, width in (("self_attn.q", "head", 0, d), ("self_attn.o", "head", 1, d),
                                    ("self_attn.k", "kv_head", 0, d), ("self_attn.v", "kv_head", 0, d),
                                    *((f"mlp.{part}", "neuron", 0, 1) for part in inner),
                                    ("mlp.down", "neuron", 1, 1)):  # fmt: skip
        if model_type == "olmo2" and part in {"self_attn.q", "self_attn.k"}:  # what other heads are normalised by
            assert torch.equal(
                cut[f"model.layers.1.{part}_proj.weight"], model.parameters[f"model.layers.1.{part}_proj.weight"]
            )
            continue
        name = f"model.layers.1.{part}_proj.weight"
        keep = mask.keep[f"{kind}.1"].repeat_interleave(width)
        found, before = cut[name].movedim(axis, 0), model.parameters[name].movedim(axis, 0)
        assert torch.equal(found[keep], before[keep])
        assert not found[~keep].any()
        assert before[~keep].any()
    touched = ("_proj",)
    for name, tensor in model.parameters.items():
        assert cut[name].shape == tensor.shape
        if not any(part in name for part in touched):
            assert torch.equal(cut[name], tensor)


@families
def test_excised_takes_out_what_zeroed_sets_to_zero(model_type: str) -> None:
    model = decoder(model_type)
    mask = scattered(model)
    small, hollow = excised(model.parameters, model.units, mask), zeroed(model.parameters, model.units, mask)
    plan = Plan.of(mask, model.units)
    total = 0
    for name, tensor in small.items():
        total += tensor.numel()
        kept = hollow[name]
        for axis, keep in plan.axes.get(name, {}).items():
            kept = kept.index_select(axis, keep.nonzero()[:, 0])
        assert torch.equal(tensor, kept)
    assert total == plan.n_parameters_left(model.shapes)
    assert total == model.n_parameters - mask.removed_parameters(model.units)
    assert total < model.n_parameters


@families
@pytest.mark.parametrize("cut", [zeroed, excised])
def test_the_cut_leaves_the_original_alone(model_type: str, cut: Cutter) -> None:
    model = decoder(model_type)
    before = {name: tensor.clone() for name, tensor in model.parameters.items()}
    cut(model.parameters, model.units, scattered(model))
    assert all(torch.equal(model.parameters[name], tensor) for name, tensor in before.items())


@families
def test_zeroing_twice_is_zeroing_once(model_type: str) -> None:
    model = decoder(model_type)
    mask = scattered(model)
    once = zeroed(model.parameters, model.units, mask)
    twice = zeroed(once, model.units, mask)
    assert all(torch.equal(once[name], tensor) for name, tensor in twice.items())
    assert any(not torch.equal(once[name], model.parameters[name]) for name in once)


@families
@pytest.mark.parametrize("cut", [zeroed, excised])
def test_the_full_mask_cuts_nothing(model_type: str, cut: Cutter) -> None:
    model = decoder(model_type)
    same = cut(model.parameters, model.units, Mask.full(model.units))
    assert all(torch.equal(same[name], tensor) for name, tensor in model.parameters.items())
    assert Plan.of(Mask.full(model.units), model.units).n_parameters_left(model.shapes) == model.n_parameters


def test_logits_of_zeroed_and_excised_agree_on_the_networks_own_code() -> None:
    """Llama's MLP reads its width from its weights, so the ragged parameters run in the dense module as they are."""
    module = causal_lm("llama", seed=2).double()
    model = Model.from_module(module)
    keep = dict(scattered(model, seed=3).keep)
    keep |= {name: torch.ones_like(value) for name, value in keep.items() if "head" in name}
    mask = Mask(keep)
    assert keep["neuron.0"].sum() != keep["neuron.1"].sum()
    ids = token_ids(2, 10)
    results = [
        functional_call(module, cut(model.parameters, model.units, mask), kwargs={"input_ids": ids, "use_cache": False})
        for cut in (zeroed, excised)
    ]
    torch.testing.assert_close(results[0].logits, results[1].logits)
    assert (results[0].logits - module(input_ids=ids, use_cache=False).logits).abs().max() > 0.1


@given(st.lists(st.integers(0, 2**10 - 1), min_size=2, max_size=2), st.sampled_from([nn.ReLU, nn.GELU, nn.Sigmoid]))
def test_a_perceptron_without_units_says_what_it_says_with_zeros(bits: list[int], activation: type[nn.Module]) -> None:
    sizes = (6, 10, 10, 4)
    module = perceptron_module(sizes, activation=activation).double()
    model = Model.from_module(module)
    mask = Mask(
        {f"neuron.{layer}": torch.tensor([bool(b >> i & 1) for i in range(10)]) for layer, b in enumerate(bits)}
    )
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small, hollow = (
        {name.replace(f"layers.{i}.", f"{2 * i}."): tensor for i in range(3) for name, tensor in cut.items()
         if name.startswith(f"layers.{i}.")}
        for cut in (excised(model.parameters, model.units, mask), zeroed(model.parameters, model.units, mask))
    )  # fmt: skip
    torch.testing.assert_close(functional_call(module, small, x), functional_call(module, hollow, x))


def test_a_removed_neurons_bias_goes_too() -> None:
    model = perceptron((6, 10, 4))
    mask = Mask({"neuron.0": torch.arange(10) != 3})
    bias = model.parameters["layers.0.bias"]
    assert bias[3] != 0
    assert zeroed(model.parameters, model.units, mask)["layers.0.bias"][3] == 0
    small = excised(model.parameters, model.units, mask)["layers.0.bias"]
    assert torch.equal(small, bias[torch.arange(10) != 3])
    last = excised(model.parameters, model.units, mask)["layers.1.bias"]
    assert torch.equal(last, model.parameters["layers.1.bias"])


def test_the_cut_keeps_the_floating_type() -> None:
    model = Model.from_module(causal_lm("llama").bfloat16())
    for cut in (zeroed, excised):
        assert {t.dtype for t in cut(model.parameters, model.units, scattered(model)).values()} == {torch.bfloat16}


def test_padding_keeps_each_head_in_its_place() -> None:
    """Two groups of one query head of width 2, padded to three groups of two: zeros after each head and each group."""
    rows = torch.arange(1.0, 9.0).view(4, 2)
    padded = _pad(rows, 0, (2, 1, 2), (3, 2, 2))
    expected = torch.zeros(12, 2)
    expected[0:2], expected[4:6] = rows[:2], rows[2:]
    assert torch.equal(padded, expected)
    assert torch.equal(_pad(rows.T, 1, (2, 1, 2), (3, 2, 2)), expected.T)


def test_padded_layers_all_have_the_width_of_the_widest() -> None:
    model = decoder("qwen2")
    keep = dict(Mask.full(model.units).keep)
    keep["neuron.0"], keep["neuron.1"] = torch.arange(24) < 5, torch.arange(24) >= 15
    shape = shape_of(model, Mask(keep))
    assert shape.rung == "padded"
    found = {name: shape.parameter(name, model.parameters[name]) for name in model.parameters}
    first = found["model.layers.0.mlp.down_proj.weight"]
    assert first.shape == (16, 9)
    assert torch.equal(first[:, :5], model.parameters["model.layers.0.mlp.down_proj.weight"][:, :5])
    assert not first[:, 5:].any()
    second = found["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(second, model.parameters["model.layers.1.mlp.up_proj.weight"][15:])
    assert shape.config(model.config)["intermediate_size"] == 9
    assert model.config["intermediate_size"] == 24

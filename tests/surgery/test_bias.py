"""Biases of zero: the same network to the last bit, in every shape that a model can take."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from graphprune import Model, calibrate, export, score
from graphprune.core.errors import InputError
from graphprune.core.io import save_tensors, write_json
from graphprune.core.mask import Mask
from graphprune.models.bias import BIASED, ZeroBiases, biased
from graphprune.models.checkpoint import Checkpoint
from graphprune.pruning import prune
from graphprune.surgery.checkpoint import save_pruned
from tests import families
from tests.unchecked import unchecked

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def logits(model: Model, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.inference_mode():
        network: Any = model.module(dtype=dtype)
        result: torch.Tensor = network(input_ids=families.token_ids(2, 12), use_cache=False).logits
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"attention_bias": True}, {"mlp_bias": True}])
def test_the_network_is_the_same_to_the_last_bit(settings: dict[str, bool], dtype: torch.dtype) -> None:
    dense = families.decoder("llama", **settings)
    result = biased(dense)
    assert result.config["attention_bias"] is result.config["mlp_bias"] is True
    assert result.identity == dense.identity
    network: Any = result.module()
    for layer in range(2):
        for part in LINEAR:
            name = result.decoder.parameter(layer, f"{part}.bias")
            expected = dense.parameters.get(name, torch.zeros(dense.shapes[name.replace("bias", "weight")][0]))
            assert torch.equal(result.parameters[name], expected)
            assert torch.equal(network.get_parameter(name), expected)
    assert torch.equal(logits(result, dtype), logits(dense, dtype))


def test_a_bias_does_something() -> None:
    dense = families.decoder("llama")
    result = biased(dense)
    name = "model.layers.0.mlp.down_proj.bias"
    parameters = {key: result.parameters[key] + (key == name) for key in result.parameters}
    assert not torch.allclose(logits(replace(result, parameters=parameters)), logits(dense))


def test_no_weight_is_read(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Checkpoint, name: str) -> torch.Tensor:
        raise AssertionError(name)

    monkeypatch.setattr(Checkpoint, "__getitem__", refused)
    with unchecked():  # the type checker looks at a value
        result = biased(tiny)
    assert result.shapes["model.layers.5.mlp.down_proj.bias"] == (128,)
    assert result.shapes["model.layers.5.mlp.down_proj.weight"] == (128, 512)
    assert list(result.parameters) == list(result.shapes)
    assert "model.layers.0.self_attn.o_proj.bias" in result.parameters
    assert "x" not in result.parameters
    assert len(result.parameters) == len(tiny.parameters) + 7 * 6
    assert result.n_parameters == tiny.n_parameters + 6 * (128 + 64 + 64 + 128 + 512 + 512 + 128)


def test_a_folders_model_keeps_its_tokenizer_its_type_and_its_function(tiny: Model) -> None:
    result = biased(tiny)
    assert result.parameters["model.layers.0.mlp.down_proj.bias"].dtype == torch.float16
    assert result.tokenizer("a text")["input_ids"] == tiny.tokenizer("a text")["input_ids"]
    result.verify()
    assert torch.equal(logits(result), logits(tiny))


def test_units_own_the_biases_of_their_rows() -> None:
    dense, result = families.decoder("llama"), biased(families.decoder("llama"))
    assert result.units.sizes() == dense.units.sizes()
    for kind, count in (("head", 8), ("kv_head", 16), ("neuron", 2)):
        group = result.units[f"{kind}.1"]
        assert group.parameters_per_unit == dense.units[group.name].parameters_per_unit + count
        assert {own.axis for own in group.owns if own.parameter.endswith("bias")} == {0}
    owned = {own.parameter for group in result.units for own in group.owns if own.parameter.endswith("bias")}
    assert len(owned) == 2 * 5


def test_a_model_that_has_the_biases_is_returned_as_it_is() -> None:
    model = families.decoder("llama", attention_bias=True, mlp_bias=True)
    assert biased(model) is model
    once = biased(families.decoder("llama"))
    assert biased(once) is once


def test_the_families_that_are_refused_are_those_whose_configuration_lacks_a_flag() -> None:
    with_both = [name for name in families.MODEL_TYPES if hasattr(CONFIG_MAPPING[name](), "mlp_bias")]
    assert with_both == list(BIASED)
    assert all(hasattr(CONFIG_MAPPING[name](), "attention_bias") for name in BIASED)


@pytest.mark.parametrize("name", [name for name in families.MODEL_TYPES if name not in {*BIASED, "gpt2"}])
def test_a_family_without_such_biases_is_refused_in_one_sentence(name: str) -> None:
    """Of OPT and GPT-NeoX, whose configurations can leave biases out, those that do."""
    settings = {"attention_bias": True} if name in {"qwen3", "gemma2", "gemma3_text"} else {}
    settings |= {"opt": {"enable_bias": False}, "gpt_neox": {"attention_bias": False}}.get(name, {})
    with pytest.raises(InputError, match=f"{name} has no bias for o_proj and down_proj.*--compensation obs$") as caught:
        biased(families.decoder(name, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", families.UNGATED)
def test_where_there_are_biases_these_make_up_for_what_goes(name: str, tmp_path: Path) -> None:
    model, rows = families.decoder(name, seed=6), families.token_ids(16, 24)
    assert biased(model) is model
    pruned = prune(model, "flap", 0.3, units="neuron", calibration=rows)
    assert pruned.operated is not None
    stats = calibrate(model, rows)
    (lost,) = (~pruned.mask.keep["neuron.0"]).nonzero(as_tuple=True)
    mean, W = stats.mean("neuron.0")[lost], model.parameters["model.layers.0.mlp.down_proj.weight"].double()
    bias = "model.layers.0.mlp.down_proj.bias"
    expected = model.parameters[bias] + W[:, lost] @ mean
    torch.testing.assert_close(pruned.model.parameters[bias].double(), expected, rtol=1e-4, atol=1e-5)
    assert (expected - model.parameters[bias]).abs().max() > 0.02
    plain = prune(model, "flap", 0.3, units="neuron", compensation="none", calibration=rows)
    assert plain.operated is not None
    assert sum(pruned.operated.errors.values()) < sum(plain.operated.errors.values())
    saved = save_pruned(pruned.model, Mask.full(pruned.model.units), tmp_path / "small")
    assert torch.equal(logits(Model.from_folder(saved.folder)), logits(pruned.model))


def test_a_perceptron_is_refused() -> None:
    with pytest.raises(InputError, match="this needs a language model"):
        biased(families.perceptron())


def test_the_model_is_saved_and_loaded_and_is_the_same(tmp_path: Path) -> None:
    dense = families.decoder("llama")
    result = biased(dense)
    write_json(tmp_path / "config.json", dict(result.config))
    save_tensors(tmp_path / "model.safetensors", result.parameters, {"format": "pt"})
    loaded = Model.from_folder(tmp_path)
    assert loaded.shapes == result.shapes
    assert biased(loaded) is loaded
    assert torch.equal(logits(loaded), logits(dense))
    again = Model.from_parameters(result.config, dict(result.parameters))
    assert torch.equal(logits(again), logits(dense))


@pytest.mark.parametrize("rung", ["masked", "padded"])
def test_biases_that_were_set_survive_a_cut_and_its_checkpoint(tmp_path: Path, rung: str) -> None:
    result = biased(families.decoder("llama"))
    parameters = {
        name: torch.full_like(value, 0.1) if name.endswith("bias") else value
        for name, value in result.parameters.items()
    }
    model = replace(result, parameters=parameters)
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in model.units}
    for name in ("head.0", "kv_head.0"):
        keep[name][: len(keep[name]) // 2] = False
    keep["neuron.1"][5:] = False
    save_pruned(model, Mask(keep, "test", {}, model.identity), tmp_path / "cut", rung=rung)
    saved = Model.from_folder(tmp_path / "cut")
    for layer in range(2):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            assert bool((saved.parameters[f"model.layers.{layer}.{part}.bias"] == 0.1).all())


def test_the_graph_and_the_scores_are_those_of_the_dense_model() -> None:
    dense, result = families.decoder("llama"), biased(families.decoder("llama"))
    rows = families.token_ids(4, 12)
    one, two = calibrate(dense, rows), calibrate(result, rows)
    assert all(torch.equal(values, two.squares[site]) for site, values in one.squares.items())
    for a, b in zip(
        export(dense, weight="activation", stats=one).blocks,
        export(result, weight="activation", stats=one).blocks,
        strict=True,
    ):
        assert torch.equal(a.load().values, b.load().values)
    for scorer in ("flap", "wanda", "magnitude"):
        found = score(result, scorer, stats=one).values
        assert all(torch.equal(v, found[name]) for name, v in score(dense, scorer, stats=one).values.items())


def test_the_overlay_reads_through() -> None:
    weights = {"a.weight": torch.ones(3, 2)}
    overlay = ZeroBiases(weights, {"a.bias": "a.weight"}, {"a.weight": (3, 2), "a.bias": (3,)})
    assert overlay["a.weight"] is weights["a.weight"]
    assert overlay["a.bias"].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(KeyError):
        overlay["b"]

"""Checkpoints whose layers differ: loaded by stock Auto classes, exact, and as small as the mask says."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from graphprune.core.errors import InputError, ModelError
from graphprune.core.mask import Mask
from graphprune.evaluation.evaluate import evaluate
from graphprune.extraction.export import export
from graphprune.models import registration
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.models.ragged import RAGGED, Layer, Ragged
from graphprune.models.ragged_network import RaggedForCausalLM
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.cut import Plan, zeroed
from tests.families import MODEL_TYPES, decoder, token_ids
from tests.surgery.test_cut import scattered

families = pytest.mark.parametrize("model_type", MODEL_TYPES)
SLIDING = {"sliding_window": 4, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}


def without(model: Model, *groups: str, seed: int = 0) -> Mask:
    """A scattered mask that removes some groups as a whole, key/value heads with their heads."""
    keep = dict(scattered(model, seed).keep)
    for name in groups:
        kind, layer = name.split(".")
        for gone in (name, f"kv_head.{layer}") if kind == "head" else (name,):
            keep[gone] = torch.zeros_like(keep[gone])
    return Mask(keep, model=model.identity)


def settings_of(model_type: str) -> dict[str, Any]:
    """Four layers that look at a window and at everything in turn, where a family can."""
    if model_type in {"gemma2", "gemma3_text"}:
        return SLIDING
    if model_type == "qwen2":
        return {**SLIDING, "use_sliding_window": True}
    return {"num_hidden_layers": 4}


def loaded(folder: Path, **settings: Any) -> Any:
    network, report = AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, output_loading_info=True, **{"dtype": torch.float64, **settings}
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network.eval()


def reference(model: Model, mask: Mask) -> Any:
    """The dense network with zeros for what goes."""
    network = Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask))
    return network.module(dtype=torch.float64)


@families
def test_generates_with_a_cache_what_the_zeroed_model_says_without_one(model_type: str, tmp_path: Path) -> None:
    """A window of four tokens, a first layer of either kind without attention, rows of different lengths."""
    model = decoder(model_type, **settings_of(model_type))
    mask = without(model, "head.0", "head.1", "neuron.2", "head.3", "neuron.3")
    saved = save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    network, hollow = loaded(saved.folder), reference(model, mask)
    ids, attended = token_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    ids[0, :3], attended[0, :3] = 0, 0
    generated = network.generate(
        ids, attention_mask=attended, max_new_tokens=8, do_sample=False, output_logits=True,
        return_dict_in_generate=True, eos_token_id=None,
    )  # fmt: skip
    assert generated.sequences.shape == (2, 17)
    for row, start in ((0, 3), (1, 0)):
        with torch.inference_mode():
            expected = hollow(input_ids=generated.sequences[row : row + 1, start:-1], use_cache=False).logits[0, -8:]
        found = torch.stack([step[row] for step in generated.logits])  # which `generate` makes float32
        torch.testing.assert_close(found, expected.to(found), rtol=1e-6, atol=1e-6)


@families
def test_a_ragged_checkpoint_holds_what_is_left_and_nothing_else(model_type: str, tmp_path: Path) -> None:
    model = decoder(model_type)
    mask = scattered(model)
    if model.decoder.family.joint_norm:  # its heads stay, as zeros
        whole = Mask.full(model.units).keep
        mask = replace(
            mask, keep={name: mask.keep[name] if name.startswith("neuron") else whole[name] for name in whole}
        )
    saved = save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    padded = save_pruned(model, mask, tmp_path / "padded", rung="padded")
    assert saved.rung == "ragged"
    assert saved.n_parameters == Plan.of(mask, model.units).n_parameters_left(model.shapes)
    assert saved.n_parameters < padded.n_parameters
    assert saved.n_bytes < padded.n_bytes
    small = load_model(saved.folder)
    assert isinstance(small.form, Ragged)
    kept = [int(mask.keep[f"neuron.{layer}"].sum()) for layer in range(2)]
    assert [layer.neurons for layer in small.form.layers] == kept
    assert kept[0] != kept[1]
    assert small.n_parameters == saved.n_parameters


@families
def test_a_sub_block_that_goes_takes_its_normalisations_with_it(model_type: str, tmp_path: Path) -> None:
    """Unless it still adds a bias, with what normalises that."""
    model = decoder(model_type)
    saved = save_pruned(model, without(model, "head.0", "neuron.0"), tmp_path / "ragged", rung="ragged")
    small = load_model(saved.folder)
    of_block = {name.removeprefix("model.layers.0.") for name in small.shapes if name.startswith("model.layers.0.")}
    biases = {"self_attn.o_proj.bias", "mlp.down_proj.bias"}
    assert of_block == (biases if model_type in {"opt", "gpt2", "gpt_neox"} else set())


def test_a_bias_that_an_empty_sub_block_adds_stays_with_the_norm_behind_it(tmp_path: Path) -> None:
    model = decoder("gemma3_text", attention_bias=True)
    mask = without(model, "head.0", "neuron.1")
    saved = save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    names = load_model(saved.folder).shapes
    assert "model.layers.0.self_attn.o_proj.bias" in names
    assert "model.layers.0.post_attention_layernorm.weight" in names
    assert "model.layers.0.input_layernorm.weight" not in names
    assert "model.layers.1.post_feedforward_layernorm.weight" not in names
    ids = token_ids(2, 8)
    with torch.inference_mode():
        found, expected = loaded(saved.folder)(ids).logits, reference(model, mask)(ids).logits
        without_bias = reference(decoder("gemma3_text"), mask)(ids).logits
    torch.testing.assert_close(found, expected.to(found), rtol=1e-6, atol=1e-6)
    assert (found - without_bias).abs().max() > 1e-3


def test_a_model_without_any_sub_block_still_predicts(tmp_path: Path) -> None:
    model = decoder("llama")
    mask = without(model, "head.0", "head.1", "neuron.0", "neuron.1")
    saved = save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    network = loaded(saved.folder)
    assert network.generate(token_ids(1, 5), max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 8)
    assert [name for name, _ in network.named_parameters() if "layers" in name] == []


def test_saving_again_with_transformers_gives_the_same_checkpoint(tmp_path: Path) -> None:
    model = decoder("qwen3", tie_word_embeddings=True)
    saved = save_pruned(model, without(model, "neuron.1"), tmp_path / "ragged", rung="ragged")
    network = loaded(saved.folder, dtype=torch.float32)
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    network.save_pretrained(tmp_path / "again")
    again, ids = loaded(tmp_path / "again", dtype=torch.float32), token_ids(2, 8)
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, network(ids).logits)
        assert torch.equal(copy.deepcopy(network)(ids).logits, network(ids).logits)
    assert load_model(tmp_path / "again").n_parameters == saved.n_parameters
    assert Model.from_module(network).n_parameters == saved.n_parameters


def test_other_attention_kernels_and_labels_work_as_in_the_stock_class(tmp_path: Path) -> None:
    model = decoder("llama")
    saved = save_pruned(model, without(model, "head.0"), tmp_path / "ragged", rung="ragged")
    ids = token_ids(2, 8)
    fused, eager = loaded(saved.folder), loaded(saved.folder, attn_implementation="eager")
    assert eager.model.config._attn_implementation == "eager"
    with torch.inference_mode():
        torch.testing.assert_close(fused(ids).logits, eager(ids).logits, rtol=1e-5, atol=1e-5)  # a softmax in float32
        loss = fused(ids, labels=ids).loss
        expected = torch.nn.functional.cross_entropy(fused(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)  # transformers sums in float32


def test_a_network_made_from_the_configuration_alone_is_narrow_too(tmp_path: Path) -> None:
    model = decoder("gpt2")
    saved = save_pruned(model, scattered(model), tmp_path / "ragged", rung="ragged")
    config = AutoConfig.from_pretrained(str(saved.folder), local_files_only=True)
    assert config.vocab_size == 64
    with torch.random.fork_rng():
        network = AutoModelForCausalLM.from_config(config)
    assert isinstance(network, RaggedForCausalLM)
    assert sum(parameter.numel() for parameter in network.parameters()) == saved.n_parameters
    assert bool(torch.isfinite(network.eval()(token_ids(1, 5)).logits).all())


def test_a_ragged_checkpoint_is_evaluated_as_what_it_is(tmp_path: Path) -> None:
    model = decoder("mistral")
    mask = without(model, "neuron.0")
    saved = save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    masked = save_pruned(model, mask, tmp_path / "masked", rung="masked")
    rows = token_ids(3, 12)
    ragged, hollow = (evaluate(load_model(folder), rows) for folder in (saved.folder, masked.folder))
    assert ragged.perplexity == pytest.approx(hollow.perplexity, rel=1e-5)
    assert (ragged.params, ragged.checkpoint_bytes) == (saved.n_parameters, saved.n_bytes)
    assert ragged.params < hollow.params


def test_what_looks_at_units_refuses_a_ragged_checkpoint_in_one_sentence(tmp_path: Path) -> None:
    model = decoder("llama")
    small = load_model(save_pruned(model, scattered(model), tmp_path / "ragged", rung="ragged").folder)
    for attempt in (lambda: export(small), lambda: small.units, lambda: small.decoder):
        with pytest.raises(InputError, match=r"^a ragged checkpoint is run and evaluated, not exported.*cut from$"):
            attempt()


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([], "there is a layer"),
        ([{"heads": 2, "kv_heads": 1, "neurons": 3}] * 2, "other than 3 neurons"),
        ([{"heads": 4, "kv_heads": 1, "neurons": 3}] * 2, "rows of projections"),
        ([{"heads": 3, "kv_heads": 2, "neurons": 3}] * 2, "3 query heads for 2"),
        ([{"heads": 2, "kv_heads": 0, "neurons": 3}] * 2, "2 query heads for 0"),
        ([{"heads": -2, "kv_heads": 1, "neurons": 3}] * 2, "-2 heads"),
        ([{"heads": True, "kv_heads": 1, "neurons": 3}] * 2, "True heads"),
        ([{"heads": 2, "kv_heads": 1}] * 2, "neurons"),
        ([{"width": 2}] * 2, "not that of a ragged checkpoint"),
        ("many", "not that of a ragged checkpoint"),
        (None, "not that of a ragged checkpoint"),
    ],
)
def test_a_configuration_that_lies_is_refused(layers: object, complaint: str, tmp_path: Path) -> None:
    model = decoder("llama")
    folder = save_pruned(model, scattered(model), tmp_path / "ragged", rung="ragged").folder
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == RAGGED
    (folder / "config.json").write_text(json.dumps({**config, "layers": layers}))
    with pytest.raises(ModelError, match=complaint) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stock", [None, "llama", {}, {"model_type": "bert"}, {"model_type": "llama"}])
def test_a_ragged_configuration_needs_a_supported_one_inside(stock: object, tmp_path: Path) -> None:
    model = decoder("llama")
    folder = save_pruned(model, scattered(model), tmp_path / "ragged", rung="ragged").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "text_config": stock}))
    with pytest.raises(ModelError) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


def test_single_weights_and_perceptrons_have_no_ragged_rung(tmp_path: Path) -> None:
    model = decoder("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    mask = Mask.full(model.units).with_weights({name: torch.zeros(24, 16, dtype=torch.bool)})
    with pytest.raises(InputError, match="is masked, not ragged"):
        save_pruned(model, mask, tmp_path / "ragged", rung="ragged")
    assert not (tmp_path / "ragged").exists()


def test_the_auto_classes_know_it_after_a_light_import(tmp_path: Path) -> None:
    """Importing the package loads neither torch nor transformers, and registers all the same."""
    model = decoder("llama")
    folder = save_pruned(model, scattered(model), tmp_path / "ragged", rung="ragged").folder
    program = f"""
import sys
import graphprune
assert not {{"torch", "transformers"}} & sys.modules.keys()
from transformers import AutoModelForCausalLM, CONFIG_MAPPING
assert {RAGGED!r} in CONFIG_MAPPING
assert "transformers.modeling_utils" not in sys.modules
print(type(AutoModelForCausalLM.from_pretrained({str(folder)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "RaggedForCausalLM"), done.stderr


def test_registering_where_transformers_is_loaded_already_takes_effect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    monkeypatch.delitem(CONFIG_MAPPING._extra_content, RAGGED)
    assert RAGGED not in CONFIG_MAPPING
    registration.register()
    assert RAGGED in CONFIG_MAPPING


def test_a_layer_says_what_it_has() -> None:
    layer = Layer(4, 2, 0)
    assert (layer.has("attention"), layer.has("MLP")) == (True, False)
    assert [layer.count(kind) for kind in ("head", "kv_head", "neuron")] == [4, 2, 0]

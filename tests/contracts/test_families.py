"""What every family of models must do: be exported, scored and pruned, and be saved as what was meant."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from graphprune.calibration.forward import calibrate
from graphprune.core.errors import GraphpruneError, InfeasibleError, InputError, ModelError
from graphprune.core.mask import Mask
from graphprune.extraction.export import export
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.pruning import prune
from graphprune.scorers import score
from graphprune.surgery import checkpoint
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.cut import zeroed
from tests.families import FIXED_HEADS, MODEL_TYPES, UNGATED, causal_lm, decoder, perceptron, store, stored, token_ids

families = pytest.mark.parametrize("model_type", MODEL_TYPES)
N_HEADS, D_MLP = 4, 24

# One float32 sum in another order: the widths of the matrix products differ. The largest difference measured over all
# families, rungs and masks here is 2.5e-6, on logits of up to 4.8; the smallest to the dense model is 0.98.
REORDERED: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@cache
def dense_model(model_type: str) -> Model:
    return decoder(model_type, seed=11)


def mask_of(model: Model, heads: dict[int, list[int]], neurons: dict[int, int]) -> Mask:
    """The mask that removes query heads by number, and every second neuron up to a count."""
    keep = {name: value.clone() for name, value in Mask.full(model.units).keep.items()}
    for layer, gone in heads.items():
        keep[f"head.{layer}"][gone] = False
        keep[f"kv_head.{layer}"] = keep[f"head.{layer}"].view(model.decoder.n_kv_heads, -1).any(dim=1)
    for layer, count in neurons.items():
        keep[f"neuron.{layer}"][: 2 * count : 2] = False
    mask = Mask(keep, model=model.identity)
    mask.check_legal(model.units)
    return mask


MASKS: dict[str, tuple[dict[int, list[int]], dict[int, int], str]] = {
    "one key/value group from every layer": ({0: [0, 1], 1: [2, 3]}, {0: 8, 1: 8}, "uniform"),
    "one query head from every group": ({0: [0, 3], 1: [1, 2]}, {0: 5, 1: 5}, "uniform"),
    "unequal layers": ({0: [0, 1], 1: [1, 2]}, {0: 3, 1: 9}, "padded"),
    "heads from one layer, neurons from the other": ({1: [2, 3]}, {0: 10}, "padded"),
    "a layer without heads": ({0: [0, 1, 2, 3]}, {1: 4}, "padded"),
    "a layer without neurons": ({}, {1: 12}, "padded"),
}
every_mask_and_rung = pytest.mark.parametrize(
    ("which", "rung"), [(which, rung) for which in MASKS for rung in ("auto", "padded", "ragged", "masked")]
)


def logits(network: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(input_ids=ids, use_cache=False).logits
    return result


def zeroed_logits(model: Model, mask: Mask, ids: torch.Tensor) -> torch.Tensor:
    """The dense network, its own class and shapes, with the removed units' weights set to zero in place."""
    network = causal_lm(model.decoder.model_type, seed=11)
    d = model.decoder.d_head
    for layer in range(2):
        asking = [] if model.decoder.model_type == "olmo2" else [("head", "q_proj"), ("kv_head", "k_proj")]
        inward = {"head": [], "kv_head": ["v_proj"], "neuron": ["up_proj"]}
        for kind, part in asking:  # OLMo 2 normalises all queries, and all keys, together: they stay
            inward[kind].append(part)
        for kind, parts in inward.items():
            gone = ~mask.keep[f"{kind}.{layer}"].repeat_interleave(1 if kind == "neuron" else d)
            for part in parts:
                for end in ("weight", "bias"):
                    if (name := model.decoder.parameter(layer, f"{part}.{end}")) in model.shapes:
                        value = stored(network, name)
                        value[gone] = 0
                        store(network, name, value)
            if kind != "kv_head":
                name = model.decoder.parameter(layer, "o_proj.weight" if kind == "head" else "down_proj.weight")
                value = stored(network, name)
                value[:, gone] = 0
                store(network, name, value)
    return logits(network, ids)


def best_rung(model_type: str, which: str) -> str:
    """The rung that a mask allows. Where heads can't go from the shapes, these get smaller by neurons alone."""
    _, neurons, best = MASKS[which]
    if model_type not in FIXED_HEADS:
        return best
    return "padded" if len(neurons) == 2 else "masked"


def stock(folder: Path) -> Any:
    """What anybody gets who has never heard of this package."""
    loaded, report = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded


@families
@every_mask_and_rung
def test_the_saved_checkpoint_has_the_logits_of_the_zeroed_model(
    model_type: str, which: str, rung: str, tmp_path: Path
) -> None:
    model, ids = dense_model(model_type), token_ids(2, 12, seed=4)
    heads, neurons, _ = MASKS[which]
    if which == "a layer without neurons":
        keep_none = Mask.full(model.units).keep["neuron.1"].logical_not()
        mask = Mask({**Mask.full(model.units).keep, "neuron.1": keep_none}, model=model.identity)
    else:
        mask = mask_of(model, heads, neurons)
    saved = save_pruned(model, mask, tmp_path / "small", rung=rung)
    assert saved.rung == (best_rung(model_type, which) if rung == "auto" else rung)
    expected = zeroed_logits(model, mask, ids)
    found = logits(stock(tmp_path / "small"), ids)
    torch.testing.assert_close(found, expected, **REORDERED)
    dense = logits(causal_lm(model_type, seed=11), ids)
    assert (found - dense).abs().max() > 0.5
    assert saved.max_difference < 1e-5


@pytest.mark.parametrize("model_type", UNGATED)
def test_a_head_that_goes_is_zeros_where_configurations_fix_how_many_there_are(model_type: str, tmp_path: Path) -> None:
    """Its query, key and value biases are zeros as well, and neurons go from the shapes all the same."""
    model = dense_model(model_type)
    mask = mask_of(model, *MASKS["one key/value group from every layer"][:2])
    with pytest.raises(InputError, match=f"{model_type} fixes how many heads there are.*use padded$") as refused:
        save_pruned(model, mask, tmp_path / "small", rung="uniform")
    assert "\n" not in str(refused.value)
    saved = save_pruned(model, mask, tmp_path / "small")
    small = load_model(saved.folder)
    assert (saved.rung, small.decoder.n_heads, small.decoder.d_mlp) == ("padded", 4, 16)
    n_neurons = 2 * 8 * model.units["neuron.0"].parameters_per_unit
    assert saved.n_parameters == model.n_parameters - n_neurons
    assert not bool(small.parameters["model.layers.0.self_attn.v_proj.bias"][: 2 * small.decoder.d_head].any())
    assert bool(small.parameters["model.layers.0.self_attn.v_proj.bias"].any())
    masked = save_pruned(model, mask_of(model, {0: [0, 1], 1: [2, 3]}, {}), tmp_path / "masked")
    assert (masked.rung, masked.n_parameters) == ("masked", model.n_parameters)
    assert bool((load_model(masked.folder).parameters["model.layers.0.self_attn.v_proj.bias"] == 0).any())


@families
def test_a_uniform_checkpoint_is_as_small_as_the_mask_says(model_type: str, tmp_path: Path) -> None:
    model = dense_model(model_type)
    heads, neurons, _ = MASKS["one key/value group from every layer"]
    mask = mask_of(model, heads if model_type not in FIXED_HEADS else {}, neurons)
    saved = save_pruned(model, mask, tmp_path / "small")
    assert saved.rung == "uniform"
    assert saved.n_parameters == model.n_parameters - mask.removed_parameters(model.units)
    assert saved.n_parameters < model.n_parameters
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config[{"opt": "ffn_dim", "gpt2": "n_inner"}.get(model_type, "intermediate_size")] == 16
    if model_type not in FIXED_HEADS:
        assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (2, 1, 8)
    else:
        assert config["n_head" if model_type == "gpt2" else "num_attention_heads"] == 4
        assert model_type == "olmo2" or not {"num_key_value_heads", "head_dim"} & config.keys()


@families
def test_a_padded_checkpoint_is_as_small_as_its_widest_layer(model_type: str, tmp_path: Path) -> None:
    model = dense_model(model_type)
    saved = save_pruned(model, mask_of(model, {0: [0, 1], 1: [0, 1]}, {0: 4, 1: 9}), tmp_path / "small")
    widest = mask_of(model, {0: [0, 1], 1: [0, 1]} if model_type not in FIXED_HEADS else {}, {0: 4, 1: 4})
    assert saved.n_parameters == model.n_parameters - widest.removed_parameters(model.units)


@families
def test_pruning_in_memory_gives_the_logits_of_the_checkpoint(model_type: str, tmp_path: Path) -> None:
    model, ids = dense_model(model_type), token_ids(2, 12, seed=4)
    scores = score(model, "wanda", stats=calibrate(model, token_ids(4, 16)))
    for allocation in ("uniform", "global"):
        pruned = prune(model, scores, 0.4, allocation=allocation)
        in_memory = logits(pruned.model.module(dtype=torch.float32), ids)
        saved = save_pruned(model, pruned.mask, tmp_path / allocation)
        assert pruned.rung == saved.rung
        assert torch.equal(in_memory, logits(stock(tmp_path / allocation), ids))
        torch.testing.assert_close(in_memory, zeroed_logits(model, pruned.mask, ids), **REORDERED)


@families
@pytest.mark.parametrize("scorer", ["magnitude", "graphrank", "llmrank"])
def test_every_family_is_exported_scored_and_pruned(model_type: str, scorer: str) -> None:
    model = dense_model(model_type)
    stats = calibrate(model, token_ids(4, 16))
    graph = export(model, weight="activation", stats=stats)
    assert graph.n_edges == model.architecture.n_edges
    scores = score(model, scorer, stats=stats, graph=graph)
    pruned = prune(model, scores, 0.3)
    kinds = ("head", "kv_head", "neuron") if "head.0" in scores.values else ("neuron",)
    prunable = model.units.prunable_parameters(*kinds)
    unit = model.units["neuron.0"].parameters_per_unit
    assert abs(pruned.mask.removed_parameters(model.units) - 0.3 * prunable) <= unit / 2
    ids = token_ids(2, 12)
    assert not torch.allclose(logits(pruned.model.module(), ids), logits(model.module(), ids), atol=1e-2)


@families
def test_a_pruned_model_can_be_pruned_again(model_type: str, tmp_path: Path) -> None:
    model, ids = dense_model(model_type), token_ids(2, 12)
    once = prune(model, score(model, "magnitude"), 0.25, head_mode="balanced").model
    twice = prune(once, score(once, "magnitude"), 0.25, units="neuron")
    assert twice.model.n_parameters < once.n_parameters < model.n_parameters
    saved = save_pruned(once, twice.mask, tmp_path / "twice")
    assert torch.equal(logits(twice.model.module(), ids), logits(stock(saved.folder), ids))


@families
def test_removing_nothing_changes_nothing(model_type: str, tmp_path: Path) -> None:
    model, ids = dense_model(model_type), token_ids(2, 12)
    saved = save_pruned(model, Mask.full(model.units), tmp_path / "same")
    assert (saved.rung, saved.n_parameters, saved.max_difference) == ("uniform", model.n_parameters, 0.0)
    assert torch.equal(logits(stock(saved.folder), ids), logits(causal_lm(model_type, seed=11), ids))


@families
def test_a_checkpoint_is_read_back_as_the_model_that_was_written(model_type: str, tmp_path: Path) -> None:
    model = dense_model(model_type)
    mask = mask_of(model, *MASKS["unequal layers"][:2])
    save_pruned(model, mask, tmp_path / "masked", rung="masked")
    reloaded = load_model(tmp_path / "masked")
    assert reloaded.architecture == model.architecture
    expected = zeroed(model.parameters, model.units, mask)
    assert reloaded.parameters.keys() == expected.keys()
    assert all(torch.equal(reloaded.parameters[name], tensor) for name, tensor in expected.items())


@families
def test_the_units_of_every_family_own_all_of_its_linear_layers(model_type: str) -> None:
    model = dense_model(model_type)
    nobodys: tuple[str, ...] = ("o_proj.bias", "down_proj.bias")  # what is added to the stream whatever goes
    if model_type == "olmo2":  # what other heads are normalised by
        nobodys = ("q_proj.weight", "k_proj.weight")
    linears = sum(
        tensor.numel() for name, tensor in model.parameters.items() if "_proj." in name and not name.endswith(nobodys)
    )
    assert model.units.prunable_parameters() == linears


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"}),
        ("opt", {"tie_word_embeddings": False, "max_position_embeddings": 12}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "intermediate_size": None, "tie_word_embeddings": False}),
        ("mistral", {"sliding_window": 3}),
        ("gemma2", {"sliding_window": 3, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
        ("phi3", {"sliding_window": 3, "tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 3, "attention_bias": True, "mlp_bias": True}),
        ("olmo2", {"attention_bias": True, "tie_word_embeddings": False}),
        ("gpt_neox", {"attention_bias": False, "use_parallel_residual": False, "tie_word_embeddings": True}),
    ],
)
def test_other_forms_of_a_family_go_the_same_way(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    module: Any = causal_lm(model_type, seed=11, **settings)
    model, rows = Model.from_module(module), token_ids(8, 12)
    stats = calibrate(model, rows)
    for weight in ("magnitude", "activation", "power"):
        graph = export(model, weight=weight, stats=stats)
        assert (graph.n_nodes, graph.n_edges) == (model.decoder.n_nodes, model.decoder.n_edges)
    scores = score(model, "credit", stats=stats)
    pruned = prune(model, scores, 0.3, compensation="obs", calibration=rows)
    assert pruned.operated is not None
    saved = save_pruned(pruned.model, Mask.full(pruned.model.units), tmp_path / "small")
    assert torch.equal(logits(stock(saved.folder), rows), logits(pruned.model.module(), rows))
    assert load_model(saved.folder).shapes == pruned.model.shapes
    assert ("lm_head.weight" in pruned.model.shapes) == (not module.config.tie_word_embeddings)


def test_heads_are_zeros_in_place_where_rotary_factors_fix_how_many_there_are(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.1], "long_factor": [1.2, 1.3], "rope_type": "longrope", "rope_theta": 10000.0,
               "partial_rotary_factor": 1.0}  # fmt: skip
    model = decoder("phi3", head_dim=4, rope_parameters=factors, original_max_position_embeddings=32)
    mask = mask_of(model, *MASKS["one key/value group from every layer"][:2])
    saved = save_pruned(model, mask, tmp_path / "small")
    assert (saved.rung, load_model(saved.folder).decoder.n_heads) == ("padded", 4)
    expected = Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask)).module()
    torch.testing.assert_close(logits(stock(saved.folder), token_ids()), logits(expected, token_ids()), **REORDERED)


def test_biases_of_every_linear_layer_are_handled(tmp_path: Path) -> None:
    """Llama may have biases on all four projections of the attention and on all three of the MLP."""
    module = causal_lm("llama", seed=11, attention_bias=True, mlp_bias=True)
    model, ids = Model.from_module(module), token_ids(2, 12)
    assert "model.layers.0.self_attn.o_proj.bias" in model.parameters
    mask = mask_of(model, *MASKS["unequal layers"][:2])
    for rung in ("padded", "masked"):
        saved = save_pruned(model, mask, tmp_path / rung, rung=rung)
        found = logits(stock(saved.folder), ids)
        expected = logits(
            Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask)).module(), ids
        )
        torch.testing.assert_close(found, expected, **REORDERED)
    assert (expected - logits(module, ids)).abs().max() > 0.05


def test_a_bias_that_is_left_behind_would_be_seen(tmp_path: Path) -> None:
    """A removed unit of a sigmoid perceptron with its bias left behind would still say sigmoid(bias)."""
    model = perceptron(activation=torch.nn.Sigmoid)
    mask = perceptron_mask(model, 3)
    saved = save_pruned(model, mask, tmp_path / "small")
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    small = load_model(saved.folder)
    assert small.shapes["layers.0.bias"] == (7,)
    hidden = torch.sigmoid(x @ model.parameters["layers.0.weight"].T + model.parameters["layers.0.bias"])
    hidden = torch.sigmoid(
        hidden[:, mask.keep["neuron.0"]] @ model.parameters["layers.1.weight"][:, mask.keep["neuron.0"]].T
        + model.parameters["layers.1.bias"]
    )
    kept = mask.keep["neuron.1"]
    expected = hidden[:, kept] @ model.parameters["layers.2.weight"][:, kept].T + model.parameters["layers.2.bias"]
    with torch.inference_mode():
        torch.testing.assert_close(small.module()(x), expected)


def perceptron_mask(model: Model, count: int) -> Mask:
    keep = {name: value.clone() for name, value in Mask.full(model.units).keep.items()}
    for value in keep.values():
        value[:count] = False
    return Mask(keep, model=model.identity)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.GELU, torch.nn.Sigmoid])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(6, 10, 4), (6, 10, 8, 4), (5, 7, 9, 6, 3)])
@pytest.mark.parametrize("rung", ["excised", "masked"])
def test_a_perceptron_excised_says_the_same_as_zeroed(
    sizes: tuple[int, ...], bias: bool, activation: type[torch.nn.Module], rung: str, tmp_path: Path
) -> None:
    model = perceptron(sizes, activation=activation, bias=bias, seed=6)
    pruned = prune(model, score(model, "magnitude"), 0.4, rung=rung)
    x = torch.randn(11, sizes[0], generator=torch.Generator().manual_seed(1))
    reference = Model.from_parameters(model.config, zeroed(model.parameters, model.units, pruned.mask))
    saved = save_pruned(model, pruned.mask, tmp_path / "small", rung=rung)
    assert saved.rung == pruned.rung == rung
    with torch.inference_mode():
        expected, found = reference.module()(x), pruned.model.module()(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(load_model(saved.folder).module()(x), found)
        assert not torch.allclose(found, model.module()(x), atol=1e-3)
    removed = sum(int((~keep).sum()) for keep in pruned.mask.keep.values())
    assert removed == round(0.4 * sum(sizes[1:-1]))
    assert (saved.n_parameters < model.n_parameters) == (rung == "excised")


def test_another_models_mask_is_refused(tmp_path: Path) -> None:
    model, sibling = dense_model("llama"), decoder("llama", seed=12)
    narrower = decoder("llama", intermediate_size=20)
    path = tmp_path / "mask.safetensors"
    mask_of(model, {}, {0: 3}).save(path)
    assert Mask.load(path, model.units, model.identity).keep["neuron.0"].sum() == D_MLP - 3
    with pytest.raises(GraphpruneError, match=f"{path} belongs to another model"):
        Mask.load(path, sibling.units, sibling.identity)
    with pytest.raises(GraphpruneError, match=f"{path}: neuron.0 has .24,. entries, this model has 20"):
        Mask.load(path, narrower.units)
    with pytest.raises(GraphpruneError, match=f"{path}: head.0 is no unit group"):
        Mask.load(path, perceptron().units)


@pytest.mark.parametrize("model_type", ["bert", "gptj", "mamba"])
def test_an_unsupported_architecture_is_refused_with_the_supported_ones(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError) as error:
        load_model(tmp_path)
    assert f"'{model_type}'" in str(error.value)
    assert all(name in str(error.value) for name in (*MODEL_TYPES, "perceptron"))


def test_a_rung_that_the_mask_does_not_allow_is_refused(tmp_path: Path) -> None:
    model = dense_model("llama")
    mask = mask_of(model, *MASKS["unequal layers"][:2])
    with pytest.raises(InputError, match="use padded"):
        save_pruned(model, mask, tmp_path / "small", rung="uniform")
    with pytest.raises(InputError, match="'shrunk'"):
        save_pruned(model, mask, tmp_path / "small", rung="shrunk")
    with pytest.raises(InputError, match="'padded'"):
        save_pruned(perceptron(), perceptron_mask(perceptron(), 1), tmp_path / "small", rung="padded")
    assert not list(tmp_path.iterdir())


def test_a_wrong_checkpoint_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense_model("llama")
    mask = mask_of(model, {}, {0: 5, 1: 5})
    monkeypatch.setattr(checkpoint, "verify", lambda *_: (0.01, 5.0))
    with pytest.raises(GraphpruneError, match=r"logits differ from the zeroed model's by up to 0\.01"):
        save_pruned(model, mask, tmp_path / "small")
    monkeypatch.setattr(checkpoint, "verify", lambda *_: (float("nan"), 5.0))
    with pytest.raises(GraphpruneError, match="logits differ"):
        save_pruned(model, mask, tmp_path / "small")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model_type", ["qwen2", *UNGATED])
def test_a_sharded_checkpoint_is_the_same(model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = dense_model(model_type), token_ids(2, 12)
    mask = mask_of(model, *MASKS["unequal layers"][:2])
    save_pruned(model, mask, tmp_path / "single")
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 5000)
    save_pruned(model, mask, tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(logits(stock(tmp_path / "single"), ids), logits(stock(tmp_path / "sharded"), ids))


def test_a_head_count_that_configurations_refuse_is_padded_to_the_next_they_accept(tmp_path: Path) -> None:
    """Five heads don't divide a stream of 24, six do: the sixth comes back as zeros."""
    model = decoder("llama", hidden_size=24, num_attention_heads=8, num_key_value_heads=8, head_dim=4)
    keep = dict(Mask.full(model.units).keep)
    for layer in (0, 1):
        for kind in ("head", "kv_head"):
            keep[f"{kind}.{layer}"] = torch.arange(8) >= 3
    saved = save_pruned(model, Mask(keep), tmp_path / "small")
    assert saved.rung == "padded"
    assert load_model(saved.folder).decoder.n_heads == 6
    reference = Model.from_parameters(model.config, zeroed(model.parameters, model.units, Mask(keep)))
    ids = token_ids(2, 12)
    torch.testing.assert_close(logits(stock(saved.folder), ids), logits(reference.module(), ids), **REORDERED)


def test_out_of_reach_is_said_before_anything_is_built() -> None:
    model = dense_model("llama")
    with pytest.raises(InfeasibleError, match="nearest is"):
        prune(model, score(model, "magnitude"), 0.99)


def test_the_tiny_model_is_pruned_and_keeps_its_tokenizer(tiny: Model, tmp_path: Path) -> None:
    pruned = prune(tiny, score(tiny, "magnitude"), 0.2)
    assert pruned.model.tokenizer.encode("the") == tiny.tokenizer.encode("the")
    saved = save_pruned(tiny, pruned.mask, tmp_path / "small")
    assert load_model(saved.folder).tokenizer.encode("the") == tiny.tokenizer.encode("the")
    assert saved.max_difference < 1e-4

"""One set of names for stock classes that call and store their parts differently: the classes are the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune.core.errors import ModelError
from graphprune.core.mask import Mask
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.models.naming import CANONICAL, Canonical, Stock, naming_of
from graphprune.surgery.checkpoint import save_pruned
from tests.families import (
    GATED,
    RENAMED,
    UNGATED,
    causal_lm,
    decoder,
    module_of,
    names_of,
    stock_name,
    store,
    stored,
    token_ids,
)

ungated = pytest.mark.parametrize("model_type", UNGATED)
renamed = pytest.mark.parametrize("model_type", RENAMED)


def logits(network: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(input_ids=ids, use_cache=False).logits
    return result


# What a block computes, by hand


def layer_norm(x: torch.Tensor, parameters: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def linear(x: torch.Tensor, parameters: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def rotated(x: torch.Tensor, n: int) -> torch.Tensor:
    """The first n channels of every head turned by their position, ``[tokens, heads, channels]``."""
    angles = torch.arange(len(x))[:, None] / 10000 ** (torch.arange(0, n, 2) / n)
    cos, sin = (f(torch.cat([angles, angles], dim=1))[:, None] for f in (torch.cos, torch.sin))
    half = torch.cat([-x[..., n // 2 : n], x[..., : n // 2]], dim=-1)
    return torch.cat([x[..., :n] * cos + half * sin, x[..., n:]], dim=-1)


def block_by_hand(
    x: torch.Tensor, parameters: dict[str, torch.Tensor], *, activation: Any, rotary: int, parallel: bool
) -> torch.Tensor:
    """A block with four heads from its parameters by canonical name, ``[tokens, d_model]``."""
    a = layer_norm(x, parameters, "input_layernorm")
    q, k, v = (linear(a, parameters, f"self_attn.{part}_proj").view(len(x), 4, -1) for part in "qkv")
    if rotary:
        q, k = rotated(q, rotary), rotated(k, rotary)
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(len(x), len(x), dtype=torch.bool).triu(diagonal=1)
    pattern = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
    heads = torch.einsum("hij,jhd->ihd", pattern, v).reshape(len(x), -1)
    written = linear(heads, parameters, "self_attn.o_proj")
    b = layer_norm(x if parallel else x + written, parameters, "post_attention_layernorm")
    return x + written + linear(activation(linear(b, parameters, "mlp.up_proj")), parameters, "mlp.down_proj")


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize(
    ("model_type", "settings", "activation", "rotary"),
    [
        ("opt", {}, torch.relu, 0),
        ("gpt2", {}, gelu_new, 0),
        ("gpt_neox", {}, torch.nn.functional.gelu, 2),
        ("gpt_neox", {"use_parallel_residual": False}, torch.nn.functional.gelu, 2),
    ],
)
def test_a_block_computed_by_hand_from_canonical_parameters_is_the_stock_block(
    model_type: str, settings: dict[str, bool], activation: Any, rotary: int
) -> None:
    network: Any = causal_lm(model_type, seed=2, **settings).double()
    model = Model.from_module(network)
    given: list[Any] = []
    for layer in range(2):
        module_of(network, f"model.layers.{layer}").register_forward_hook(
            lambda _, args, output: given.append((args[0][0], output[0] if isinstance(output, tuple) else output))
        )
    logits(network, token_ids(1, 9))
    for layer, (entering, leaving) in enumerate(given):
        prefix = f"model.layers.{layer}."
        own = {n.removeprefix(prefix): model.parameters[n] for n in model.parameters if n.startswith(prefix)}
        parallel = settings.get("use_parallel_residual", model_type == "gpt_neox")
        found = block_by_hand(entering, own, activation=activation, rotary=rotary, parallel=parallel)
        torch.testing.assert_close(found, leaving.view_as(found))
        assert model.decoder.parallel is parallel


# Names and layouts


@renamed
def test_every_parameter_of_a_stock_class_has_one_canonical_place(model_type: str) -> None:
    network: Any = causal_lm(model_type)
    model = Model.from_module(network)
    assert set(names_of(network)) <= model.shapes.keys()
    for name in names_of(network):
        assert torch.equal(model.parameters[name], stored(network, name))
        assert model.parameters[name].is_contiguous()
        assert model.shapes[name] == tuple(model.parameters[name].shape)
    assert model.n_parameters == sum(parameter.numel() for parameter in network.parameters())


@renamed
def test_to_canonical_names_and_back_is_the_same_to_the_last_bit(model_type: str) -> None:
    state = causal_lm(model_type).state_dict()
    naming = naming_of(model_type, 4, 2)
    back = naming.stock(naming.canonical(state))
    assert isinstance(back, Stock)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) and back[name].is_contiguous() for name, value in state.items())
    assert "no.such.weight" not in back
    with pytest.raises(KeyError, match="no such"):
        back["no such"]
    with pytest.raises(KeyError, match="no such"):
        naming.canonical(state)["no such"]


@renamed
def test_a_canonical_parameter_that_changes_changes_its_own_part_of_the_network_alone(model_type: str) -> None:
    model, network = decoder(model_type), causal_lm(model_type)
    names = [name for name in names_of(network) if name.startswith("model.layers.1.") and "_proj" in name]
    assert len(names) == 12 if model_type in UNGATED else 7
    for name in names:
        value = torch.full(model.shapes[name], 0.5)
        store(network, name, value)
        model = Model.from_parameters(model.config, {**model.parameters, name: value})
        built: Any = model.module()
        assert all(torch.equal(a, b) for a, b in zip(built.parameters(), network.parameters(), strict=True))


def test_a_fused_projection_is_split_as_its_class_splits_it() -> None:
    """Two heads of two channels: GPT-2 has all queries first, GPT-NeoX the first head's query, key and value."""
    rows = torch.arange(12.0)
    split = {"gpt2": ([0, 1, 2, 3], [8, 9, 10, 11]), "gpt_neox": ([0, 1, 6, 7], [4, 5, 10, 11])}
    for model_type, (queries, values) in split.items():
        naming = naming_of(model_type, 2)
        for part, expected in (("q", queries), ("v", values)):
            place = naming.within(f"self_attn.{part}_proj")
            assert place.read(rows).tolist() == expected
            assert place.output(rows[None, None].expand(2, 3, 12))[1, 2].tolist() == expected
            whole = torch.zeros(12)
            place.write(whole, torch.ones(4))
            assert whole.nonzero()[:, 0].tolist() == expected
    few_keys = naming_of("phi3", 4, 1)  # four queries and one key and value of two channels each; gate, then up
    for name, expected in (("self_attn.q_proj", [*range(8)]), ("self_attn.k_proj", [8, 9]),
                           ("self_attn.v_proj", [10, 11]), ("mlp.gate_proj", [*range(6)]),
                           ("mlp.up_proj", [*range(6, 12)])):  # fmt: skip
        assert few_keys.within(name).read(rows).tolist() == expected
        assert few_keys.within(name).output(rows[None])[0].tolist() == expected
        assert few_keys.within(name).shape((12, 5)) == (len(expected), 5)
    weight = torch.arange(48.0).view(4, 12)  # GPT-2's is [in, out]
    assert torch.equal(naming_of("gpt2", 2).within("self_attn.k_proj").read(weight), weight[:, 4:8].T)


@pytest.mark.parametrize("model_type", [name for name in GATED if name not in RENAMED])
def test_what_is_canonical_already_is_left_as_it_is(model_type: str) -> None:
    naming = naming_of(model_type, 4)
    assert naming is CANONICAL
    state = causal_lm(model_type).state_dict()
    assert naming.canonical(state) is state
    assert naming.stock(state) is state


# Folders


def saved_as(network: Any, folder: Path, rename: Any, **more: torch.Tensor) -> None:
    """A checkpoint as it is on the hub: other names, and what older versions stored besides."""
    network.save_pretrained(folder)
    tensors = {rename(name): value for name, value in load_file(folder / "model.safetensors").items()} | more
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


CAUSAL = torch.ones(1, 1, 64, 64).tril()
BUFFERS: dict[str, dict[str, torch.Tensor]] = {
    "opt": {},
    "gpt2": {"h.0.attn.bias": CAUSAL, "h.1.attn.bias": CAUSAL.clone(), "h.0.attn.masked_bias": torch.tensor(-1e4)},
    "gpt_neox": {"gpt_neox.layers.0.attention.bias": CAUSAL.bool(), "gpt_neox.layers.0.attention.masked_bias":
                 torch.tensor(-1e9), "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(1)},
}  # fmt: skip
PREFIX = {"opt": "model.", "gpt2": "transformer.", "gpt_neox": ""}


@renamed
def test_a_folder_is_read_as_the_module_that_was_saved_in_it(model_type: str, tmp_path: Path) -> None:
    network: Any = causal_lm(model_type)
    network.save_pretrained(tmp_path)
    folder, module = load_model(tmp_path), load_model(network)
    assert ("lm_head.weight" in folder.shapes) == (model_type == "gpt_neox")  # the others' is the embedding
    assert folder.shapes == module.shapes
    assert all(torch.equal(folder.parameters[name], module.parameters[name]) for name in module.shapes)
    assert torch.equal(logits(folder.module(), token_ids()), logits(network, token_ids()))
    assert folder.preferred_dtype() == torch.float32
    network.bfloat16().save_pretrained(tmp_path / "half")
    assert load_model(tmp_path / "half").preferred_dtype() == torch.bfloat16


@ungated
def test_checkpoints_with_the_names_and_buffers_of_the_hub_are_read(model_type: str, tmp_path: Path) -> None:
    network: Any = causal_lm(model_type)
    saved_as(network, tmp_path, lambda name: name.removeprefix(PREFIX[model_type]), **BUFFERS[model_type])
    assert any(name.startswith(("decoder.", "h.", "embed_out")) for name in load_file(tmp_path / "model.safetensors"))
    found, expected = load_model(tmp_path), Model.from_module(network)
    assert isinstance(found.parameters, Canonical)
    assert found.shapes.keys() == expected.shapes.keys()
    assert all(torch.equal(found.parameters[name], expected.parameters[name]) for name in expected.shapes)
    found.verify()
    assert torch.equal(logits(found.module(), token_ids()), logits(network, token_ids()))
    saved_as(network.bfloat16(), tmp_path, lambda name: name.removeprefix(PREFIX[model_type]), **BUFFERS[model_type])
    assert load_model(tmp_path).preferred_dtype() == torch.bfloat16  # whatever the buffers are


@renamed
def test_a_checkpoint_is_written_as_its_class_writes_it(model_type: str, tmp_path: Path) -> None:
    network: Any = causal_lm(model_type)
    network.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    save_pruned(model, Mask.full(model.units), tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_separate_output_embedding_is_kept(tmp_path: Path) -> None:
    network: Any = causal_lm("gpt2", tie_word_embeddings=False)
    network.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert torch.equal(model.parameters["lm_head.weight"], network.lm_head.weight)
    assert torch.equal(logits(model.module(), token_ids()), logits(network, token_ids()))


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "opt", "do_layer_norm_before": False}, "OPT is supported with normalisation before"),
        ({"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512}, "like OPT-350M"),
        ({"model_type": "opt", "_remove_final_layer_norm": True}, "and at the end"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross-attention is not supported"),
        ({"model_type": "gpt2", "num_attention_heads": 4}, "not that of a gpt2 model: 'n_head'"),
        ({"model_type": "gpt_neox", "num_attention_heads": 0}, "gpt_neox model: num_attention_heads is 0"),
    ],
)
def test_forms_that_are_not_supported_are_refused_in_one_sentence(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_file({"transformer.wte.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=said) as refused:
        load_model(tmp_path)
    assert "\n" not in str(refused.value)


@renamed
def test_a_parameter_that_no_such_class_has_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    saved_as(causal_lm(model_type), tmp_path, str, **{"adapter.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"adapter\.weight is no parameter of"):
        load_model(tmp_path)


@pytest.mark.parametrize(("model_type", "end"), [("gpt2", "bias"), ("gpt_neox", "bias"), ("phi3", "weight")])
@pytest.mark.parametrize("shape", [(), (49,), (47, 16)])
def test_a_fused_projection_that_has_no_equal_shares_is_refused(
    model_type: str, end: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    fused = stock_name(model_type, "model.layers.0.self_attn.q_proj")
    saved_as(causal_lm(model_type), tmp_path, str, **{f"{fused}.{end}": torch.ones(shape)})
    with pytest.raises(ModelError, match=f"{fused}.{end} is damaged: its shape") as refused:
        load_model(tmp_path)
    assert "\n" not in str(refused.value)


@renamed
def test_a_parameter_that_is_missing_is_refused_by_name(model_type: str) -> None:
    model = decoder(model_type)
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        parameters = {key: value for key, value in model.parameters.items() if key != name}
        with pytest.raises(ModelError, match=name):
            Model.from_parameters(model.config, parameters)

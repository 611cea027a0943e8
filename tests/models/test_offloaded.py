"""Networks whose layers are read when they run, against the whole of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.core.errors import ModelError
from graphprune.core.io import load_tensors, read_json, save_tensors
from graphprune.models.model import Model, build_causal_lm
from graphprune.models.offloaded import offloaded
from tests.families import MODEL_TYPES, causal_lm, decoder, token_ids
from tests.models.resident import watched


def logits(network: Any, rows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network(input_ids=rows, use_cache=False).logits
    return found


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_logits_are_those_of_the_whole_network_to_the_last_bit(model_type: str, stored: torch.dtype) -> None:
    model, rows = decoder(model_type), token_ids(2, 12)
    model = Model.from_parameters(model.config, {k: value.to(stored) for k, value in model.parameters.items()})
    network = offloaded(model.config, model.naming.stock(model.parameters))
    found = logits(network, rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, logits(model.module(dtype=torch.float32), rows))
    assert torch.equal(found, logits(network, rows))


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "opt"])
def test_every_parameter_is_read_once_a_pass_and_one_layer_at_a_time_is_in_memory(model_type: str) -> None:
    model, resident = watched(decoder(model_type))
    network = offloaded(model.config, model.naming.stock(model.parameters))
    others = [name for name in model.shapes if name != "model.embed_tokens.weight"]  # the checker of types reads that
    assert not any(resident.reads[name] for name in others)
    logits(network, token_ids(2, 12))
    assert all(resident.reads[name] == 1 for name in others)
    assert resident.most <= 4 * max(torch.Size(shape).numel() for shape in model.shapes.values()) + 4 * 64
    assert resident.now == 0
    assert all(parameter.is_meta for parameter in network.parameters())


def test_parameters_that_are_not_the_networks_are_refused_before_it_runs() -> None:
    model = decoder("llama")
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        less = {key: value for key, value in model.parameters.items() if key != name}
        with pytest.raises(ModelError, match=name):
            offloaded(model.config, less)
    more = {**model.parameters, "model.layers.2.mlp.up_proj.weight": torch.zeros(24, 16)}
    with pytest.raises(ModelError, match=r"layers\.2"):
        offloaded(model.config, more)
    with pytest.raises(ModelError, match="cannot build the model"):
        offloaded({**model.config, "hidden_act": "unheard of"}, model.parameters)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_checkpoint_loads_to_the_meta_device_without_being_read(model_type: str, tmp_path: Path) -> None:
    """What stands in its headers is all that tells whether the network's class can load it."""
    whole: Any = causal_lm(model_type)
    whole.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    data, size = file.read_bytes(), int.from_bytes(file.read_bytes()[:8], "little")
    file.write_bytes(data[: 8 + size] + b"\xff" * (len(data) - 8 - size))
    config = read_json(tmp_path / "config.json")
    network = build_causal_lm(config, {}, tmp_path, torch.float32, device_map={"": "meta"})
    assert all(parameter.is_meta and parameter.dtype == torch.float32 for parameter in network.parameters())
    tensors, metadata = load_tensors(file)
    for name in ("model.norm.weight", "transformer.ln_f.weight", "gpt_neox.final_layer_norm.weight"):
        tensors.pop(name, None)
    tensors.pop("model.decoder.final_layer_norm.weight", None)
    save_tensors(tmp_path / "less" / "model.safetensors", tensors, metadata)
    (tmp_path / "less" / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    with pytest.raises(ModelError, match="missing keys"):
        build_causal_lm(config, {}, tmp_path / "less", torch.float32, device_map={"": "meta"})

"""Networks whose parts run on several devices; here on the CPU and on one that computes nothing but shapes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, calibrate, evaluate
from graphprune.calibration.gradient import gradients
from graphprune.calibration.sensitivity import sensitivities
from graphprune.methods import Cut, Recipe
from graphprune.models.devices import AUTO, Devices, alone, entrance, spread
from graphprune.models.streamed import StreamedDecoder
from graphprune.pruning import Evidence, apply
from graphprune.solvers.blocks import Blocks
from tests.families import MODEL_TYPES, causal_lm, decoder, perceptron, token_ids

ROWS = token_ids(3, 12)
CPU = torch.device("cpu")


def half_on_meta(model_type: str = "llama") -> StreamedDecoder:
    return StreamedDecoder(decoder(model_type), device=Devices("cpu", ("cpu", "meta")))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_block_runs_on_its_own_device(model_type: str) -> None:
    network = half_on_meta(model_type)
    hidden, settings = network.settings(ROWS)
    assert hidden.device == CPU
    given = []
    for layer, where in enumerate(("cpu", "meta")):
        with torch.inference_mode(), network.entered(f"layers.{layer}") as block:
            assert {parameter.device.type for parameter in block.parameters()} == {where}
            output = block(hidden.to(where), **settings[layer])
        given.append(output[0] if isinstance(output, tuple) else output)
    assert [output.device.type for output in given] == ["cpu", "meta"]
    assert given[0].shape == given[1].shape == hidden.shape


def test_the_engine_sends_hidden_states_to_the_block_and_has_what_is_read_there() -> None:
    network = half_on_meta()
    blocks = Blocks.before_all(network, ROWS)
    for layer, where in enumerate(("cpu", "meta")):
        with network.entered(f"layers.{layer}") as block:
            found = list(blocks.inputs(layer, block, "neuron"))
            network.put(block, "mlp.down_proj.weight", torch.ones(16, 24))
            assert block.mlp.down_proj.weight.device.type == where
        assert {read.device.type for read in found} == {where}
        assert sum(len(read) for read in found) == len(ROWS)
        assert blocks.hidden.device == CPU
        blocks.kept.clear()


def body(model_type: str = "llama", layers: int = 6) -> tuple[Any, str]:
    network = StreamedDecoder(decoder(model_type, num_hidden_layers=layers))
    return network.body, network.naming.layers


def block_size(network: Any, layers: str) -> int:
    return sum(4 * parameter.numel() for parameter in network.get_submodule(f"{layers}.0").parameters())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_blocks_are_spread_whole_and_in_order_over_the_accelerators_that_hold_them(model_type: str) -> None:
    network, layers = body(model_type)
    size = block_size(network, layers)
    outside = sum(4 * parameter.numel() for parameter in network.parameters()) - 6 * size
    room: dict[int | str, int | str] = {0: outside + 4 * size, 1: 8 * size + outside, "cpu": 1 << 30}
    found = spread(network, layers, torch.float32, room)
    assert found.outside == 0
    assert sorted(found.blocks, key=str) == list(found.blocks)
    assert set(found.blocks) == {0, 1}
    assert [found.of_block(layer) for layer in range(6)] == list(found.blocks)


def test_a_block_that_no_accelerator_holds_runs_on_the_first() -> None:
    network, layers = body()
    size = block_size(network, layers)
    room: dict[int | str, int | str] = {0: 4 * size, "cpu": 1 << 30}
    assert spread(network, layers, torch.float32, room) == Devices(0, (0,) * 6)


def test_without_accelerators_all_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    network, layers = body()
    assert spread(network, layers, torch.float32, {"cpu": 1 << 30}) == Devices("cpu", ("cpu",) * 6)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert (alone(AUTO), alone("meta")) == ("cpu", "meta")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    assert alone(AUTO) == "xpu"


def test_tokens_go_where_the_embedding_is_or_where_it_is_fetched_to() -> None:
    network = causal_lm("llama")
    assert entrance(network, "meta") == torch.device("meta")
    assert entrance(network, AUTO) == CPU
    assert entrance(network.to("meta"), AUTO) == CPU


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there auto means something else")
@pytest.mark.parametrize("stored", [True, False], ids=["folder", "memory"])
def test_auto_gives_what_the_cpu_gives_where_there_is_nothing_else(stored: bool, tmp_path: Path) -> None:
    model = decoder("llama")
    if stored:
        network: Any = causal_lm("llama")
        network.save_pretrained(tmp_path)
        model = Model.from_folder(tmp_path)
    reports = [evaluate(model, ROWS, device=device, against=model).facts() for device in ("cpu", AUTO)]
    assert all(report.pop("seconds") >= 0 for report in reports)
    assert reports[0] == reports[1]
    one, other = (calibrate(model, ROWS, device=device).squares for device in ("cpu", AUTO))
    assert all(torch.equal(one[site], other[site]) for site in one)
    for measure in (gradients, sensitivities):
        held, spread_out = (measure(model, ROWS, device=device) for device in ("cpu", AUTO))
        assert all(torch.equal(held[name], spread_out[name]) for name in held)
    cuttings = [
        apply(Recipe.of("slimgpt", cut=Cut("uniform")), 0.3, Evidence.of_text(model, ROWS, device=device))
        for device in ("cpu", AUTO)
    ]
    assert cuttings[0].mask.keep.keys() == cuttings[1].mask.keep.keys()
    first, second = (cutting.model.parameters for cutting in cuttings)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there auto means something else")
def test_a_perceptron_is_not_spread() -> None:
    inputs = torch.randn(20, perceptron().shapes["layers.0.weight"][1], generator=torch.Generator().manual_seed(0))
    one, other = (calibrate(perceptron(), inputs, device=device).squares for device in ("cpu", AUTO))
    assert all(torch.equal(one[site], other[site]) for site in one)
    cutting = apply(Recipe.of("slimgpt"), 0.3, Evidence.of_text(perceptron(), inputs, device=AUTO))
    assert not all(bool(keep.all()) for keep in cutting.mask.keep.values())

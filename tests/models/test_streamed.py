"""A decoder that is read block by block against the whole of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphprune.core.errors import ModelError
from graphprune.models.model import Model
from graphprune.models.streamed import StreamedDecoder
from tests.families import MODEL_TYPES, decoder, module_of, stored, token_ids

DTYPES = (torch.float32, torch.bfloat16)


def given_by_blocks(model: Model, rows: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """What enters the first block of the whole model, and what every block gives."""
    network: Any = model.module(dtype=dtype)
    found: list[torch.Tensor] = []

    def reads(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        found.append(args[0])

    def gives(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    layers = [module_of(network, f"model.layers.{layer}") for layer in range(model.decoder.n_layers)]
    layers[0].register_forward_pre_hook(reads)
    for layer in layers:
        layer.register_forward_hook(gives)
    with torch.inference_mode():
        network(input_ids=rows)
    return found


def on_meta(part: Any) -> bool:
    return all(parameter.is_meta for parameter in part.parameters())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_block_gives_what_it_gives_in_the_whole_model_to_the_last_bit(
    model_type: str, dtype: torch.dtype
) -> None:
    model, rows = decoder(model_type), token_ids(3, 40)  # longer than Gemma's window of 32
    whole = given_by_blocks(model, rows, dtype)
    network = StreamedDecoder(model, dtype=dtype)
    hidden, settings = network.settings(rows)
    assert len(settings) == len(network.layers) == len(whole) - 1
    assert hidden.dtype == dtype
    assert torch.equal(hidden, whole[0])
    for layer, expected in enumerate(whole[1:]):
        before = hidden
        with torch.inference_mode(), network.entered(f"layers.{layer}") as block:
            output = block(hidden, **settings[layer])
        hidden = output[0] if isinstance(output, tuple) else output
        assert torch.equal(hidden, expected)
        assert not torch.equal(hidden, before)


def test_the_forward_passes_have_the_checkpoints_dtype_unless_another_is_asked_for() -> None:
    model = decoder("llama")
    half = Model.from_parameters(model.config, {name: model.parameters[name].bfloat16() for name in model.parameters})
    assert StreamedDecoder(model).settings(token_ids())[0].dtype == torch.float32
    assert StreamedDecoder(half).settings(token_ids())[0].dtype == torch.bfloat16
    assert StreamedDecoder(half, dtype=torch.float32).settings(token_ids())[0].dtype == torch.float32


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_only_what_is_entered_is_in_memory(model_type: str) -> None:
    network = StreamedDecoder(decoder(model_type))
    assert on_meta(network.body)
    network.settings(token_ids())
    assert on_meta(network.body)
    with network.entered("layers.1") as block:
        assert block is network.layers[1]
        assert not any(parameter.is_meta for parameter in block.parameters())
        assert on_meta(network.layers[0])
        network.put(block, "mlp.down_proj.weight", torch.ones(16, 24))
    assert on_meta(network.body)
    assert all("forward" not in vars(layer) for layer in network.layers)


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj", "o_proj"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_put_into_a_block_is_what_its_class_then_computes_with(model_type: str, part: str) -> None:
    """Also into a third of a fused projection, whose other thirds and whose old tensor stay as they are."""
    model = decoder(model_type)
    name = f"model.layers.1.self_attn.{part}.weight"
    value = torch.randn(model.shapes[name], generator=torch.Generator().manual_seed(1))
    before = {key: tensor.clone() for key, tensor in model.parameters.items()}
    network = StreamedDecoder(model)
    whole: Any = Model.from_parameters(model.config, {**model.parameters, name: value}).module()
    with network.entered("layers.1") as block:
        network.put(block, name.removeprefix("model.layers.1."), value)
        expected = dict(module_of(whole, "model.layers.1").named_parameters())
        assert all(torch.equal(parameter, expected[key]) for key, parameter in block.named_parameters())
    assert torch.equal(stored(whole, name), value)
    assert all(torch.equal(model.parameters[key], tensor) for key, tensor in before.items())


def test_a_block_is_dropped_also_when_something_goes_wrong_inside() -> None:
    network = StreamedDecoder(decoder("llama"))

    def fail() -> None:
        with network.entered("layers.0") as block:
            assert not on_meta(block)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert on_meta(network.body)


def test_a_forward_pass_that_fails_leaves_no_stand_ins_behind() -> None:
    network = StreamedDecoder(decoder("llama"))
    with pytest.raises(IndexError):
        network.settings(torch.full((1, 4), 64))
    assert on_meta(network.body)
    assert all("forward" not in vars(layer) for layer in network.layers)


@pytest.mark.parametrize(("fault", "said"), [("missing", "no parameter"), ("misshapen", r"is \(23, 16\)")])
def test_parameters_that_do_not_fit_are_refused_and_none_stays_in_memory(fault: str, said: str) -> None:
    model, name = decoder("llama"), "model.layers.1.mlp.up_proj.weight"
    parameters = {key: model.parameters[key] for key in model.parameters}
    if fault == "missing":
        del parameters[name]
    else:
        parameters[name] = parameters[name][:-1]
    network = StreamedDecoder(replace(model, parameters=parameters))
    with network.entered("layers.0"):
        pass
    with pytest.raises(ModelError, match=said) as refused, network.entered("layers.1"):
        pytest.fail("the block was entered")
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert on_meta(network.body)


def test_a_model_that_cannot_be_built_is_refused() -> None:
    model = decoder("llama")
    with pytest.raises(ModelError, match="cannot build the model"):
        StreamedDecoder(replace(model, config={**model.config, "hidden_act": "unheard of"}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nobodys_tensors_are_written(dtype: torch.dtype) -> None:
    model, rows = decoder("llama"), token_ids()
    before = {name: model.parameters[name].clone() for name in model.parameters}
    network = StreamedDecoder(model, dtype=dtype)
    hidden, settings = network.settings(rows)
    with torch.inference_mode(), network.entered("layers.0") as block:
        plain = block(hidden, **settings[0])
        other = torch.ones_like(before["model.layers.0.mlp.down_proj.weight"])
        network.put(block, "mlp.down_proj.weight", other)
        changed = block(hidden, **settings[0])
        assert not torch.equal(plain[0], changed[0])
        network.put(block, "mlp.down_proj.weight", torch.zeros_like(other))
    assert bool((other == 1).all())
    assert all(torch.equal(model.parameters[name], values) for name, values in before.items())
    with torch.inference_mode(), network.entered("layers.0") as block:
        assert torch.equal(block(hidden, **settings[0])[0], plain[0])

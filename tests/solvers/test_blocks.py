"""Hidden states on their way through a decoder against hooks on the whole of it."""

import copy
from typing import Any

import pytest
import torch

from graphprune.core.errors import InputError
from graphprune.models.model import Model
from graphprune.models.streamed import StreamedDecoder
from graphprune.solvers import blocks as blocks_module
from graphprune.solvers.blocks import ATTENTION, ATTENTION_INPUT, MLP_INPUT, NEURON, SITES, Blocks, reading
from tests.families import MODEL_TYPES, decoder, module_of, stock_name, store, stored, token_ids

ROWS = token_ids(5, 24)


def read_by(network: Any, rows: torch.Tensor, module: str) -> torch.Tensor:
    """What a module reads when the whole network runs."""
    found: list[torch.Tensor] = []
    handle = module_of(network, module).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.inference_mode():
        network(input_ids=rows)
    handle.remove()
    return found[0]


def given_by(network: Any, rows: torch.Tensor, module: str) -> torch.Tensor:
    """What a module gives when the whole network runs."""
    found: list[Any] = []
    handle = module_of(network, module).register_forward_hook(lambda _, __, output: found.append(output))
    with torch.inference_mode():
        network(input_ids=rows)
    handle.remove()
    output: torch.Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
    return output


def before_all(model: Model, rows: torch.Tensor = ROWS) -> Blocks:
    return Blocks.before_all(StreamedDecoder(model, dtype=torch.float32), rows)


def noisy(weights: torch.Tensor, seed: int) -> torch.Tensor:
    return weights + 0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))


def through(model: Model, rows: torch.Tensor = ROWS) -> list[torch.Tensor]:
    """What is read at every site and given by every block, while the layers that read change after each."""
    blocks, found = before_all(model, rows), []
    for layer in range(model.decoder.n_layers):
        with blocks.network.entered(f"layers.{layer}") as block:
            for site in SITES:
                found.append(torch.cat(list(blocks.inputs(layer, block, site))))
                for module in reading(model.decoder, site):
                    weights = model.parameters[model.decoder.parameter(layer, f"{module}.weight")]
                    blocks.network.put(block, f"{blocks.name(layer, module)}.weight", noisy(weights, layer))
            blocks.advance(layer, block)
            found.append(blocks.hidden.clone())
    return found


FORMS: list[tuple[str, dict[str, Any]]] = [(model_type, {}) for model_type in MODEL_TYPES]
FORMS.append(("gpt_neox", {"use_parallel_residual": False}))


@pytest.mark.parametrize(("model_type", "settings"), FORMS)
def test_every_site_reads_what_it_reads_in_the_whole_model(model_type: str, settings: dict[str, Any]) -> None:
    model = decoder(model_type, **settings)
    whole, blocks = model.module(dtype=torch.float32), before_all(model)
    for layer in range(model.decoder.n_layers):
        with blocks.network.entered(f"layers.{layer}") as block:
            for site in SITES:
                found = torch.cat(list(blocks.inputs(layer, block, site)))
                for module in reading(model.decoder, site):
                    torch.testing.assert_close(found, read_by(whole, ROWS, model.decoder.parameter(layer, module)))
            blocks.advance(layer, block)
        torch.testing.assert_close(blocks.hidden, given_by(whole, ROWS, f"model.layers.{layer}"))


@pytest.mark.parametrize(("model_type", "settings"), FORMS)
def test_what_is_changed_at_a_site_is_seen_by_all_that_compute_later(model_type: str, settings: dict[str, Any]) -> None:
    model = decoder(model_type, **settings)
    dense, found = model.module(dtype=torch.float32), iter(through(model))
    whole: Any = copy.deepcopy(dense)
    for layer in range(model.decoder.n_layers):
        for site in SITES:
            name, read = model.decoder.parameter(layer, SITES[site][-1]), next(found)
            torch.testing.assert_close(read, read_by(whole, ROWS, name))
            is_first = layer == 0 and (site == ATTENTION_INPUT or (site == MLP_INPUT and model.decoder.parallel))
            assert is_first or (read - read_by(dense, ROWS, name)).abs().max() > 1e-2
            for module in reading(model.decoder, site):
                weight = f"{model.decoder.parameter(layer, module)}.weight"
                store(whole, weight, noisy(stored(whole, weight), layer))
        torch.testing.assert_close(next(found), given_by(whole, ROWS, f"model.layers.{layer}"))


@pytest.mark.parametrize("model_type", ["qwen3", "opt", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("site", SITES)
def test_a_block_may_be_changed_at_one_site_alone(site: str, model_type: str) -> None:
    """Whatever is kept of a block, what has changed is computed again."""
    model = decoder(model_type)
    whole: Any = copy.deepcopy(model.module(dtype=torch.float32))
    blocks = before_all(model)
    with blocks.network.entered("layers.0") as block:
        list(blocks.inputs(0, block, site))
        for module in reading(model.decoder, site):
            weight = f"{model.decoder.parameter(0, module)}.weight"
            store(whole, weight, noisy(stored(whole, weight), 1))
            blocks.network.put(block, f"{blocks.name(0, module)}.weight", stored(whole, weight))
        blocks.advance(0, block)
        assert not blocks.kept
    torch.testing.assert_close(blocks.hidden, given_by(whole, ROWS, "model.layers.0"))


def test_a_block_that_nothing_is_done_to_is_passed_through() -> None:
    model, blocks = decoder("gemma2"), before_all(decoder("gemma2"))
    for layer in range(2):
        with blocks.network.entered(f"layers.{layer}") as block:
            blocks.advance(layer, block)
    torch.testing.assert_close(blocks.hidden, given_by(model.module(dtype=torch.float32), ROWS, "model.layers.1"))


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
@pytest.mark.parametrize(("batch_tokens", "batches"), [(1, 5), (48, 3), (72, 2), (1 << 20, 1)])
def test_how_many_windows_run_at_a_time_changes_nothing(
    model_type: str, batch_tokens: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(model_type)
    whole = through(model)
    monkeypatch.setattr(blocks_module, "BATCH_TOKENS", batch_tokens)
    blocks = before_all(model)
    with blocks.network.entered("layers.0") as block:
        assert len(list(blocks.inputs(0, block, NEURON))) == batches
    for found, expected in zip(through(model), whole, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_too_large_to_keep_is_computed_again_to_the_same_bits(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(model_type)
    monkeypatch.setattr(blocks_module, "BATCH_TOKENS", 48)
    kept, blocks = through(model), before_all(model)
    with blocks.network.entered("layers.0") as block:
        list(blocks.inputs(0, block, NEURON))
        assert set(blocks.kept) == {ATTENTION, NEURON}
    monkeypatch.setattr(blocks_module, "KEPT_BYTES", 0)
    computed, blocks = through(model), before_all(model)
    with blocks.network.entered("layers.0") as block:
        list(blocks.inputs(0, block, NEURON))
        assert not blocks.kept
    assert len(kept) == len(computed) == 10
    assert all(torch.equal(a, b) for a, b in zip(kept, computed, strict=True))


def test_a_block_runs_no_further_than_the_site_and_what_was_kept_not_again() -> None:
    model = decoder("llama")
    blocks, ran = before_all(model), list[str]()
    with blocks.network.entered("layers.0") as block:
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            block.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name.split(".")[1]))
        expected = {"attn_in": [], "attn": ["q_proj"], "mlp_in": ["o_proj"], "neuron": ["o_proj", "up_proj"]}
        for site, modules in expected.items():
            ran.clear()
            list(blocks.inputs(0, block, site))
            assert ran == modules
        ran.clear()
        blocks.advance(0, block)
        assert ran == ["o_proj", "down_proj"]


@pytest.mark.parametrize("model_type", ["opt", "gpt2", "gpt_neox"])
def test_what_was_kept_of_other_classes_is_not_computed_again_either(model_type: str) -> None:
    blocks, ran = before_all(decoder(model_type)), list[str]()
    with blocks.network.entered("layers.0") as block:
        prefix = stock_name(model_type, "model.layers.0")
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            linear = block.get_submodule(stock_name(model_type, f"model.layers.0.{name}").removeprefix(f"{prefix}."))

            def counted(x: torch.Tensor, name: str = name, forward: Any = linear.forward) -> torch.Tensor:
                ran.append(name.split(".")[1])
                result: torch.Tensor = forward(x)
                return result

            linear.forward = counted
        expected = {"attn_in": [], "attn": ["q_proj"], "mlp_in": ["o_proj"], "neuron": ["o_proj", "up_proj"]}
        for site, modules in expected.items():
            ran.clear()
            list(blocks.inputs(0, block, site))
            assert ran == modules
    assert blocks.kept.keys() == {ATTENTION, NEURON}


def test_hidden_states_that_are_not_finite_are_refused() -> None:
    blocks = before_all(decoder("llama"))
    with blocks.network.entered("layers.0") as block:
        huge = torch.full_like(block.mlp.down_proj.weight, 3e38)
        blocks.network.put(block, "mlp.down_proj.weight", huge)
        with pytest.raises(InputError, match="after block 0 are NaN or infinite; try --dtype float32"):
            blocks.advance(0, block)

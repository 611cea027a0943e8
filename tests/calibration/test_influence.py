"""Block influence: how much a sub-block turns the stream."""

from typing import Any

import pytest
import torch

from graphprune.calibration.influence import influence
from graphprune.core.errors import InputError
from graphprune.models.model import Model
from tests.families import MODEL_TYPES, causal_lm, decoder, perceptron, stock_name, token_ids


def turned(before: torch.Tensor, after: torch.Tensor) -> float:
    """One minus the mean cosine, token by token, in float64."""
    pairs = zip(before.double().flatten(0, 1), after.double().flatten(0, 1), strict=True)
    return 1 - sum(float(x @ y / x.norm() / y.norm()) for x, y in pairs) / before[..., 0].numel()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_influence_is_what_the_streams_of_the_stock_network_say(model_type: str) -> None:
    """The stream before and after a whole block is what the network itself reports."""
    network: Any = causal_lm(model_type, seed=3)
    model, rows = Model.from_module(network), token_ids(3, 12)
    found = influence(model, rows)
    with torch.inference_mode():
        hidden = network(rows, output_hidden_states=True, use_cache=False).hidden_states
    assert set(found) == {f"block.{layer}.{part}" for layer in range(2) for part in ("attn", "mlp")}
    assert all(0 < float(score) < 2 for score in found.values())
    # with an MLP that writes nothing, what is left of the first block is its attention, and the other way round
    for part, silent in (("attn", "mlp.down_proj"), ("mlp", "self_attn.o_proj")):
        alone: Any = causal_lm(model_type, seed=3)
        writer = alone.get_submodule(stock_name(model_type, f"model.layers.0.{silent}"))
        with torch.no_grad():
            for parameter in writer.parameters():
                parameter.zero_()
            left = alone(rows, output_hidden_states=True, use_cache=False).hidden_states
        expected = turned(hidden[0], left[1])
        if part == "attn" or model.decoder.parallel:
            assert float(found[f"block.0.{part}"]) == pytest.approx(expected, rel=1e-4)
        else:  # behind its attention it reads another stream
            again = influence(Model.from_module(alone), rows)
            assert float(again["block.0.mlp"]) == pytest.approx(expected, rel=1e-4)
            assert float(again["block.0.attn"]) == pytest.approx(0, abs=1e-6)


def test_a_sub_block_that_writes_nothing_has_no_influence_and_one_that_turns_all_around_has_two() -> None:
    model = decoder("llama")
    parameters = dict(model.parameters)
    parameters["model.layers.1.mlp.down_proj.weight"] = torch.zeros(16, 24)
    found = influence(Model.from_parameters(model.config, parameters), token_ids(2, 8))
    assert float(found["block.1.mlp"]) == pytest.approx(0, abs=1e-6)


def test_influence_needs_a_text_and_a_language_model() -> None:
    with pytest.raises(InputError, match="no calibration text"):
        influence(decoder("llama"), torch.zeros(0, 8, dtype=torch.long))
    with pytest.raises(InputError, match="is a perceptron"):
        influence(perceptron(), torch.zeros(2, 6))

"""FLAP against what it stands for: the error that is left when a bias makes up for a channel's mean."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from graphprune import CalibrationStats, Model, calibrate, score
from graphprune.core.errors import InputError
from graphprune.scorers.inputs import WeightInputs
from graphprune.scorers.magnitude import Magnitude
from graphprune.scorers.random import Random
from graphprune.scorers.wanda import Wanda
from tests import families

D_HEAD, N_HEADS, D_MLP = 8, 4, 24
ROWS = families.token_ids(6, 12)
X_PERCEPTRON = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


@cache
def measured(name: str) -> tuple[Model, CalibrationStats]:
    model = families.perceptron() if name == "perceptron" else families.decoder(name)
    return model, calibrate(model, X_PERCEPTRON if name == "perceptron" else ROWS)


def inputs_of(name: str, path: str) -> torch.Tensor:
    """What a linear layer of the Hugging Face model reads on the calibration tokens, (tokens, channels)."""
    network: Any = families.causal_lm(name)
    seen: list[torch.Tensor] = []
    families.module_of(network, path).register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    with torch.no_grad():
        network(ROWS)
    return seen[0].reshape(-1, seen[0].shape[-1])


def error_after_bias(W: torch.Tensor, X: torch.Tensor, j: int) -> float:
    """Mean over tokens of ``|W x - (W' x + b)|^2``: W' is W without column j, b the column times its input's mean."""
    cut = W.double().clone()
    bias = cut[:, j] * X[:, j].mean()
    cut[:, j] = 0
    return float((X @ W.double().T - (X @ cut.T + bias)).square().sum(dim=1).mean())


@pytest.mark.parametrize("name", families.MODEL_TYPES)
def test_a_score_is_the_error_that_is_left_after_bias_compensation(name: str) -> None:
    model, stats = measured(name)
    found = score(model, "flap", stats=stats).values
    for layer in range(2):
        home = f"model.layers.{layer}"
        X, W = inputs_of(name, f"{home}.mlp.down_proj"), model.parameters[f"{home}.mlp.down_proj.weight"]
        neurons = torch.tensor([error_after_bias(W, X, j) for j in range(D_MLP)])
        torch.testing.assert_close(found[f"neuron.{layer}"], neurons, rtol=1e-4, atol=0)
        X, W = inputs_of(name, f"{home}.self_attn.o_proj"), model.parameters[f"{home}.self_attn.o_proj.weight"]
        channels = torch.tensor([error_after_bias(W, X, j) for j in range(W.shape[1])])
        torch.testing.assert_close(found[f"head.{layer}"], channels.view(N_HEADS, -1).mean(dim=1), rtol=1e-4, atol=0)


def test_scores_of_a_perceptron_are_those_of_the_layer_that_reads_the_neuron() -> None:
    model, stats = measured("perceptron")
    found = score(model, "flap", stats=stats).values
    X = X_PERCEPTRON
    for layer in range(2):
        X = (X @ model.parameters[f"layers.{layer}.weight"].T + model.parameters[f"layers.{layer}.bias"]).relu()
        W = model.parameters[f"layers.{layer + 1}.weight"]
        expected = torch.tensor([error_after_bias(W, X.double(), j) for j in range(X.shape[1])])
        torch.testing.assert_close(found[f"neuron.{layer}"], expected, rtol=1e-4, atol=1e-9)


def test_a_channel_that_never_changes_is_worth_nothing_however_large() -> None:
    model, stats = measured("perceptron")
    sums, squares = stats.sums["neuron.0"].clone(), stats.squares["neuron.0"].clone()
    sums[3], squares[3] = 100.0 * stats.n_tokens, 1e4 * stats.n_tokens
    constant = replace(stats, sums={**stats.sums, "neuron.0": sums}, squares={**stats.squares, "neuron.0": squares})
    assert float(score(model, "flap", stats=constant).values["neuron.0"][3]) == 0
    assert int(score(model, "wanda", stats=constant).values["neuron.0"].argmax()) == 3


def test_statistics_without_means_are_refused() -> None:
    model, stats = measured("llama")
    with pytest.raises(InputError, match="calibrate again") as caught:
        score(model, "flap", stats=replace(stats, sums={}))
    assert "\n" not in str(caught.value)


# What the other scorers of single weights give


def test_weights_are_scored_by_magnitude_whatever_the_options() -> None:
    W = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    for scorer in (Magnitude(), Magnitude(norm=2, part="outgoing")):
        assert scorer.of_weights(W, WeightInputs("x")).tolist() == [[1.0, 2.0], [0.0, 3.0]]
    assert Magnitude().per == Random().per == "matrix"


def test_wanda_scores_a_weight_by_its_inputs_norm_and_compares_within_rows() -> None:
    W = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    seen = WeightInputs("x", rms=torch.tensor([10.0, 0.5], dtype=torch.float64))
    assert Wanda().of_weights(W, seen).tolist() == [[10.0, 1.0], [0.0, 1.5]]
    assert Wanda().per == "row"
    with pytest.raises(ValueError, match="root mean square"):
        Wanda().of_weights(W, WeightInputs("x"))


def test_random_scores_of_weights_depend_on_the_seed_and_the_parameter_alone() -> None:
    W = torch.zeros(40, 30)
    state = torch.get_rng_state()
    found = Random(3).of_weights(W, WeightInputs("x"))
    assert torch.equal(found, Random(3).of_weights(W + 1, WeightInputs("x")))
    assert not torch.equal(found, Random(3).of_weights(W, WeightInputs("y")))
    assert not torch.equal(found, Random(4).of_weights(W, WeightInputs("x")))
    assert abs(float(found.mean()) - 0.5) < 0.05  # 1200 draws: six standard errors
    assert torch.equal(state, torch.get_rng_state())

"""MLPRank and LLM-Rank against formulas written down independently in tests.oracles.mlprank."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from graphprune import CalibrationStats, Model, Scores, calibrate, score
from graphprune.core.errors import InputError
from tests.families import UNGATED, causal_lm, perceptron_module, token_ids
from tests.oracles import mlprank as oracle

GAMMAS = (0.0, 0.5, 0.9, 1.0)
THETAS = (0.0, 0.5, 1.0)
RELATIVE = 1e-6  # scores are float32


def norm(stats: CalibrationStats, site: str) -> oracle.Array:
    squares: oracle.Array = stats.squares[site].numpy()
    return np.sqrt(squares)


def weight(model: Model, name: str) -> oracle.Array:
    result: oracle.Array = model.parameters[name].double().numpy()
    return result


@cache
def measured_llama() -> tuple[Model, CalibrationStats]:
    model = Model.from_module(causal_lm("llama"))
    return model, calibrate(model, token_ids(6, 12))


@cache
def sparse_llama() -> tuple[Model, CalibrationStats]:
    """A third of the MLP weights is exactly zero, a whole column among them."""
    network: Any = causal_lm("llama", seed=3)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for layer in network.model.layers:
            for linear in (layer.mlp.up_proj, layer.mlp.down_proj, layer.mlp.gate_proj):
                linear.weight[torch.rand(linear.weight.shape, generator=generator) < 1 / 3] = 0
                linear.weight[:, 2] = 0
    model = Model.from_module(network)
    return model, calibrate(model, token_ids(6, 12))


@cache
def measured_perceptron() -> tuple[Model, CalibrationStats]:
    """Four layers, with exact zeros and a neuron nobody reads."""
    network: Any = perceptron_module((10, 16, 12, 14, 4), seed=5)
    with torch.no_grad():
        network[2].weight[:, 3] = 0
        network[2].weight[5:9, 4:8] = 0
    model = Model.from_module(network)
    return model, calibrate(model, torch.randn(40, 10, generator=torch.Generator().manual_seed(1)))


def expected_of_decoder(
    model: Model, stats: CalibrationStats, site: str, rank: str, gamma: float, theta: float, *, chained: bool
) -> dict[str, oracle.Array]:
    n = model.decoder.n_layers
    blocks = []
    for layer in range(n):
        home = f"model.layers.{layer}.mlp"
        weights = [weight(model, f"{home}.up_proj.weight"), weight(model, f"{home}.down_proj.weight")]
        blocks.append((weights, [norm(stats, f"{site}.{layer}"), norm(stats, f"mlp_out.{layer}")]))
    if chained:
        weights, norms = [w for part, _ in blocks for w in part], [a for _, part in blocks for a in part]
        ranks = oracle.layers(rank, norm(stats, "mlp_in.0"), weights, norms, gamma=gamma, theta=theta)
        return {f"neuron.{layer}": ranks[2 * layer] for layer in range(n)}
    return {
        f"neuron.{layer}": oracle.layers(
            rank, norm(stats, f"mlp_in.{layer}"), *blocks[layer], gamma=gamma, theta=theta
        )[0]
        for layer in range(n)
    }


def assert_same(found: Scores, expected: Mapping[str, oracle.Array]) -> None:
    assert found.values.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found.values[name].double(), torch.from_numpy(values), rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("blocks", ["chained", "isolated"])
@pytest.mark.parametrize(("scorer", "site"), [("llmrank", "up"), ("mlprank", "neuron")])
@pytest.mark.parametrize("zeros", [False, True])
def test_weighted_pagerank_of_a_decoder_equals_the_published_formula(
    gamma: float, theta: float, blocks: str, scorer: str, site: str, zeros: bool
) -> None:
    model, stats = sparse_llama() if zeros else measured_llama()
    found = score(model, scorer, stats=stats, gamma=gamma, theta=theta, blocks=blocks)
    assert_same(found, expected_of_decoder(model, stats, site, "wpr", gamma, theta, chained=blocks == "chained"))


@pytest.mark.parametrize("blocks", ["chained", "isolated"])
@pytest.mark.parametrize(("scorer", "site"), [("llmrank", "up"), ("mlprank", "neuron")])
@pytest.mark.parametrize("zeros", [False, True])
def test_modified_pagerank_of_a_decoder_equals_the_published_formula(
    blocks: str, scorer: str, site: str, zeros: bool
) -> None:
    model, stats = sparse_llama() if zeros else measured_llama()
    found = score(model, scorer, stats=stats, rank="mpr", blocks=blocks)
    assert_same(found, expected_of_decoder(model, stats, site, "mpr", 0.0, 0.0, chained=blocks == "chained"))


@pytest.mark.parametrize("rank", ["wpr", "mpr"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize(("scorer", "site"), [("llmrank", "pre"), ("mlprank", "neuron")])
def test_scores_of_a_perceptron_equal_the_published_formula(
    rank: str, gamma: float, theta: float, scorer: str, site: str
) -> None:
    model, stats = measured_perceptron()
    found = score(model, scorer, stats=stats, rank=rank, gamma=gamma, theta=theta)
    weights = [weight(model, f"layers.{layer}.weight") for layer in range(3)]
    norms = [norm(stats, f"{site}.{layer}") for layer in range(3)]
    ranks = oracle.layers(rank, norm(stats, "input.0"), weights, norms, gamma=gamma, theta=theta)
    assert_same(found, {f"neuron.{layer}": values for layer, values in enumerate(ranks)})


def test_every_layer_sums_to_one() -> None:
    model, stats = measured_llama()
    for values in score(model, "mlprank", stats=stats).values.values():
        torch.testing.assert_close(values.sum(), torch.tensor(1.0), rtol=1e-6, atol=0)


def order(scores: Scores, name: str) -> list[int]:
    return scores.values[name].argsort(stable=True).tolist()


def test_gamma_zero_ranks_by_activation_alone() -> None:
    model, stats = measured_llama()
    ablation, activation = score(model, "mlprank", stats=stats, gamma=0), score(model, "activation", stats=stats)
    raw = score(model, "llmrank", stats=stats, gamma=0)
    for layer in range(2):
        assert order(ablation, f"neuron.{layer}") == order(activation, f"neuron.{layer}")
        assert order(raw, f"neuron.{layer}") == stats.squares[f"up.{layer}"].argsort(stable=True).tolist()


@pytest.mark.parametrize("scorer", ["llmrank", "mlprank"])
def test_the_default_looks_at_the_graph(scorer: str) -> None:
    model, stats = measured_llama()
    default = score(model, scorer, stats=stats)
    ablation = score(model, scorer, stats=stats, gamma=0)
    assert default.options["gamma"] == 0.9
    assert order(default, "neuron.1") != order(ablation, "neuron.1")


def test_chained_and_isolated_agree_on_the_first_block_only() -> None:
    model, stats = measured_llama()
    chained, isolated = (score(model, "mlprank", stats=stats, blocks=blocks) for blocks in ("chained", "isolated"))
    assert torch.equal(chained.values["neuron.0"], isolated.values["neuron.0"])
    assert not torch.allclose(chained.values["neuron.1"], isolated.values["neuron.1"], rtol=1e-3)


@pytest.mark.parametrize("scorer", ["llmrank", "mlprank"])
def test_gated_sees_gate_and_product(scorer: str) -> None:
    model, stats = measured_llama()
    found = score(model, scorer, stats=stats, mlp="gated", blocks="isolated")
    expected = {}
    for layer in range(2):
        up, gate = (weight(model, f"model.layers.{layer}.mlp.{part}_proj.weight") for part in ("up", "gate"))
        ranks = oracle.layers(
            "wpr",
            norm(stats, f"mlp_in.{layer}"),
            [np.abs(up) + np.abs(gate)],
            [norm(stats, f"neuron.{layer}")],
            gamma=0.9,
            theta=0.5,
        )
        expected[f"neuron.{layer}"] = ranks[0]
    assert_same(found, expected)
    published = score(model, scorer, stats=stats, blocks="isolated")
    assert order(found, "neuron.0") != order(published, "neuron.0")


@pytest.mark.parametrize("model_type", UNGATED)
@pytest.mark.parametrize(("scorer", "site"), [("llmrank", "up"), ("mlprank", "neuron")])
def test_an_mlp_without_a_gate_is_ranked_by_its_up_projection(model_type: str, scorer: str, site: str) -> None:
    model = Model.from_module(causal_lm(model_type))
    stats = calibrate(model, token_ids(6, 12))
    found = score(model, scorer, stats=stats)
    assert_same(found, expected_of_decoder(model, stats, site, "wpr", 0.9, 0.5, chained=True))
    with pytest.raises(InputError, match=r"have no gate; use mlp up$"):
        score(model, scorer, stats=stats, mlp="gated")


def test_only_neurons_are_scored() -> None:
    model, stats = measured_llama()
    assert score(model, "mlprank", stats=stats).kinds == ("neuron",)

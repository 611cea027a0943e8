"""Magnitude, activation, Wanda, random and graphrank against brute force."""

from functools import cache
from typing import Any

import networkx as nx
import pytest
import torch

from graphprune import CalibrationStats, Model, ModelGraph, Scores, calibrate, export, score
from graphprune.extraction.export import graph_facts
from tests import families

D_HEAD, N_HEADS, N_KV, D_MLP, D_MODEL = 8, 4, 2, 24, 16


@cache
def measured(name: str = "llama") -> tuple[Model, CalibrationStats]:
    if name == "perceptron":
        model = families.perceptron()
        return model, calibrate(model, torch.randn(32, 6, generator=torch.Generator().manual_seed(1)))
    model = families.decoder(name)
    return model, calibrate(model, families.token_ids(6, 12))


def close(found: Scores, name: str, expected: list[float]) -> None:
    torch.testing.assert_close(found.values[name], torch.tensor(expected), rtol=1e-5, atol=0)


def reduced(parts: list[torch.Tensor], norm: int) -> float:
    flat = torch.cat([part.reshape(-1) for part in parts]).double()
    return float(flat.abs().sum() if norm == 1 else flat.square().sum().sqrt())


# Magnitude


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("part", ["all", "incoming", "outgoing"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])  # qwen2 has biases in its attention
def test_magnitude_is_the_norm_of_what_a_unit_owns(name: str, norm: int, part: str) -> None:
    model, _ = measured(name)
    found = score(model, "magnitude", norm=norm, part=part)
    P = model.parameters
    for layer in range(2):
        home = f"model.layers.{layer}"
        neurons, heads = [], []
        for j in range(D_MLP):
            incoming = [P[f"{home}.mlp.gate_proj.weight"][j], P[f"{home}.mlp.up_proj.weight"][j]]
            outgoing = [P[f"{home}.mlp.down_proj.weight"][:, j]]
            neurons.append({"incoming": incoming, "outgoing": outgoing, "all": incoming + outgoing}[part])
        for h in range(N_HEADS):
            rows = slice(h * D_HEAD, (h + 1) * D_HEAD)
            incoming = [P[f"{home}.self_attn.q_proj.weight"][rows]]
            if name == "qwen2":
                incoming.append(P[f"{home}.self_attn.q_proj.bias"][rows])
            outgoing = [P[f"{home}.self_attn.o_proj.weight"][:, rows]]
            heads.append({"incoming": incoming, "outgoing": outgoing, "all": incoming + outgoing}[part])
        close(found, f"neuron.{layer}", [reduced(parts, norm) for parts in neurons])
        close(found, f"head.{layer}", [reduced(parts, norm) for parts in heads])


def test_magnitude_of_a_perceptron_counts_row_bias_and_column() -> None:
    model, _ = measured("perceptron")
    W, b, V = (model.parameters[name] for name in ("layers.0.weight", "layers.0.bias", "layers.1.weight"))
    expected = [reduced([W[j], b[j], V[:, j]], 1) for j in range(10)]
    close(score(model, "magnitude"), "neuron.0", expected)


# Activation and Wanda: own hooks on the Hugging Face model, no statistics of ours


@cache
def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """What every linear layer of the Hugging Face model reads on the calibration tokens, (tokens, channels)."""
    network: Any = families.causal_lm(name)
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            seen.setdefault(path, []).append(arguments[0].reshape(-1, arguments[0].shape[-1]).double())

        return hook

    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(keep(path))
    with torch.no_grad():
        network(families.token_ids(6, 12))
    return {path: torch.cat(parts) for path, parts in seen.items()}


def test_activation_is_the_root_mean_square_of_a_units_output() -> None:
    model, stats = measured()
    found = score(model, "activation", stats=stats)
    for layer in range(2):
        X = inputs_of("llama")[f"model.layers.{layer}.mlp.down_proj"]
        close(found, f"neuron.{layer}", [float(X[:, j].square().mean().sqrt()) for j in range(D_MLP)])
        Z = inputs_of("llama")[f"model.layers.{layer}.self_attn.o_proj"]
        expected = []
        for h in range(N_HEADS):
            head = Z[:, h * D_HEAD : (h + 1) * D_HEAD]
            expected.append(float(head.square().sum(dim=1).mean().sqrt()))
        close(found, f"head.{layer}", expected)


def test_wanda_sums_weight_times_input_norm_over_a_units_channels() -> None:
    model, stats = measured()
    found = score(model, "wanda", stats=stats)
    for layer in range(2):
        down = model.parameters[f"model.layers.{layer}.mlp.down_proj.weight"].double()
        X = inputs_of("llama")[f"model.layers.{layer}.mlp.down_proj"]
        neurons = []
        for j in range(D_MLP):
            norm = float(X[:, j].square().mean().sqrt())
            neurons.append(sum(abs(float(down[i, j])) * norm for i in range(D_MODEL)))
        close(found, f"neuron.{layer}", neurons)
        out = model.parameters[f"model.layers.{layer}.self_attn.o_proj.weight"].double()
        Z = inputs_of("llama")[f"model.layers.{layer}.self_attn.o_proj"]
        heads = []
        for h in range(N_HEADS):
            total = 0.0
            for channel in range(h * D_HEAD, (h + 1) * D_HEAD):
                norm = float(Z[:, channel].square().mean().sqrt())
                total += sum(abs(float(out[i, channel])) * norm for i in range(D_MODEL))
            heads.append(total)
        close(found, f"head.{layer}", heads)


def test_random_depends_on_its_seed_alone() -> None:
    model, _ = measured()
    other = families.decoder("llama", seed=5)
    for name, values in score(model, "random", seed=3).values.items():
        assert torch.equal(values, score(other, "random", seed=3).values[name])
        assert not torch.equal(values, score(model, "random", seed=4).values[name])
    draws = torch.cat([v for seed in range(40) for v in score(model, "random", seed=seed).values.values()])
    assert abs(float(draws.mean()) - 0.5) < 0.03  # 2240 draws: five standard errors
    assert draws.min() >= 0
    assert draws.max() < 1


# Graphrank


def by_hand(model: Model, rms: Any) -> "nx.DiGraph[Any]":
    """The channel graph with activation weights, edge by edge, from parameters and measured root mean squares."""
    G: nx.DiGraph[Any] = nx.DiGraph()
    P, group = model.parameters, N_HEADS // N_KV

    def add(src: tuple[str, int, int], dst: tuple[str, int, int], weight: float) -> None:
        G.add_edge(src, dst, weight=weight)

    def linear(name: str, src: tuple[str, int], dst: tuple[str, int], site: str) -> None:
        W, x = P[name].double(), rms(site)
        for i in range(W.shape[0]):
            for j in range(W.shape[1]):
                add((*src, j), (*dst, i), abs(float(W[i, j])) * float(x[j]))

    for layer in range(2):
        home, k = f"model.layers.{layer}", 2 * layer
        for part, kind in (("q", "query"), ("k", "key"), ("v", "value")):
            linear(f"{home}.self_attn.{part}_proj.weight", ("resid", k), (kind, layer), f"attn_in.{layer}")
        query, key, mixed = rms(f"query.{layer}"), rms(f"key.{layer}"), rms(f"attn.{layer}")
        for h in range(N_HEADS):
            for c in range(D_HEAD):
                q, s = h * D_HEAD + c, (h // group) * D_HEAD + c
                term = float(query[q] * key[s])
                add(("query", layer, q), ("pattern", layer, h), term)
                add(("key", layer, s), ("pattern", layer, h), term)
                add(("value", layer, s), ("attn", layer, q), float(mixed[q]))
                add(("pattern", layer, h), ("attn", layer, q), float(mixed[q]))
        linear(f"{home}.self_attn.o_proj.weight", ("attn", layer), ("resid", k + 1), f"attn.{layer}")
        for part in ("gate", "up"):
            linear(f"{home}.mlp.{part}_proj.weight", ("resid", k + 1), (part, layer), f"mlp_in.{layer}")
            for j in range(D_MLP):
                add((part, layer, j), ("neuron", layer, j), float(rms(f"neuron.{layer}")[j]))
        linear(f"{home}.mlp.down_proj.weight", ("neuron", layer), ("resid", k + 2), f"neuron.{layer}")
        for step in (k, k + 1):
            for j in range(D_MODEL):
                add(("resid", step, j), ("resid", step + 1, j), float(rms(f"resid.{step}")[j]))
    return G


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("alpha", [0.85, 0.99])
def test_graphrank_is_pagerank_of_a_graph_built_by_hand(direction: str, alpha: float) -> None:
    model, stats = measured()
    G = by_hand(model, stats.rms)
    start = 4 if direction == "backward" else 0
    jump = {node: float(node[:2] == ("resid", start)) for node in G}
    walked = G.reverse() if direction == "backward" else G
    rank = nx.pagerank(walked, alpha, personalization=jump, tol=1e-13, max_iter=2000)
    options: dict[str, Any] = {
        "direction": direction,
        "alpha": alpha,
        "personalization": {4: "outputs", 0: "inputs"}[start],
    }
    found = score(model, "graphrank", stats=stats, **options)
    for layer in range(2):
        neurons = torch.tensor([rank["neuron", layer, j] for j in range(D_MLP)])
        heads = torch.tensor([sum(rank["attn", layer, h * D_HEAD + c] for c in range(D_HEAD)) for h in range(N_HEADS)])
        for name, values in ((f"neuron.{layer}", neurons), (f"head.{layer}", heads)):
            # the sweep is in float32
            torch.testing.assert_close(found.values[name], values / values.sum(), rtol=2e-5, atol=0)


def test_graphrank_is_the_same_with_an_exported_graph_as_without(tmp_path: Any) -> None:
    model, stats = measured()
    graph = export(model, weight="activation", stats=stats, folder=tmp_path / "graph")
    without, given = score(model, "graphrank", stats=stats), score(model, "graphrank", stats=stats, graph=graph)
    for name, values in without.values.items():
        torch.testing.assert_close(given.values[name], values, rtol=1e-5, atol=0)


def scaled(graph: ModelGraph, factor: float) -> ModelGraph:
    """The graph with every second block's weights scaled, so that using it shows."""
    from dataclasses import replace

    loaded = [block.load() for block in graph.blocks]
    blocks = tuple(replace(block, values=block.values * (factor if i % 2 else 1)) for i, block in enumerate(loaded))
    return replace(graph, blocks=blocks)


def test_graphrank_uses_the_graph_it_is_given_if_it_is_the_one_it_needs() -> None:
    model, stats = measured()
    graph = scaled(export(model, weight="activation", stats=stats), 100.0)
    without, given = score(model, "graphrank", stats=stats), score(model, "graphrank", stats=stats, graph=graph)
    assert any(not torch.allclose(given.values[name], without.values[name], rtol=1e-3) for name in without.values)


@pytest.mark.parametrize("other", ["calibration", "weight", "level", "model"])
def test_graphrank_refuses_to_reuse_a_graph_of_something_else(other: str) -> None:
    model, stats = measured()
    elsewhere = calibrate(model, families.token_ids(6, 12, seed=9))
    stranger = families.decoder("llama", seed=8)
    graphs = {
        "calibration": lambda: export(model, weight="activation", stats=elsewhere),
        "weight": lambda: export(model, weight="magnitude"),
        "level": lambda: export(model, weight="activation", stats=stats, level="unit"),
        "model": lambda: export(stranger, weight="activation", stats=calibrate(stranger, families.token_ids(6, 12))),
    }
    graph = graphs[other]()
    without, given = score(model, "graphrank", stats=stats), score(model, "graphrank", stats=stats, graph=graph)
    assert all(torch.equal(without.values[name], given.values[name]) for name in without.values)
    assert graph_facts(model, stats)["calibration"] == dict(stats.options)

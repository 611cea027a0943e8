"""Credit on the whole graph: against its recursion, against interventions, and its graph on disk."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from graphprune.calibration.forward import calibrate
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import load_graph
from graphprune.core.stats import CalibrationStats
from graphprune.extraction.export import export
from graphprune.models.model import Model
from graphprune.scorers import score
from graphprune.scorers.credit import Credit
from graphprune.scorers.inputs import ScoringInputs, UnitScores
from tests.cli import runner
from tests.cli.runner import CALIBRATED, Cli
from tests.families import GATED, GEMMAS, MODEL_TYPES, POST_NORM, decoder, perceptron, perceptron_module, token_ids
from tests.oracles.credit import credit as credit_by_recursion


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return runner.cli(capsys)


def scored(model: Model, stats: CalibrationStats) -> UnitScores:
    return Credit()(ScoringInputs(model, stats))


def together(values: UnitScores) -> torch.Tensor:
    """All groups in one row, scaled by the largest."""
    row = torch.cat([values[name].double() for name in sorted(values)])
    return row / row.max()


def by_recursion(model: Model, stats: CalibrationStats) -> UnitScores:
    d = model.decoder
    found = credit_by_recursion(
        {name: tensor.double().numpy() for name, tensor in model.parameters.items()},
        {site: (stats.squares[site] / stats.n_tokens).numpy() for site in stats.squares},
        n_layers=d.n_layers, n_heads=d.n_heads, n_kv=d.n_kv_heads, offset=d.model_type in GEMMAS,
        post_norm=d.model_type in POST_NORM, pre_norm=d.model_type != "olmo2",
        gated=d.model_type in GATED, parallel=d.model_type == "gpt_neox",
    )  # fmt: skip
    return {name: torch.from_numpy(values) for name, values in found.items()}


def dense(graph: ModelGraph) -> torch.Tensor:
    return torch.from_numpy(graph.to_scipy().toarray()).double()


# The recursion


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_credit_is_what_the_recursion_gives_in_all_blocks_at_once(model_type: str) -> None:
    model = decoder(model_type, seed=4, num_hidden_layers=3)
    stats = calibrate(model, token_ids(4, 16, seed=2))
    found = scored(model, stats)
    assert found.keys() == {f"{kind}.{layer}" for kind in ("head", "neuron") for layer in range(3)}
    torch.testing.assert_close(together(found), together(by_recursion(model, stats)), rtol=1e-5, atol=1e-12)
    assert max(float(values.max()) for values in found.values()) == pytest.approx(1.0)


def test_an_output_embedding_of_its_own_is_the_one_that_counts() -> None:
    tied, untied = (decoder("llama", seed=4, tie_word_embeddings=tie) for tie in (True, False))
    assert "lm_head.weight" in untied.shapes
    assert "lm_head.weight" not in tied.shapes
    for model in (tied, untied):
        stats = calibrate(model, token_ids(4, 16, seed=2))
        torch.testing.assert_close(
            together(scored(model, stats)), together(by_recursion(model, stats)), rtol=1e-5, atol=1e-12
        )


def test_the_normalisation_behind_a_sub_block_is_not_passed_over() -> None:
    """A louder output projection changes nothing in Gemma, whose next step divides by its loudness."""
    ratio = {}
    for model_type in ("llama", "gemma2"):
        model = decoder(model_type, seed=4)
        name = "model.layers.1.mlp.down_proj.weight"
        louder = Model.from_parameters(model.config, {**model.parameters, name: model.parameters[name] * 10})
        values = [scored(m, calibrate(m, token_ids(4, 16, seed=2))) for m in (model, louder)]
        each = [v["neuron.1"].sum() / v["head.1"].sum() for v in values]
        ratio[model_type] = float(each[1] / each[0])
    assert ratio["gemma2"] == pytest.approx(1.0, rel=1e-3)
    assert ratio["llama"] > 2


# Interventions on perceptrons


def linear(sizes: tuple[int, ...]) -> tuple[list[nn.Linear], Model, torch.Tensor]:
    """The layers in float64, the model, and its inputs."""
    module = perceptron_module(sizes, activation=nn.Identity, seed=3)
    x = torch.randn(50, sizes[0], generator=torch.Generator().manual_seed(1))
    model = Model.from_module(module)
    return [part.double() for part in module if isinstance(part, nn.Linear)], model, x


def test_in_a_linear_network_it_is_the_change_that_noise_of_a_neurons_own_power_makes() -> None:
    """The last hidden layer: noise of a neuron's power, at random signs so that it is independent of all else."""
    (first, last), model, x = linear((5, 7, 3))
    changes = []
    with torch.no_grad():
        hidden = first(x.double())
        for neuron in range(7):
            size = hidden[:, neuron].square().mean().sqrt()
            total = 0.0
            for sign in (-1.0, 1.0):
                perturbed = hidden.clone()
                perturbed[:, neuron] += sign * size
                change = last(perturbed) - last(hidden)
                total += float(change.square().sum(dim=1).mean()) / 2
            changes.append(total)
    found = {"neuron.0": torch.tensor(changes)}
    torch.testing.assert_close(together(scored(model, calibrate(model, x))), together(found), rtol=1e-5, atol=1e-9)


def test_deeper_it_is_the_change_on_average_over_the_signs_with_which_paths_meet() -> None:
    """Every pattern of signs behind the second hidden layer, once each: what is left are the squares of all paths."""
    (first, second, last), model, x = linear((4, 5, 6, 3))
    with torch.no_grad():
        one = first(x.double())
        two = second(one)
        power = [layer.square().mean(dim=0) for layer in (one, two)]
        changes = torch.zeros(5, dtype=torch.float64)
        patterns = [torch.tensor(signs, dtype=torch.float64) for signs in product((-1.0, 1.0), repeat=6)]
        for neuron in range(5):
            nudge = torch.zeros(5, dtype=torch.float64)
            nudge[neuron] = power[0][neuron].sqrt()
            arriving = second(nudge) - second.bias
            for signs in patterns:
                changes[neuron] += (last(signs * arriving) - last.bias).square().sum() / len(patterns)
        direct = power[1] * last.weight.square().sum(dim=0)
        coherent = power[0] * (last.weight @ second.weight).square().sum(dim=0)
    expected = {"neuron.0": changes, "neuron.1": direct}
    torch.testing.assert_close(together(scored(model, calibrate(model, x))), together(expected), rtol=1e-5, atol=1e-9)
    assert not torch.allclose(changes, coherent, rtol=0.05)  # the cross terms are not nothing here


def test_a_rectifier_lets_through_the_power_that_it_was_measured_to() -> None:
    model = perceptron((6, 10, 8, 4), seed=2)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
    stats = calibrate(model, x)
    found = scored(model, stats)
    slope = (stats.squares["neuron.1"] / stats.squares["pre.1"]).double()
    W1, W2 = (model.parameters[f"layers.{i}.weight"].double().square() for i in (1, 2))
    power = [stats.squares[f"neuron.{i}"] / 40 for i in (0, 1)]
    expected = {"neuron.0": power[0] * (W2.sum(dim=0) * slope @ W1), "neuron.1": power[1] * W2.sum(dim=0)}
    torch.testing.assert_close(together(found), together(expected), rtol=1e-5, atol=1e-12)


def test_neurons_that_are_never_active_have_a_credit_of_nothing_and_it_stays_finite() -> None:
    module = perceptron_module((6, 10, 8, 4), seed=2)
    with torch.no_grad():
        for layer, neuron, bias in ((0, 3, -1.0), (2, 5, -1.0), (2, 7, 0.0)):  # the last not even before the rectifier
            linear_layer = module[layer]
            assert isinstance(linear_layer, nn.Linear)
            linear_layer.weight[neuron], linear_layer.bias[neuron] = 0.0, bias
    model = Model.from_module(module)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
    found = score(model, "credit", stats=calibrate(model, x)).values
    assert all(bool(torch.isfinite(values).all()) for values in found.values())
    assert [float(found[name][neuron]) for name, neuron in (("neuron.0", 3), ("neuron.1", 5), ("neuron.1", 7))] == [
        0.0
    ] * 3
    assert int((found["neuron.0"] > 0).sum()) == 9
    assert int((found["neuron.1"] > 0).sum()) == 6


# The graph of power


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_power_edges_are_squares_skips_are_one_and_the_pattern_carries_none(model_type: str) -> None:
    model = decoder(model_type, seed=1)
    stats = calibrate(model, token_ids(4, 16))
    graph, signed = (export(model, weight=w, stats=stats) for w in ("power", "signed"))
    a, b = dense(graph), dense(signed)

    def part(x: torch.Tensor, source: tuple[str, int], target: tuple[str, int]) -> torch.Tensor:
        return x[slice(*graph.nodes.range(*source)), slice(*graph.nodes.range(*target))]

    for layer in (0, 1):
        for kind, k in (("value", 2 * layer), ("up", 2 * layer + 1)):
            edges = ("resid", k), (kind, layer)
            squares = part(b, *edges).square() / (stats.squares[f"resid.{k}"] / stats.n_tokens).mean()
            torch.testing.assert_close(part(a, *edges), squares, rtol=1e-5, atol=1e-9)
        for k in (2 * layer, 2 * layer + 1):
            assert torch.equal(part(a, ("resid", k), ("resid", k + 1)), torch.eye(16, dtype=torch.float64))
        for source in ("query", "key"):
            assert not part(a, (source, layer), ("pattern", layer)).any()
        assert not part(a, ("pattern", layer), ("attn", layer)).any()
        assert torch.equal(part(a, ("value", layer), ("attn", layer)), part(b, ("value", layer), ("attn", layer)))
        up, neuron = (stats.squares[f"{site}.{layer}"] / stats.n_tokens for site in ("up", "neuron"))
        torch.testing.assert_close(
            part(a, ("gate", layer), ("neuron", layer)).diagonal(), up / 2, rtol=1e-5, atol=1e-12
        )
        torch.testing.assert_close(
            part(a, ("up", layer), ("neuron", layer)).diagonal(), neuron / up, rtol=1e-5, atol=1e-12
        )


@pytest.mark.parametrize("make", [lambda: decoder("llama"), perceptron])
def test_power_needs_calibration(make: object) -> None:
    model = make() if callable(make) else None
    assert isinstance(model, Model)
    with pytest.raises(InputError, match="edge weights by power need calibration"):
        export(model, weight="power")
    with pytest.raises(InputError, match="credit needs calibration"):
        score(model, "credit")


@pytest.mark.parametrize("level", ["unit", "block"])
def test_coarser_levels_of_a_power_graph_are_what_is_exported_there(level: str) -> None:
    model = decoder("llama")
    stats = calibrate(model, token_ids(4, 16))
    fine = export(model, weight="power", stats=stats)
    coarse = fine.quotient(level)  # type: ignore[arg-type]
    direct = export(model, weight="power", stats=stats, level=level)  # type: ignore[arg-type]
    assert coarse.nodes == direct.nodes
    torch.testing.assert_close(dense(coarse), dense(direct))
    assert float(dense(coarse).sum()) > 0
    assert coarse.weight == direct.weight == "power"


def test_the_command_line_exports_power_and_the_graph_is_the_one_that_was_made(
    cli: Cli, tmp_path: Path, tiny: Model
) -> None:
    cli("export", "tiny", "--weight", "power", "-o", tmp_path / "run").refused("power", "--calibration FILE")
    assert not (tmp_path / "run").exists()
    made = cli("export", "tiny", "--weight", "power", *CALIBRATED, "-o", tmp_path / "run", "--json").json
    assert made["weight"] == "power"
    graph = load_graph(tmp_path / "run" / "graph")
    assert (graph.weight, graph.n_nodes, graph.n_edges) == ("power", made["nodes"], made["edges"])
    (path,) = (tmp_path / "run" / "stats").glob("*.safetensors")
    stats = CalibrationStats.load(path, model=tiny.identity)
    again = export(tiny, weight="power", stats=stats)
    for stored, fresh in zip(graph.blocks, again.blocks, strict=True):
        assert torch.equal(stored.load().values, fresh.load().values)
    for level in ("unit", "block"):
        assert bool(torch.isfinite(torch.from_numpy(graph.quotient(level).to_scipy().data)).all())
    ranked = cli("rank", tmp_path / "run", "--centrality", "path_mass", "--json").json
    assert ranked["top"]

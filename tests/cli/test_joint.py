"""`graphprune prune --method sparsellm`, `--compensation reconstruct`, and scores that take solving the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from graphprune.core.io import write_json
from tests.cli.runner import CALIBRATION, EVALUATION, Cli
from tests.families import perceptron

TEXT = ("--calibration", str(CALIBRATION), "--n-samples", "16", "--seq-len", "128")
PRUNE = ("prune", "tiny", "--sparsity", "0.7", *TEXT)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def perplexity(cli: Cli, made: dict[str, Any]) -> float:
    text = ("--text", EVALUATION, "--seq-len", "128", "--max-windows", "12")
    return float(cli("evaluate", made["checkpoint"], *text, "--json").json["perplexity"])


def test_mlps_pruned_as_a_whole_predict_better_than_layer_by_layer(cli: Cli, run: Path) -> None:
    found = {}
    for method in ("sparsegpt", "sparsellm"):
        made = cli(*PRUNE, "--method", method, "-o", run, "--json").json
        assert made["sparsity"] == pytest.approx(0.7, abs=1e-5)
        assert made["rung"] == "masked"
        assert made["max_difference"] < 1e-3
        assert made["blocks"] == "all"
        found[method] = perplexity(cli, made)
    assert made["mlp_error"] < 0.8 * made["mlp_error_local"]
    assert (made["variant"], made["global_layers"]) == ("exact", "all")
    assert found["sparsellm"] < 0.95 * found["sparsegpt"]
    assert "found" in cli(*PRUNE, "--method", "sparsellm", "-o", run, "--json").json


def test_allocation_by_what_the_prediction_feels_beats_a_schedule_by_depth(cli: Cli, run: Path) -> None:
    found = {}
    for method in ("slimgpt", "graphslim"):
        made = cli("prune", "tiny", "--sparsity", "0.4", *TEXT, "--method", method, "-o", run, "--json").json
        assert made["prunable_params_removed"] == pytest.approx(0.4, abs=1e-3)
        assert made["rung"] == "padded"
        found[method] = perplexity(cli, made)
    assert found["graphslim"] < 0.95 * found["slimgpt"]


def test_the_pruned_graph_can_be_ranked_again(cli: Cli, run: Path) -> None:
    made = cli(*PRUNE, "--method", "sparsellm", "--iterations", "2", "-o", run, "--json").json
    dense = cli("export", "tiny", "-o", run, "--json").json
    left = cli("export", made["checkpoint"], "-o", run.with_name("pruned"), "--json").json
    assert left["edges"] == dense["edges"] - made["weights_removed"]
    assert cli("rank", run.with_name("pruned"), "--json").json["residual"] < 1e-5


def test_the_options_are_part_of_the_run(cli: Cli, run: Path) -> None:
    options = ("--method", "sparsellm", "--iterations", "2", "--blocks", "first_half", "--global-layers", "0-0")
    made = cli(*PRUNE, *options, "-o", run, "--json").json
    assert 0.3 < made["sparsity"] < 0.4  # half of the blocks were pruned
    assert (made["blocks"], made["global_layers"]) == ("first_half", "0-0")
    assert "found" in cli(*PRUNE, *options, "-o", run, "--json").json
    assert "found" not in cli(*PRUNE, *options, "--gamma", "2", "-o", run, "--json").json


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "sparsellm", "--iterations", "0"), ("iteration", "not 0")),
        (("--method", "sparsellm", "--alpha", "-1"), ("alpha", "-1")),
        (("--method", "sparsellm", "--beta", "nan"), ("beta", "nan")),
        (("--method", "sparsellm", "--chunk", "0"), ("chunk", "not 0")),
        (("--method", "sparsellm", "--tolerance", "1"), ("tolerance", "not 1")),
        (("--method", "sparsellm", "--blocks", "half"), ("first_half", "'half'")),
        (("--method", "sparsegpt", "--iterations", "3"), ("sparsellm", "reconstruct")),
        (("--method", "slimgpt", "--blocks", "first_half"), ("--blocks", "--pattern")),
        (
            ("--method", "slimgpt", "--compensation", "sparsellm", "--variant", "published"),
            ("published", "single weights"),
        ),
        (("--method", "wanda", "--compensation", "obs", "--global-layers", "0-3"), ("global layers",)),
    ],
)
def test_a_mistake_is_refused_before_the_model_is_loaded(
    cli: Cli, run: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cli(*PRUNE, *options, "-o", run).refused(*words)
    assert not run.exists()


def test_layers_that_the_model_has_not_are_named(cli: Cli, run: Path) -> None:
    cli(*PRUNE, "--method", "sparsellm", "--blocks", "3-9", "-o", run).refused("0-5", "3-9")


@pytest.mark.parametrize("scorer", ["obs", "sparsellm"])
def test_scores_that_take_solving_are_kept_and_prune(cli: Cli, run: Path, scorer: str) -> None:
    made = cli("score", "tiny", "--scorer", scorer, *TEXT, "-o", run, "--json").json
    assert made["units"] == ["head", "neuron"]
    assert cli("score", "tiny", "--scorer", scorer, *TEXT, "-o", run, "--json").json["found"]
    pruned = cli("prune", "tiny", "--scores", made["scores"], "--sparsity", "0.2", "-o", run, "--json").json
    assert pruned["prunable_params_removed"] == pytest.approx(0.2, abs=1e-3)
    assert not list(run.glob("blocks/*"))
    cli("score", "tiny", "--scorer", scorer, "-o", run).refused(scorer, "--calibration FILE")


def test_a_perceptron_is_pruned_as_one_chain(cli: Cli, run: Path, tmp_path: Path) -> None:
    folder, examples = tmp_path / "perceptron", tmp_path / "examples.safetensors"
    folder.mkdir()
    model = perceptron((6, 24, 20, 4))
    write_json(folder / "config.json", dict(model.config))
    save_file(dict(model.parameters), folder / "model.safetensors")
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    save_file({"inputs": inputs, "labels": model.module()(inputs).argmax(dim=1)}, examples)
    accuracy = {}
    for method in ("sparsegpt", "sparsellm"):
        options = ("--method", method, "--sparsity", "0.7", "--calibration", examples)
        made = cli("prune", folder, *options, "-o", run, "--json").json
        assert made["sparsity"] == pytest.approx(0.7, abs=1e-2)
        accuracy[method] = cli("evaluate", made["checkpoint"], "--text", examples, "--json").json["accuracy"]
    assert accuracy["sparsellm"] >= accuracy["sparsegpt"]

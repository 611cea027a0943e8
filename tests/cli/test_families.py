"""The command line on checkpoints whose classes name and store their parts differently."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from graphprune.methods import PRESETS
from graphprune.models.load import load_model
from tests.cli.runner import CALIBRATED, EVALUATION, SMALL, TEXTS, Cli
from tests.families import UNGATED, causal_lm, stored

ungated = pytest.mark.parametrize("model_type", UNGATED)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family that reads text as `tiny` does."""
    vocabulary = load_model("tiny").shapes["model.embed_tokens.weight"][0]
    result = {}
    for model_type in UNGATED:
        folder = result[model_type] = tmp_path_factory.mktemp(model_type)
        network: Any = causal_lm(model_type, vocab_size=vocabulary, num_hidden_layers=3)
        network.save_pretrained(folder)
        for path in TEXTS.glob("tokenizer*.json"):
            shutil.copyfile(path, folder / path.name)
    return result


@ungated
def test_a_model_is_exported_ranked_scored_and_evaluated(
    model_type: str, folders: dict[str, Path], tmp_path: Path, cli: Cli
) -> None:
    model, decoder = folders[model_type], load_model(folders[model_type]).decoder
    for weight in ("magnitude", "activation", "power"):
        run = tmp_path / weight
        said = cli("export", model, "-o", run, "--weight", weight, *CALIBRATED, "--json").json
        assert (said["nodes"], said["edges"]) == (decoder.n_nodes, decoder.n_edges)
        assert cli("rank", run, "--centrality", "pagerank", "--json").code == 0
    for scorer in ("credit", "llmrank", "taylor"):
        assert cli("score", model, "--scorer", scorer, "-o", tmp_path / "scores", *CALIBRATED, "--json").code == 0
    said = cli("evaluate", model, "--text", EVALUATION, "--seq-len", "64", "--json").json
    assert said["params"] == load_model(model).n_parameters


@ungated
@pytest.mark.parametrize("scorer", ["obs", "wanda", "taylor"])
def test_two_of_four_weights_of_every_linear_layer_go(
    model_type: str, scorer: str, folders: dict[str, Path], tmp_path: Path, cli: Cli
) -> None:
    """Neighbours along what a layer reads, however its class stores that."""
    said = cli("prune", folders[model_type], "--method", "sparsegpt", "--scorer", scorer, "--pattern", "2:4",
               "-o", tmp_path, *CALIBRATED, "--json").json  # fmt: skip
    assert said["rung"] == "masked"
    network: Any = AutoModelForCausalLM.from_pretrained(said["checkpoint"], dtype=torch.float32)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        weight = stored(network, f"model.layers.2.{part}.weight")
        assert bool(((weight == 0).reshape(-1, 4).sum(dim=1) == 2).all())


@ungated
@pytest.mark.parametrize("method", [name for name in PRESETS if name != "influence"])  # see test_depth
def test_every_method_prunes_to_a_checkpoint_that_stock_code_loads(
    model_type: str, method: str, folders: dict[str, Path], tmp_path: Path, cli: Cli
) -> None:
    run = tmp_path / "run"
    said = cli("prune", folders[model_type], "--method", method, "--sparsity", "0.3", "-o", run, "--calibration",
               TEXTS / "calibration.txt", *SMALL, "--json").json  # fmt: skip
    network: Any = AutoModelForCausalLM.from_pretrained(said["checkpoint"], dtype=torch.float32)
    assert said["sparsity"] == pytest.approx(0.3, abs=0.02)
    assert json.loads((Path(said["checkpoint"]) / "config.json").read_text())["model_type"] == model_type
    assert sum(p.numel() for p in network.parameters()) == load_model(said["checkpoint"]).n_parameters
    assert said["rung"] in {"padded", "masked"} or method in {"mlprank", "llmrank"}  # which score neurons alone

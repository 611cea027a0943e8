"""Whole attentions and MLPs from the command line: alone, and with width in one budget."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import prune
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from tests.cli.runner import CALIBRATED, EVALUATION, Cli
from tests.families import decoder, token_ids


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def gone(made: dict[str, Any]) -> set[str]:
    """The groups of which nothing is left."""
    return {name for name, keep in Mask.load(Path(made["mask"])).keep.items() if not keep.any()}


def test_influence_takes_whole_sub_blocks_and_saves_what_is_left(cli: Cli, run: Path) -> None:
    made = cli("prune", "tiny", "--method", "influence", "--sparsity", "0.3", "-o", run, *CALIBRATED, "--json").json
    assert made["rung"] == "ragged"
    assert made["sparsity"] == pytest.approx(0.3, abs=0.06)  # half of an MLP is 0.06
    mask = Mask.load(Path(made["mask"]))
    assert all(bool(keep.all()) != (not bool(keep.any())) for keep in mask.keep.values())
    layers = json.loads((Path(made["checkpoint"]) / "config.json").read_text())["layers"]
    assert {f"neuron.{i}" for i, layer in enumerate(layers) if not layer["neurons"]} == {
        name for name in gone(made) if name.startswith("neuron")
    }
    text = ("--text", EVALUATION, "--max-windows", "4", "--seq-len", "128", "--json")
    here = cli("evaluate", made["checkpoint"], *text).json["perplexity"]
    worse = cli(
        "prune", "tiny", "--method", "random", "--depth", "1", "--sparsity", "0.3", "--option", "seed=1", "-o", run,
        "--json",
    ).json  # fmt: skip
    assert worse["rung"] == "ragged"
    assert here < cli("evaluate", worse["checkpoint"], *text).json["perplexity"]


def test_scores_of_sub_blocks_are_kept_and_pruned_by(cli: Cli, run: Path) -> None:
    scored = cli("score", "tiny", "--scorer", "influence", "-o", run, *CALIBRATED, "--json").json
    values = Scores.load(Path(scored["scores"])).values
    assert set(values) == {f"block.{layer}.{part}" for layer in range(6) for part in ("attn", "mlp")}
    wanted = ("--sparsity", "0.3", "-o", run, "--json")
    by_file = cli("prune", "tiny", "--scores", scored["scores"], "--depth", "1", *wanted).json
    by_name = cli("prune", "tiny", "--method", "influence", *wanted, *CALIBRATED).json
    assert gone(by_file) == gone(by_name) != set()
    cli("prune", "tiny", "--scores", scored["scores"], *wanted).refused("scores no heads and no neurons")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "slimgpt", "graphslim", "flap"])
def test_depth_and_width_share_one_exact_budget(cli: Cli, run: Path, method: str) -> None:
    made = cli(
        "prune", "tiny", "--method", method, "--sparsity", "0.4", "--depth", "0.5", "-o", run, *CALIBRATED, "--json"
    ).json  # fmt: skip
    assert made["sparsity"] == pytest.approx(0.4, abs=1e-3)
    assert made["rung"] == "ragged"
    mask = Mask.load(Path(made["mask"]))
    whole = gone(made) - {name for name in gone(made) if name.startswith("kv_head")}
    assert whole
    partly = [name for name, keep in mask.keep.items() if keep.any() and not keep.all()]
    assert partly
    n_whole = sum(int((~mask.keep[name]).sum()) for name in whole)
    assert n_whole > 0
    assert made["max_difference"] < 1e-3


def test_the_same_sub_blocks_go_whatever_thins_the_others(cli: Cli, run: Path) -> None:
    wanted = ("--sparsity", "0.4", "--depth", "0.5", "-o", run, *CALIBRATED, "--json")
    found = [gone(cli("prune", "tiny", "--method", method, *wanted).json) for method in ("magnitude", "wanda")]
    assert found[0] == found[1]
    other = cli("prune", "tiny", "--method", "wanda", *wanted, "--depth-scorer", "magnitude", "--name", "other").json
    assert gone(other) != found[0]


@pytest.mark.parametrize("model_type", ["gemma3_text", "opt", "gpt2", "gpt_neox"])
def test_other_families_lose_whole_sub_blocks_too(model_type: str) -> None:
    model = decoder(model_type, num_hidden_layers=4)
    pruned = prune(model, "influence", 0.5, calibration=token_ids(4, 16))
    assert pruned.rung == "ragged"
    assert pruned.model.n_parameters < model.n_parameters - 0.35 * model.units.prunable_parameters()
    ids = token_ids(2, 8)
    with torch.inference_mode():
        small: Any = pruned.model.module(dtype=torch.float32)
        assert bool(torch.isfinite(small(ids).logits).all())


def test_what_does_not_go_with_depth_is_refused(cli: Cli, run: Path) -> None:
    wanted = ("--sparsity", "0.3", "-o", run)
    prune = ("prune", "tiny", *wanted)
    cli(*prune, "--method", "magnitude", "--depth", "1.5").refused("between 0 and 1, not 1.5")
    cli(*prune, "--method", "magnitude", "--depth", "nan").refused("between 0 and 1, not nan")
    cli(*prune, "--method", "magnitude", "--depth", "0.5").refused("influence needs calibration")
    cli(*prune, "--method", "influence").refused("influence needs calibration")
    cli(*prune, "--method", "influence", "--depth", "0.5", *CALIBRATED).refused("influence scores whole sub-blocks")
    cli(*prune, "--method", "wanda", "--scorer", "influence", *CALIBRATED).refused("influence scores whole sub-blocks")
    cli(*prune, "--method", "magnitude", "--depth-scorer", "wanda", *CALIBRATED).refused("a scorer of depth goes with")
    cli(*prune, "--method", "sparsegpt", "--depth", "0.5", *CALIBRATED).refused("single weights don't go with")
    cli(*prune, "--method", "llmrank", "--depth", "1", *CALIBRATED).refused("gives no score for the heads")
    cli("search", "tiny", *wanted, "--method", "influence", *CALIBRATED).refused("a search decides what goes")
    assert not (run / "models").exists()

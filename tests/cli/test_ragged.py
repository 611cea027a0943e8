"""Ragged checkpoints from the command line."""

from pathlib import Path

import pytest

from tests.cli.runner import CALIBRATED, EVALUATION, Cli


def test_a_ragged_checkpoint_is_smaller_than_a_padded_one_and_says_the_same(cli: Cli, tmp_path: Path) -> None:
    wanted = ("--method", "magnitude", "--allocation", "global", "--sparsity", "0.4", "-o", tmp_path / "run", "--json")
    found = {
        rung: cli("prune", "tiny", *wanted, "--rung", rung, "--name", rung).json
        for rung in ("auto", "ragged")
    }  # fmt: skip
    assert (found["auto"]["rung"], found["ragged"]["rung"]) == ("padded", "ragged")
    assert "import graphprune" in found["ragged"]["why"]
    assert found["ragged"]["checkpoint_bytes"] < found["auto"]["checkpoint_bytes"]
    text = ("--text", EVALUATION, "--max-windows", "2", "--seq-len", "64", "--json")
    said = {rung: cli("evaluate", result["checkpoint"], *text).json for rung, result in found.items()}
    assert said["ragged"]["perplexity"] == pytest.approx(said["auto"]["perplexity"], rel=1e-3)
    assert said["ragged"]["params"] == found["ragged"]["checkpoint_params"] < said["auto"]["params"]


def test_commands_that_look_at_units_refuse_a_ragged_checkpoint(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = cli(
        "prune", "tiny", "--method", "random", "--sparsity", "0.3", "--rung", "ragged", "-o", run, "--json"
    ).json["checkpoint"]  # fmt: skip
    other = tmp_path / "other"
    for command in (
        ("export", made),
        ("export", made, "--weight", "activation", *CALIBRATED),
        ("score", made, "--scorer", "magnitude"),
        ("score", made, "--scorer", "wanda", *CALIBRATED),
        ("score", made, "--scorer", "obs", *CALIBRATED),
        ("prune", made, "--method", "magnitude", "--sparsity", "0.2"),
        ("prune", made, "--method", "slimgpt", "--sparsity", "0.2", *CALIBRATED),
        ("prune", made, "--method", "sparsegpt", "--sparsity", "0.2", *CALIBRATED),
        ("search", made, "--sparsity", "0.2", *CALIBRATED),
    ):
        cli(*command, "-o", other).refused("a ragged checkpoint is run and evaluated", "start from the model")
    assert not (other / "models").exists()

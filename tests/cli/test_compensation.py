"""`graphprune prune --compensation obs`."""

import shutil
from pathlib import Path

import pytest

from tests.cli.runner import CALIBRATED, CALIBRATION, EVALUATION, Cli

ENOUGH = ("--calibration", str(CALIBRATION), "--n-samples", "24", "--seq-len", "128")
PRUNE = ("prune", "tiny", "--method", "activation", "--sparsity", "0.3", "--units", "neuron")


def test_repair_is_part_of_the_checkpoint_and_pays(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    perplexity = {}
    for compensation in ("none", "obs"):
        options = ("--compensation", compensation, "--name", compensation)
        made = cli(*PRUNE, *ENOUGH, *options, "-o", run, "--json").json
        assert made["compensation"] == compensation
        assert made["max_difference"] < 1e-3
        text = ("--text", EVALUATION, "--seq-len", "128", "--max-windows", "12")
        perplexity[compensation] = cli("evaluate", made["checkpoint"], *text, "--json").json["perplexity"]
    assert perplexity["obs"] < perplexity["none"]
    again = cli(*PRUNE, *ENOUGH, "--compensation", "obs", "--name", "obs", "-o", run, "--json").json
    assert again["found"]
    changed = ("--compensation", "obs", "--damping", "0.1", "--name", "obs")
    assert "found" not in cli(*PRUNE, *ENOUGH, *changed, "-o", run, "--json").json


@pytest.mark.parametrize(
    "command",
    [
        (*PRUNE, *CALIBRATED, "--compensation", "obs"),
        ("score", "tiny", "--scorer", "obs", *CALIBRATED),
    ],
    ids=["prune", "score"],
)
def test_finished_blocks_that_a_kill_left_behind_a_result_go_when_it_is_found_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert cli(*command, "-o", tmp_path, "--json").code == 0
    assert list(tmp_path.glob("blocks/*/**/block-*.safetensors"))
    assert cli(*command, "-o", tmp_path, "--json").json["found"]
    assert not list(tmp_path.glob("blocks/*"))


def test_too_little_calibration_is_said(cli: Cli, tmp_path: Path) -> None:
    said = cli(*PRUNE, *CALIBRATED, "--compensation", "obs", "-o", tmp_path / "run")
    assert said.code == 0
    assert "256 calibration tokens for layers of up to 512 columns" in said.err
    assert "0.01" in said.err


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("magnitude", ("--compensation", "obs"), ("compensation obs", "--calibration FILE")),
        ("magnitude", ("--damping", "-1"), ("damping", "not -1")),
    ],
)
def test_a_mistake_is_refused_before_the_model_is_loaded(
    cli: Cli, tmp_path: Path, method: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cli("prune", "tiny", "--method", method, "--sparsity", "0.3", *options, "-o", tmp_path / "run").refused(*words)
    assert not (tmp_path / "run").exists()


def test_an_unknown_compensation_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    assert cli(*PRUNE, "--compensation", "nonsense", "-o", tmp_path / "run").code == 2

"""`graphprune cost`."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Cli

QUICK = ("--prompt", "8", "--new-tokens", "2", "--repeats", "2", "--batch-sizes", "1", "2", "--no-memory")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from graphprune.cli import main

    run = tmp_path_factory.mktemp("cost")
    wanted = ("--method", "random", "--sparsity", "0.4", "--rung", "ragged", "--name", "small", "-o", str(run))
    assert main(["prune", "tiny", *wanted, "--json"]) == 0
    return run / "models" / "small"


def test_a_report_is_printed_and_kept(cli: Cli, pruned: Path, tmp_path: Path) -> None:
    run = pruned.parents[1]
    said = cli("cost", "tiny", pruned, *QUICK, "-o", run, "--json").json
    kept = json.loads((run / "evaluations" / "cost.json").read_text())
    assert kept == said
    assert [row["model"] for row in said["models"]] == ["tiny", str(pruned)]
    assert said["models"][1]["flops_per_token"]["total"] < said["models"][0]["flops_per_token"]["total"]
    assert {row["phase"] for row in said["speed"]} == {"prefill", "decode"}
    assert "a mask alone gives no speed" in said["why_no_speed"]
    assert said["dtype"] == "float32"
    people = cli("cost", "tiny", pruned, *QUICK, "--dtype", "bfloat16")
    assert people.code == 0
    assert people.out.startswith("bfloat16 on cpu, ")
    for word in ("peak memory", "quartiles", "bound", "padded checkpoint gains only"):
        assert word in people.out
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_compared_is_refused(cli: Cli, pruned: Path, tmp_path: Path) -> None:
    cli("cost", "tiny", tmp_path / "nowhere").refused("neither a folder")
    cli("cost", "tiny", pruned, "--repeats", "0").refused("repeats is at least 1, not 0")
    cli("cost", "tiny", pruned, "--batch-sizes", "1", "-2").refused("batch size is at least 1, not -2")
    cli("cost", "tiny", pruned, "--device", "abacus").refused("abacus")
    assert cli("cost", "tiny").code == 2

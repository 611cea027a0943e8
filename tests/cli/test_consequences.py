"""What masks do to the graph and to the model, from the command line."""

import shutil
from pathlib import Path

import pytest

from graphprune import Scores, evaluate, load_model, prune
from graphprune.cli import main
from graphprune.comparison.consequence import Consequences, Series
from graphprune.steps.consequences import Laboratory
from tests.cli.runner import CALIBRATED, EVALUATION, Cli

JUDGED = ("--text", str(EVALUATION), "--max-windows", "2")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores of heads and neurons, and a graph of units."""
    run = tmp_path_factory.mktemp("scored") / "run"
    for arguments in (
        ("export", "tiny", "--level", "unit"), ("score", "tiny", "--scorer", "magnitude"),
        ("score", "tiny", "--scorer", "random"), ("score", "tiny", "--scorer", "wanda", *CALIBRATED),
    ):  # fmt: skip
        assert main([*arguments, "-o", str(run), "--json"]) == 0
    return run


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored, tmp_path / "run"))


def test_masks_are_measured_once_and_as_the_pruned_checkpoint_is(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("compare", run, "--sparsities", 0.2, 0.4, *CALIBRATED, *JUDGED, "--json")
    said = cli(*arguments).json
    assert len(said["rows"]) == 3 * 2
    rows = {(row["series"], row["sparsity"]): row for row in said["rows"]}
    assert rows["wanda", 0.2]["kl"] < rows["wanda", 0.4]["kl"]
    assert 0 < rows["wanda", 0.2]["path_mass"] < 1
    assert said["dense"]["kl"] == 0
    assert {row["quantity"] for row in said["predicts"]} >= {"path_mass", "credit", "reach", "min_cut", "entropy"}
    repaired = ("--scores", "wanda", "--compensations", "none", "obs", "--name", "repaired")
    both = {row["series"]: row for row in cli(*arguments, *repaired).json["rows"] if row["sparsity"] == 0.2}
    assert both["wanda"] == rows["wanda", 0.2]
    assert both["wanda + obs"]["path_mass"] == rows["wanda", 0.2]["path_mass"]
    assert both["wanda + obs"]["perplexity"] != rows["wanda", 0.2]["perplexity"]
    model = prune(load_model("tiny"), Scores.load(run / "scores" / "wanda.safetensors"), 0.2).model
    quality = evaluate(model, EVALUATION, seq_len=64, max_windows=2, against=load_model("tiny"))
    assert rows["wanda", 0.2]["perplexity"] == pytest.approx(quality.perplexity, rel=1e-4)
    assert rows["wanda", 0.2]["kl"] == pytest.approx(quality.kl, rel=1e-4)
    found = Consequences.load(Path(said["consequences"]))
    assert found.area(Series("wanda"), "kl") == pytest.approx(
        next(row["kl"] for row in said["areas"] if row["series"] == "wanda")
    )
    monkeypatch.setattr(Laboratory, "_quality", lambda *_: pytest.fail("the model was measured again"))
    monkeypatch.setattr(Laboratory, "_remains", lambda *_: pytest.fail("the graph was measured again"))
    assert cli(*arguments).json == said
    assert len(cli(*arguments, *repaired).json["rows"]) == 4


def test_without_a_text_the_graph_alone_is_looked_at(cli: Cli, run: Path) -> None:
    said = cli(
        "compare", run, "--scores", "magnitude", "random", "--sparsities", 0.3, "--units", "neuron", "--json"
    ).json
    assert all("perplexity" not in row and row["path_mass"] < 1 for row in said["rows"])
    assert said["predicts"] == []
    shown = cli("compare", run, "--scores", "magnitude", "random", "--sparsities", 0.3, "--units", "neuron").out
    assert "means over sparsity" in shown


def test_an_audit_with_a_text_measures_against_random_removal(cli: Cli, run: Path) -> None:
    said = cli("audit", run, "--text", EVALUATION, "--max-windows", 2, "--seq-len", 64, "--json").json
    found = {(v["scorer"], v["check"]): v for v in said["verdicts"]}
    assert found["wanda", "random"]["flagged"] is False
    assert "beats random removal at 20%: perplexity" in found["wanda", "random"]["text"]
    assert ("random", "random") not in found


def test_what_a_user_gets_wrong_is_said_in_a_sentence(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("compare", run, "--sparsities", 1.2).refused("sparsities between 0 and 1, not 1.2")
    cli("compare", run, "--sparsities", 0.2, "--compensations", "obs").refused("give --calibration FILE")
    cli("compare", run, "--sparsities", 0.2, "--allocations", "graph").refused("give --calibration FILE")
    cli("compare", run, "--sparsities", 0.2, "--text", tmp_path / "none").refused("is not there")
    cli("compare", run, "--sparsities", 0.2, "--text", EVALUATION, "--max-windows", 0).refused("at least 1 window")
    cli("compare", run, "--sparsities", 0.2, "--scores", "nobody").refused("no scores 'nobody'")
    shutil.rmtree(run / "graph")
    cli("compare", run, "--sparsities", 0.2).refused("has no graph and there is no text")

"""Comparing the scorers of a run from the command line."""

import json
import shutil
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from graphprune import Comparison, Scores
from tests.cli.runner import CALIBRATED, Cli, files


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores of units, of one scorer at several seeds, and of whole modules."""
    from graphprune.cli import main

    run = tmp_path_factory.mktemp("scored") / "run"
    for arguments in (
        ("export", "tiny", "--level", "block"), ("score", "tiny", "--scorer", "magnitude"),
        ("score", "tiny", "--scorer", "llmrank", *CALIBRATED), ("score", "tiny", "--scorer", "random"),
        *(
            ("score", "tiny", "--scorer", "wanda", *CALIBRATED, "--seed", str(seed), "--name", f"wanda-{seed}")
            for seed in range(3)
        ),
        ("score", "tiny", "--scorer", "wanda", *CALIBRATED[:-1], "32", "--name", "wanda-short"),
    ):  # fmt: skip
        assert main([*arguments, "-o", str(run), "--json"]) == 0
    assert main(["rank", str(run), "--centrality", "pagerank", "--json"]) == 0
    return run


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored, tmp_path / "run"))


def test_all_scorers_of_a_run_are_compared_and_seeds_belong_together(cli: Cli, run: Path) -> None:
    said = cli("compare", run, "--json").json
    assert sorted(said["labels"]) == ["llmrank", "magnitude", "random", "wanda-0", "wanda-short"]
    assert dict(zip(said["labels"], said["seeds"], strict=True))["wanda-0"] == 3
    assert said["left_out"] == ["pagerank"]
    assert said["kinds"] == ["neuron"]
    found = Comparison.load(Path(said["comparison"]))
    at = {label: i for i, label in enumerate(said["labels"])}
    read = {name: Scores.load(run / "scores" / f"{name}.safetensors") for name in ("magnitude", "random")}
    flat = [[x for i in range(6) for x in scores.values[f"neuron.{i}"].tolist()] for scores in read.values()]
    assert said["spearman"][at["magnitude"]][at["random"]] == pytest.approx(spearmanr(*flat).statistic)
    stable = found.stability("wanda-0").value
    assert stable is not None
    assert 0.5 < stable < 1


def test_scorers_are_named_and_seeds_joined_by_commas(cli: Cli, run: Path) -> None:
    said = cli("compare", run, "--scores", "wanda-0,wanda-1", "magnitude", "--name", "two", "--p", 0.9, "--json").json
    assert sorted(said["labels"]) == ["magnitude", "wanda-0"]
    assert said["kinds"] == ["head", "neuron"]
    assert files(run) >= {"comparisons/two.safetensors", "comparisons/two.json"}


def test_a_comparison_that_was_made_is_found_again_and_new_scores_make_a_new_one(cli: Cli, run: Path) -> None:
    first = cli("compare", run, "--json").json
    assert cli("compare", run, "--json").json == first | {"found": True}
    assert "found" not in cli("compare", run, "--end", "kept", "--json").json
    (run / "scores" / "random.safetensors").unlink()
    assert "random" not in cli("compare", run, "--json").json["labels"]


def test_people_get_a_table_and_the_notes(cli: Cli, run: Path) -> None:
    said = cli("compare", run)
    assert said.code == 0
    assert "Spearman's rank correlation over 3,072 units (neuron)" in said.out
    assert "clusters:" in said.out
    assert "note: one calibration seed of" in said.out
    assert "nan" not in said.out.lower()


def test_an_audit_says_what_each_scorer_is(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = cli("score", "tiny", "--scorer", "llmrank", "--option", "gamma=0", "--name", "off", *CALIBRATED, "-o", run)
    assert off.code == 0
    said = cli("audit", run, "--json").json
    found = {(v["scorer"], v["check"]): v for v in said["verdicts"]}
    assert found["off", "switch"]["flagged"] is True
    assert found["llmrank", "switch"]["flagged"] is False
    assert found["off", "baseline"]["flagged"] is True
    assert found["wanda-0", "seed"]["number"] > 0
    assert "3 seeds" in found["wanda-0", "seed"]["text"]
    assert found["magnitude", "seed"]["text"] == "looks at no calibration"
    assert found["llmrank", "text"]["flagged"] is None
    assert said["flagged"] == sum(v["flagged"] is True for v in said["verdicts"])
    assert said["left_out"] == ["pagerank"]
    monkeypatch.setattr("graphprune.steps.auditing.Auditor.verdicts", lambda *_: pytest.fail("it was audited again"))
    assert cli("audit", run, "--json").json == said | {"found": True}


def test_an_audit_is_a_line_a_verdict(cli: Cli, run: Path) -> None:
    said = cli("audit", run, "--scores", "magnitude", "random", "--sparsity", 0.3)
    lines = said.out.splitlines()
    assert len(lines) == 1 + 6 + 5  # random removal is not held against itself
    assert any("magnitude" in line and "looks at the edges" in line for line in lines)


def test_an_audit_asks_for_what_is_missing(cli: Cli, run: Path) -> None:
    cli("audit", run, "--sparsity", 1.5).refused("sparsity between 0 and 1, not 1.5")
    cli("audit", run, "--scores", "nobody").refused("no scores 'nobody'")
    for path in (run / "stats").iterdir():
        path.unlink()
    found = {(v["scorer"], v["check"]): v for v in cli("audit", run, "--json").json["verdicts"]}
    assert found["llmrank", "switch"]["flagged"] is None
    assert "are not in the run; score it again" in found["llmrank", "switch"]["text"]
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["folder"] = "/nowhere"
    (run / "manifest.json").write_text(json.dumps(manifest))
    cli("audit", run, "--name", "again").refused("is not in /nowhere any more")
    for path in (run / "scores").iterdir():
        path.unlink()
    cli("audit", run, "--name", "none").refused("has no scores of heads or neurons")


def test_the_units_that_two_scorers_judge_most_differently(cli: Cli, run: Path) -> None:
    """The run's graph is of whole modules, which says nothing of units; one of channels does."""
    cli("compare", run, "--disagree", "magnitude", "wanda-0").refused("of whole modules, says nothing of heads")
    assert cli("export", "tiny", "-o", run).code == 0
    said = cli("compare", run, "--disagree", "magnitude", "wanda-0", "--top", 5, "--json").json
    assert len(said["disagreements"]) == 5
    assert {"unit", "magnitude"} - set(cli("compare", run, "--disagree", "magnitude", "wanda-0").out.split()) == set()
    first = said["disagreements"][0]
    assert abs(first["a"] - first["b"]) == abs(first["difference"]) > 0.5
    assert {"in_strength", "out_strength", "path_mass", "community"} < first.keys()
    assert cli("compare", run, "--disagree", "magnitude", "wanda-0", "--top", 5, "--json").json["disagreements"]
    cli("compare", run, "--disagree", "magnitude", "nobody").refused("no scores 'nobody'")
    cli("compare", run, "--disagree", "magnitude", "magnitude").refused("named twice")


def test_what_a_user_gets_wrong_is_said_in_a_sentence(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("compare", tmp_path / "nowhere").refused("is not a run folder")
    cli("compare", run, "--scores", "magnitude").refused("at least two scorers, not magnitude")
    cli("compare", run, "--scores", "magnitude", "nobody").refused("no scores 'nobody'; it has llmrank, magnitude")
    cli("compare", run, "--scores", "magnitude", "magnitude").refused("named twice")
    cli("compare", run, "--scores", "magnitude", "pagerank").refused("no units in common", "same level")
    cli("compare", run, "--scores", "magnitude,random", "wanda-0").refused("differ in more than a seed")
    cli("compare", run, "--name", "../x").refused("can't be the name of a file")
    cli("compare", run, "--budgets", 0.2, 3).refused("budgets are different fractions between 0 and 1")
    path = run / "scores" / "random.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    cli("compare", run).refused("random.safetensors is truncated")

"""Accuracy on tasks from the command line: kept, found again, compared with the dense model, and refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune import Model
from graphprune.calibration.forward import calibration_rows
from graphprune.evaluation import tasks
from graphprune.evaluation.tasks import Accuracy, Task, zero_shot
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.measure import Bench, prepared
from graphprune.pruning import Evidence
from graphprune.steps.searching import default_recipe
from graphprune.surgery.cut import zeroed
from tests import families
from tests.cli.runner import CALIBRATED, CALIBRATION, EVALUATION, Cli
from tests.evaluation.test_tasks import QUESTIONS, Manager


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of questions."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for name, questions in (("made", QUESTIONS), ("other", QUESTIONS[3:])):
        rows = [json.dumps({"question": q.question, "choices": q.choices, "answer": q.answer}) for q in questions]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_accuracy_is_that_of_the_library(cli: Cli, folder: Path, tiny: Model) -> None:
    said = cli("evaluate", "tiny", "--tasks", "made,other", "--tasks-dir", folder, "--limit", 4, "--json").json
    expected = zero_shot(tiny, [Task("made", QUESTIONS), Task("other", QUESTIONS[3:])], limit=4)
    assert said["tasks"] == [score.facts() for score in expected]
    assert said["mean_acc"] == sum(score.acc for score in expected) / 2
    assert "mean_retention" not in said


def test_a_run_compares_with_its_own_dense_model(cli: Cli, folder: Path, run: Path) -> None:
    asked = ("--tasks", "made", "--tasks-dir", folder, "-o", run, "--json")
    pruned = cli("prune", "tiny", "--method", "magnitude", "--sparsity", 0.5, "-o", run, "--json").json["checkpoint"]
    alone = cli("evaluate", pruned, *asked).json
    assert "retention" not in alone["tasks"][0]
    dense = cli("evaluate", "tiny", *asked).json
    assert dense["mean_retention"] == 1.0
    found = cli("evaluate", pruned, *asked).json
    assert found["mean_retention"] == pytest.approx(found["mean_acc"] / dense["mean_acc"])
    assert json.loads(Path(found["report"]).read_text())["tasks"] == found["tasks"]
    limited = cli("evaluate", pruned, *asked, "--limit", 3).json
    assert "retention" not in limited["tasks"][0]  # the dense model has been asked all of them


def test_against_asks_the_dense_model_the_same(cli: Cli, folder: Path, run: Path) -> None:
    pruned = cli("prune", "tiny", "--method", "magnitude", "--sparsity", 0.5, "-o", run, "--json").json["checkpoint"]
    asked = ("--tasks", "made", "--tasks-dir", folder, "--json")
    found, dense = cli("evaluate", pruned, *asked, "--against", "tiny").json, cli("evaluate", "tiny", *asked).json
    assert found["mean_retention"] == pytest.approx(found["mean_acc"] / dense["mean_acc"])


def test_what_was_asked_is_not_asked_again(cli: Cli, folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("prune", "tiny", "--method", "random", "--sparsity", 0.1, "-o", run)
    asked = ("evaluate", "tiny", "--tasks", "made", "--tasks-dir", folder, "-o", run, "--json")
    first = cli(*asked).json
    monkeypatch.setattr("graphprune.steps.examining.zero_shot", lambda *_, **__: pytest.fail("it was asked again"))
    assert cli(*asked).json == first


def test_text_and_tasks_make_one_report_for_people(cli: Cli, folder: Path) -> None:
    text = ("--text", EVALUATION, "--seq-len", 32, "--max-windows", 2)
    said = cli("evaluate", "tiny", *text, "--tasks", "made", "--tasks-dir", folder)
    assert said.code == 0
    lines = said.out.splitlines()
    assert any(line.startswith("perplexity") for line in lines)
    assert any(line.split()[:3] == ["task", "questions", "acc"] for line in lines)
    assert any(line.split()[:2] == ["made", str(len(QUESTIONS))] for line in lines)


def test_what_is_wrong_is_said_in_one_sentence(cli: Cli, folder: Path) -> None:
    cli("evaluate", "tiny").refused("--text FILE", "--tasks NAMES")
    cli("evaluate", "tiny", "--text", EVALUATION, "--limit", 3).refused("--limit", "--tasks")
    asked = ("evaluate", "tiny", "--tasks-dir", folder, "--tasks")
    cli(*asked, "made", "--limit", 0).refused("limit", "at least 1")
    cli(*asked, "made,made").refused("different names")
    cli("evaluate", "tiny", "--tasks", "made", "--tasks-dir", folder / "none").refused("is not there")
    (folder / "made.jsonl").write_text('{"question": "Why?"}\n', encoding="utf-8")
    cli(*asked, "made").refused("line 1", "choices")


def test_a_search_judges_by_accuracy_too(cli: Cli, folder: Path, run: Path, tiny: Model) -> None:
    search = (
        "search", "tiny", "--sparsity", 0.3, *CALIBRATED, "--max-windows", 2, "--evaluations", 12, "--pairs", 10,
        "--strategy", "random", "--predictor", "linear", "-o", run, "--tasks-dir", folder, "--json",
    )  # fmt: skip
    found = cli(*search, "--tasks", "made").json
    assert all({"perplexity.calibration", "accuracy.made"} <= row.keys() for row in found["pareto"])
    remove = json.loads(Path(found["search"]).read_text())["remove"]
    measured = [json.loads(line) for line in Path(found["pairs"]).read_text().splitlines()]
    removed = {group: count for group, count in remove.items() if count}
    (accuracy,) = {pair["quality"]["accuracy.made"] for pair in measured if pair["remove"] == removed}
    evidence = Evidence.of_text(tiny, calibration_rows(tiny, CALIBRATION, n_samples=4, seq_len=64))
    job = prepared(evidence, default_recipe(), {"text": families.token_ids(2, 8)}, scratch=run)
    mask, repaired = Bench(job, tiny).pruned(Architecture(remove))
    parameters = zeroed(repaired.parameters, tiny.units, mask)
    pruned = Model.from_parameters(tiny.config, parameters, tokenizer=tiny.tokenizer)
    assert accuracy == zero_shot(pruned, [Task("made", QUESTIONS)])[0].acc
    judged = [{"accuracy.made": Accuracy(Task("made", QUESTIONS[:n]), tiny.tokenizer)} for n in (2, 3)]
    assert len({replace(job, judges=judges).key for judges in judged}) == 2
    cli(*search, "--tasks", "made", "--limit", 0).refused("limit")


def test_a_search_fetches_no_questions(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_manager", Manager)
    search = ("search", "tiny", "--sparsity", 0.3, *CALIBRATED, "-o", run, "--tasks", "arc_easy")
    said = cli(*search)
    assert said.code == 1
    assert "no local file has the questions of arc_easy; give --tasks-dir DIR" in said.err

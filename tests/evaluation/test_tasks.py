"""Zero-shot accuracy against log-likelihoods summed by hand, and what can be wrong with a file of questions."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphprune import Model
from graphprune.core.errors import FormatError, InputError, NetworkError
from graphprune.evaluation import tasks
from graphprune.evaluation.tasks import Question, Task, TaskScore, answered, find_tasks, read_task, zero_shot
from tests import families

QUESTIONS = (
    Question("What does a function return?", ("the value of its last expression or nothing", "a list", "x"), 0),
    Question("How is a file opened?", ("by open", "by a call of the function `open` with its path", "by hand"), 1),
    Question("Which of these is a number?", ("seven", "a string of characters", "None"), 0),
    Question("{{ 7 * 7 }} is what? {% raw %}", ("forty-nine", "49", "a template", "{{question}}"), 2),
    Question("What is raised when a key is missing?", ("KeyError", "an error that says which key it was"), 0),
    Question("Where does the module look?", ("in the path", "in the folder that is named first", "é"), 1),
    Question("What does the method return\u2028if it is empty?", ("the default", "None"), 1),
    Question("Is the order kept?", ("yes, the items are in the order in which they were added", "no"), 0),
)
TASK = Task("made", QUESTIONS)


def line(**changed: Any) -> str:
    return json.dumps({"question": "Why?", "choices": ["so", "thus"], "answer": 0} | changed)


def by_hand(model: Model, question: Question) -> list[float]:
    """Log-likelihood of every choice behind the question."""
    network: Any = model.module()
    prompt = f"Question: {question.question}\nAnswer:"
    found = []
    for choice in question.choices:
        before = model.tokenizer(prompt)["input_ids"]
        whole = model.tokenizer(f"{prompt} {choice}")["input_ids"]
        with torch.no_grad():
            logs = torch.log_softmax(network(input_ids=torch.tensor([whole])).logits[0].double(), dim=-1)
        found.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(before), len(whole))))
    return found


def is_right(likelihoods: list[float], answer: int) -> bool:
    return max(range(len(likelihoods)), key=likelihoods.__getitem__) == answer


@pytest.mark.parametrize("batch_size", [1, 5])
def test_accuracies_are_those_of_log_likelihoods_summed_by_hand(tiny: Model, batch_size: int) -> None:
    (score,) = zero_shot(tiny, [TASK], batch_size=batch_size)
    likelihoods = [by_hand(tiny, question) for question in QUESTIONS]
    right = [is_right(each, question.answer) for each, question in zip(likelihoods, QUESTIONS, strict=True)]
    a_character = [
        [value / len(choice) for value, choice in zip(each, question.choices, strict=True)]
        for each, question in zip(likelihoods, QUESTIONS, strict=True)
    ]
    normed = [is_right(each, question.answer) for each, question in zip(a_character, QUESTIONS, strict=True)]
    assert right != normed
    n = len(QUESTIONS)
    assert (score.task, score.questions) == ("made", n)
    for found, error, each in ((score.acc, score.acc_stderr, right), (score.acc_norm, score.acc_norm_stderr, normed)):
        share = sum(each) / n
        assert 0 < share < 1
        assert found == pytest.approx(share)
        assert error == pytest.approx(math.sqrt(share * (1 - share) / (n - 1)))


def test_a_limit_asks_the_first_questions(tiny: Model) -> None:
    (limited,) = zero_shot(tiny, [TASK], limit=3)
    (cut,) = zero_shot(tiny, [Task("made", QUESTIONS[:3])])
    assert limited == cut
    assert limited.questions == 3
    (one,) = zero_shot(tiny, [TASK], limit=1)
    assert one.acc in {0.0, 1.0}
    assert one.acc_stderr is None


def test_several_tasks_are_scored_each_on_its_own(tiny: Model) -> None:
    other = Task("other", QUESTIONS[4:])
    both = zero_shot(tiny, [TASK, other])
    assert both == (*zero_shot(tiny, [TASK]), *zero_shot(tiny, [other]))


def test_the_tokenizer_and_the_weights_stay_as_they_are(tiny: Model) -> None:
    tokenizer, network = tiny.tokenizer, tiny.module()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pad, size = tokenizer.pad_token, len(tokenizer)
    answered(network, tokenizer, [TASK], limit=2)
    assert (tokenizer.pad_token, len(tokenizer)) == (pad, size)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_questions_that_are_longer_than_the_model_reads_are_told_of(tiny: Model) -> None:
    long = Task("long", (Question("word " * 3000, ("so", "thus"), 0),))
    with pytest.warns(UserWarning, match="2 choices with their questions are longer than the model reads"):
        zero_shot(tiny, [long])


def test_retention_is_the_share_of_the_dense_accuracy() -> None:
    dense = TaskScore("made", 8, 0.5, 0.1, 0.25, 0.1, asked="a")
    pruned = replace(dense, acc=0.375, acc_norm=0.5)
    found = pruned.against(dense)
    assert (found.retention, found.retention_norm) == (0.75, 2.0)
    nothing = pruned.against(replace(dense, acc=0.0, acc_norm=None))
    assert (nothing.retention, nothing.retention_norm) == (None, None)
    assert "retention" not in nothing.facts()
    with pytest.raises(InputError, match="other questions of made"):
        pruned.against(replace(dense, asked="b"))


def test_what_was_asked_is_told_apart(tiny: Model) -> None:
    answered_otherwise = replace(QUESTIONS[0], answer=1)
    asked = [
        zero_shot(tiny, [Task("made", questions)])[0].asked
        for questions in (QUESTIONS[:2], (answered_otherwise, QUESTIONS[1]), QUESTIONS[:1])
    ]
    assert len(set(asked)) == 3
    assert Task("a", QUESTIONS).key == Task("b", QUESTIONS).key != Task("a", QUESTIONS[:2]).key
    assert Task("a").key != Task("b").key


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    rows = [json.dumps({"question": q.question, "choices": q.choices, "answer": q.answer}, ensure_ascii=False)
            for q in QUESTIONS]  # fmt: skip
    for end in ("", "\n"):
        path.write_text("\n".join(rows) + end, encoding="utf-8")
        assert read_task(path) == TASK
    path.write_text("\r\n".join(rows) + "\r\n", encoding="utf-8", newline="")
    assert read_task(path) == TASK


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object"),
        (line(question=" "), "`question`"),
        (line(question=3), "`question`"),
        (line(choices=["so"]), "`choices`"),
        (line(choices="so"), "`choices`"),
        (line(choices=["so", ""]), "`choices`"),
        (line(choices=["so", 1]), "`choices`"),
        (line(answer=2), "from 0 to 1"),
        (line(answer=-1), "from 0 to 1"),
        (line(answer=True), "from 0 to 1"),
        (line(answer="0"), "from 0 to 1"),
        ("{}", "`question`"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(bad: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_text(f"{line()}\n{bad}\n{line()}\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"made\.jsonl, line 2: ") as error:
        read_task(path)
    assert why in str(error.value)


def test_files_without_questions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    with pytest.raises(InputError, match="are not there"):
        read_task(path)
    path.write_bytes(b" \n")
    with pytest.raises(FormatError, match="has no questions"):
        read_task(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(FormatError, match="is not UTF-8"):
        read_task(path)


class Manager:
    """Stands in for lm-eval's own tasks, whose configurations take seconds to read and whose questions a network."""

    all_tasks = ("arc_easy", "gsm8k", "unreachable")

    @staticmethod
    def load(names: list[str]) -> dict[str, Any]:
        if names == ["unreachable"]:
            raise ConnectionError("no route")
        if names == ["gsm8k"]:
            return {"tasks": {"gsm8k": SimpleNamespace(OUTPUT_TYPE="generate_until")}}
        return {"tasks": {names[0]: tasks._configured(Task(names[0], QUESTIONS))}}


def test_a_local_file_answers_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(tasks, "_manager", Manager)
    (tmp_path / "made.jsonl").write_text(line(), encoding="utf-8")
    with pytest.warns(UserWarning, match="no local file has arc_easy: lm-eval reads them from the hub"):
        found = find_tasks(["made", "arc_easy"], tmp_path)
    assert found == (Task("made", (Question("Why?", ("so", "thus"), 0),)), Task("arc_easy"))
    (score,) = zero_shot(tiny, found[1:])
    (local,) = zero_shot(tiny, [Task("arc_easy", QUESTIONS)])
    assert score == local
    with pytest.raises(InputError, match=f"neither a file nor lm-eval has a task 'nothing'; {tmp_path} has made"):
        find_tasks(["made", "nothing"], tmp_path)


def test_what_the_hub_has_not_or_scores_otherwise_is_said(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(tasks, "_manager", Manager)
    with pytest.raises(NetworkError, match="the questions of unreachable can't be had from the hub: no route"):
        zero_shot(tiny, [Task("unreachable")])
    with pytest.raises(InputError, match="gsm8k is not multiple choice"):
        zero_shot(tiny, [Task("gsm8k")])
    with pytest.raises(InputError, match="lm-eval has no task 'made'"):
        zero_shot(tiny, [Task("made")])


def test_local_files_need_no_list_of_lm_evals_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_manager", lambda: pytest.fail("the list was read"))
    (tmp_path / "made.jsonl").write_text(line(), encoding="utf-8")
    assert [task.name for task in find_tasks(["made"], tmp_path)] == ["made"]


@pytest.mark.parametrize("names", [[], [""], ["made", "made"]])
def test_names_are_different_and_not_empty(names: list[str]) -> None:
    with pytest.raises(InputError, match="different names"):
        find_tasks(names)


def test_a_perceptron_answers_no_questions() -> None:
    with pytest.raises(InputError, match="is a perceptron"):
        zero_shot(families.perceptron(), [TASK])


@pytest.mark.parametrize(("options", "why"), [({"limit": 0}, "limit"), ({"batch_size": 0}, "batch size")])
def test_numbers_below_one_are_refused(options: dict[str, int], why: str, tiny: Model) -> None:
    with pytest.raises(InputError, match=f"the {why} is at least 1, not 0"):
        zero_shot(tiny, [TASK], **options)  # type: ignore[arg-type]


def test_without_lm_eval_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"lm-eval is not installed; `pip install graphprune\[eval\]` installs it"):
        zero_shot(tiny, [TASK])

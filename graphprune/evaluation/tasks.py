"""Zero-shot accuracy on multiple-choice questions, asked and scored by EleutherAI's lm-eval.

Questions are lm-eval's own, which it fetches from the hub, or lie in JSON-lines files: ``{"question": str, "choices":
[str, ...], "answer": int}``, one a line, which are asked as lm-eval asks ARC and PIQA.

Math: ``acc`` is the share of questions whose right choice has the largest log-likelihood behind
the question, ``acc_norm`` the same of log-likelihoods divided by the choice's characters; ``retention`` is the accuracy
divided by that of the dense model on the same questions.

Source: https://github.com/EleutherAI/lm-evaluation-harness; Hoffmann et al. 2024 (LLM-Rank) report retention.
"""

import copy
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from graphprune.core.errors import FormatError, InputError, NetworkError
from graphprune.core.io import digest
from graphprune.models.model import Model

SUFFIX = ".jsonl"
SPLIT = "test"


@dataclass(frozen=True)
class Question:
    """A question, what may be answered, and which of it is right."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Task:
    """Multiple-choice questions: these, or lm-eval's own of that name, which are on the hub."""

    name: str
    questions: tuple[Question, ...] | None = None

    @property
    def key(self) -> str:
        """The same for tasks that ask the same."""
        asked = None if self.questions is None else [asdict(question) for question in self.questions]
        return digest([self.name if asked is None else "", asked])


@dataclass(frozen=True)
class TaskScore:
    """What a model got right.

    Attributes:
        task: its name.
        questions: how many were asked.
        acc: the share answered correctly.
        acc_stderr: its standard error; None for a single question.
        acc_norm: likewise, of log-likelihoods a character; None where the task hasn't got it.
        acc_norm_stderr: its standard error.
        asked: hash of the questions.
        retention: accuracy divided by the dense model's, where that is known and not zero.
        retention_norm: likewise, of `acc_norm`.
    """

    task: str
    questions: int
    acc: float
    acc_stderr: float | None
    acc_norm: float | None
    acc_norm_stderr: float | None
    asked: str
    retention: float | None = None
    retention_norm: float | None = None

    def against(self, dense: "TaskScore") -> "TaskScore":
        """The same with what was retained of the dense model's accuracy.

        Raises:
            InputError: the dense model was asked something else.
        """
        if dense.asked != self.asked:
            raise InputError(f"the dense model was asked other questions of {self.task}; evaluate it on the same ones")
        norm = None if self.acc_norm is None else _share(self.acc_norm, dense.acc_norm)
        return replace(self, retention=_share(self.acc, dense.acc), retention_norm=norm)

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def _share(accuracy: float, dense: float | None) -> float | None:
    return accuracy / dense if dense else None


def read_task(path: Path) -> Task:
    """The questions of a JSON-lines file.

    Raises:
        InputError: the file isn't there.
        FormatError: it is empty, or a line is no question; its number is given.
    """
    if not path.is_file():
        raise InputError(f"the questions {path} are not there")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8") from error
    lines = text.removesuffix("\n").split("\n")  # other ends of lines may stand in a string
    if not text.strip():
        raise FormatError(f"{path} has no questions")
    return Task(path.stem, tuple(_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)))


def _question(line: str, where: str) -> Question:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise FormatError(f"{where}: not JSON") from None
    if not isinstance(found, dict):
        raise FormatError(f"{where}: not an object with question, choices and answer")
    question, choices, answer = (found.get(key) for key in ("question", "choices", "answer"))
    if not _is_text(question):
        raise FormatError(f"{where}: `question` is a text that is not empty")
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        raise FormatError(f"{where}: `choices` are at least two texts that are not empty")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise FormatError(f"{where}: `answer` is the number of a choice, from 0 to {len(choices) - 1}")
    return Question(str(question), tuple(choices), answer)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def find_tasks(names: Sequence[str], folder: Path | None = None) -> tuple[Task, ...]:
    """Tasks by name: a folder's ``NAME.jsonl`` where there is one, else lm-eval's own, from the hub.

    Raises:
        InputError: there are no names, one stands twice, or the folder isn't there; or neither has a task of a name.
        FormatError: a file is damaged.
    """
    if not names or not all(names) or len(set(names)) < len(names):
        raise InputError(f"tasks are different names with commas between them, not {','.join(names)!r}")
    if folder is not None and not folder.is_dir():
        raise InputError(f"the folder of tasks {folder} is not there")
    files = {} if folder is None else {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    tasks = tuple(read_task(files[name]) if name in files else Task(name) for name in names)
    if remote := [task.name for task in tasks if task.questions is None]:
        known = _manager().all_tasks
        if unknown := [name for name in remote if name not in known]:
            has = f"; {folder} has {', '.join(files) or 'none'}" if folder is not None else ""
            raise InputError(f"neither a file nor lm-eval has a task {unknown[0]!r}{has}")
        warnings.warn(f"no local file has {', '.join(remote)}: lm-eval reads them from the hub", stacklevel=2)
    return tasks


def zero_shot(
    model: Model,
    tasks: Sequence[Task],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> tuple[TaskScore, ...]:
    """What a language model gets right, nothing shown to it beforehand.

    Args:
        model: what is asked.
        tasks: the questions (see `find_tasks`).
        limit: the first so many questions of every task.
        batch_size: choices a forward pass.
        dtype: of the forward pass; the checkpoint's own by default (float32 for float16).
        device: of the forward pass.

    Raises:
        InputError: the model is a perceptron, an option is out of range, or lm-eval isn't installed or scores a task
            otherwise than by choices.
        NetworkError: questions on the hub can't be had.
    """
    check_limits(limit, batch_size)
    lm_eval()
    model.decoder  # noqa: B018 - says what a perceptron can't do
    network = model.module(dtype=dtype or model.preferred_dtype(), device=device)
    return answered(network, model.tokenizer, tasks, limit=limit, batch_size=batch_size)


def check_limits(limit: int | None, batch_size: int) -> None:
    """Checks numbers.

    Raises:
        InputError: one is below 1.
    """
    for name, value in (("limit", limit), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"the {name} is at least 1, not {value}")


def answered(
    network: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    quiet: bool = False,
) -> tuple[TaskScore, ...]:
    """What a causal language model of `transformers` gets right; ``quiet`` shows no progress.

    Raises:
        InputError: lm-eval isn't installed, or scores a task otherwise than by choices.
        NetworkError: questions on the hub can't be had.
    """
    evaluator = lm_eval()
    built: dict[str, Any] = {}
    for task in tasks:
        built |= _fetched(task.name) if task.questions is None else {task.name: _configured(task)}
    for name, each in built.items():
        if each.OUTPUT_TYPE != "multiple_choice":
            raise InputError(f"the task {name} is not multiple choice, so it has no accuracy")
        each.set_config(key="num_fewshot", value=0)
    with _heard() as heard:
        # lm-eval gives the tokenizer a token to pad with, which is no business of others
        asked = evaluator.models.huggingface.HFLM(
            pretrained=network, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size
        )
        asked.loglikelihood = partial(asked.loglikelihood, disable_tqdm=quiet or not sys.stderr.isatty())
        found = evaluator.evaluate(asked, {"tasks": built}, limit=limit, log_samples=True, bootstrap_iters=100)
    if cut := sum("Truncating" in message for message in heard):
        warnings.warn(f"{cut} choices with their questions are longer than the model reads at once", stacklevel=2)
    return tuple(_score(name, found["results"][name], found["samples"][name]) for name in built)


@dataclass(frozen=True)
class Accuracy:
    """The share of a task's questions that a network answers correctly; other processes can be given it.

    Attributes:
        task: the questions, which are not on the hub: nobody fetches them again and again.
        tokenizer: of the networks.
        limit: the first so many questions; all by default.
    """

    task: Task
    tokenizer: Any
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.task.questions is None:
            raise InputError(f"no local file has the questions of {self.task.name}; give --tasks-dir DIR")
        check_limits(self.limit, 1)

    @property
    def key(self) -> str:
        """The same for accuracies on the same questions."""
        return digest([self.task.key, self.limit])

    def __call__(self, network: Any) -> float:
        return answered(network, self.tokenizer, [self.task], limit=self.limit, quiet=True)[0].acc


def _score(name: str, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> TaskScore:
    numbers = {key: result.get(f"{key},none") for key in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")}
    if numbers["acc"] is None:
        raise InputError(f"lm-eval doesn't score the task {name} by accuracy")
    values = {key: value if isinstance(value, float) and isfinite(value) else None for key, value in numbers.items()}
    asked = digest([[sample["arguments"], sample["target"]] for sample in samples])
    return TaskScore(name, len(samples), float(values.pop("acc") or 0.0), **values, asked=asked)


def _configured(task: Task) -> Any:
    """A task of lm-eval over local questions: its configuration is that of ARC, its scoring lm-eval's."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    questions = Dataset.from_list([asdict(question) for question in task.questions or ()])
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    with _heard():
        return ConfigurableTask(
            config={
                "task": task.name,
                "custom_dataset": lambda **_: {SPLIT: questions},
                "test_split": SPLIT,
                "output_type": "multiple_choice",
                "doc_to_text": _prompt,  # functions: a template in a question stays text
                "doc_to_choice": _choices,
                "doc_to_target": _answer,
                "metric_list": metrics,
            }
        )


def _prompt(question: Mapping[str, Any]) -> str:
    return f"Question: {question['question']}\nAnswer:"


def _choices(question: Mapping[str, Any]) -> list[str]:
    return list(question["choices"])


def _answer(question: Mapping[str, Any]) -> int:
    return int(question["answer"])


@cache
def _manager() -> Any:
    """What knows lm-eval's own tasks; it reads all their configurations, which takes seconds."""
    with _heard():
        return lm_eval().tasks.TaskManager()


def _fetched(name: str) -> dict[str, Any]:
    """A task of lm-eval's own, or those of a group, with questions from the hub."""
    manager = _manager()
    if name not in manager.all_tasks:
        raise InputError(f"lm-eval has no task {name!r}")
    try:
        with _heard():
            tasks: dict[str, Any] = manager.load([name])["tasks"]
    except Exception as error:  # the libraries between lm-eval and the hub have no common error
        raise NetworkError(f"the questions of {name} can't be had from the hub: {error}") from error
    return tasks


def lm_eval() -> Any:
    """The `lm_eval` module.

    Raises:
        InputError: it isn't installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies have deprecations of their own
            import lm_eval
            import lm_eval.models.huggingface
            import lm_eval.tasks
    except ImportError:
        raise InputError("lm-eval is not installed; `pip install graphprune[eval]` installs it") from None
    return lm_eval


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What lm-eval logs meanwhile, kept from the terminal; most of it says how it is configured."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lm_eval")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates

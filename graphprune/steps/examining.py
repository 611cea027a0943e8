"""Zero-shot accuracy on a run folder: ask a model, keep what it got right, and what it retained of the dense model's.

Reports are in ``RUN/tasks``, one JSON a model and set of questions; a step that has run is found again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from graphprune.core.errors import FormatError
from graphprune.core.io import digest, read_json, write_json
from graphprune.core.run import Run, checked_name
from graphprune.evaluation.tasks import Task, TaskScore, check_limits, zero_shot
from graphprune.models.model import Model
from graphprune.steps.pipeline import dtype_of


@dataclass(frozen=True)
class Exam:
    """What a model is asked.

    Attributes:
        tasks: the questions.
        limit: the first so many of every task; all by default.
        batch_size: choices a forward pass.
        dtype, device: of the forward passes.
    """

    tasks: tuple[Task, ...]
    limit: int | None = None
    batch_size: int = 8
    dtype: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_limits(self.limit, self.batch_size)

    @property
    def key(self) -> str:
        """The same for exams that ask the same."""
        return digest([[[task.name, task.key] for task in self.tasks], self.limit, self.dtype])

    def taken(self, model: Model) -> tuple[TaskScore, ...]:
        dtype = dtype_of(self.dtype)
        return zero_shot(
            model, self.tasks, limit=self.limit, batch_size=self.batch_size, dtype=dtype, device=self.device
        )


def examine_step(
    model: Model, exam: Exam, *, run: Run | None = None, against: Model | None = None, name: str | None = None
) -> dict[str, Any]:
    """What a model gets right, and what it retains of the dense model's accuracy; kept in ``RUN/tasks``.

    Args:
        model: what is asked.
        exam: the questions.
        run: where results are kept, and found again.
        against: the dense model, which is asked the same; by default the run's own, if it has been asked already.
        name: of the report.

    Raises:
        InputError: lm-eval isn't installed or can't ask a task, or the dense model was asked something else.
        NetworkError: questions on the hub can't be had.
    """
    label = checked_name(name or _called(model))
    scores = _taken(model, exam, run, label)
    if against is not None:
        dense = _taken(against, exam, run, _called(against))
    else:
        dense = () if run is None else _of_the_dense_model(run, exam)
    known = {score.task: score for score in dense}
    scores = tuple(score.against(known[score.task]) if score.task in known else score for score in scores)
    facts: dict[str, Any] = {"tasks": [score.facts() for score in scores], "mean_acc": fmean(s.acc for s in scores)}
    retained = [score.retention for score in scores if score.retention is not None]
    if len(retained) == len(scores):
        facts["mean_retention"] = fmean(retained)
    if run is not None:
        path = _path(run, label, exam)
        write_json(path, read_json(path) | facts)
        facts["report"] = str(path)
    return facts


def _called(model: Model) -> str:
    return model.name if model.folder is None else model.folder.name


def _path(run: Run, label: str, exam: Exam) -> Path:
    return run.folder / "tasks" / f"{label}-{exam.key[:8]}.json"


def _taken(model: Model, exam: Exam, run: Run | None, label: str) -> tuple[TaskScore, ...]:
    """Results of an exam, from the run folder if it has them."""
    if run is None:
        return exam.taken(model)
    inputs = digest([model.identity, exam.key])
    if (found := run.finished(f"tasks {label}", inputs)) is not None:
        return _read(found["scores"], label)
    with run.recording(f"tasks {label}", inputs, {"limit": exam.limit, "dtype": exam.dtype}) as record:
        scores = exam.taken(model)
        facts = [score.facts() for score in scores]
        path = _path(run, label, exam)
        write_json(path, {"model": model.name, "identity": model.identity, "exam": exam.key, "tasks": facts})
        record.outputs.append(path)
        record.result["scores"] = facts
    return scores


def _of_the_dense_model(run: Run, exam: Exam) -> tuple[TaskScore, ...]:
    """What the run's own model got right in this exam, if it has taken it."""
    dense = run.manifest()["model"]["identity"]
    for path in sorted((run.folder / "tasks").glob(f"*-{exam.key[:8]}.json")):
        report = read_json(path)
        if report.get("identity") == dense and report.get("exam") == exam.key:
            return _read(report.get("tasks"), str(path))
    return ()


def _read(found: object, where: str) -> tuple[TaskScore, ...]:
    known = {field.name for field in fields(TaskScore)}
    optional = dict.fromkeys(("acc_stderr", "acc_norm", "acc_norm_stderr"))
    try:
        if not isinstance(found, Sequence):
            raise TypeError("its tasks are no list")
        return tuple(TaskScore(**{key: v for key, v in (optional | row).items() if key in known}) for row in found)
    except (TypeError, AttributeError) as error:
        raise FormatError(f"{where} is damaged: {error}") from error

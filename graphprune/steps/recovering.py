"""Recovery on a run folder: train what pruning left, save it in the same shape, and say what was won back.

The checkpoint is in ``RUN/models``, the report with the loss curve in ``RUN/recoveries``. A killed run goes on at the
Trainer's last checkpoint.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphprune.calibration.text import read_text, windows
from graphprune.core.errors import InputError
from graphprune.core.io import digest, file_digest, read_json, write_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run, checked_name
from graphprune.evaluation.evaluate import evaluate
from graphprune.models.model import Model
from graphprune.recovery import Recovery, installed, recovered
from graphprune.surgery.checkpoint import save_pruned


def recover_step(
    model: Model,
    run: Run,
    text: Path,
    *,
    options: Recovery,
    test: Path | None = None,
    seq_len: int = 512,
    max_windows: int | None = None,
    device: str = "cpu",
    name: str | None = None,
) -> dict[str, Any]:
    """A trained checkpoint to ``RUN/models``: the same shape, and zeros where zeros were.

    Args:
        model: the pruned model.
        run: the run folder of the dense one, or any other.
        text: what it is trained on.
        options: how.
        test: what perplexity before and after is of; the text itself by default.
        seq_len: tokens a window.
        max_windows: of the test, at most, spread evenly.
        device: `cpu`, or `auto` for the accelerator that the Trainer finds.
        name: of the checkpoint and the report.

    Raises:
        InputError: PEFT isn't installed, or a text is missing, empty, too short or not UTF-8.
        ModelError: a token is unknown to the model.
    """
    installed()
    model.decoder  # noqa: B018 - says what a perceptron can't do
    for path in (text, *([] if test is None else [test])):
        if not path.is_file():
            raise InputError(f"the text {path} is not there")
    label = checked_name(name or f"{model.name if model.folder is None else model.folder.name}-recovered")
    settings = asdict(options) | {"seq_len": seq_len, "max_windows": max_windows, "device": device}
    files = [file_digest(text), None if test is None else file_digest(test)]
    inputs = digest([model.identity, settings, files])
    work = run.journal_folder(inputs)
    if (found := run.finished(f"recover {label}", inputs)) is not None:
        shutil.rmtree(work, ignore_errors=True)  # a kill may have come between the result and this
        return found | {"found": True}
    with run.recording(f"recover {label}", inputs, settings) as record:
        rows = windows(model.tokenizer, read_text(text), seq_len, needed=1)
        judged = {"seq_len": seq_len, "max_windows": max_windows}
        before = evaluate(model, test or text, **judged).perplexity  # type: ignore[arg-type]
        made = recovered(model, rows, options, work, device=device)
        saved = save_pruned(made.model, Mask.full(model.units), run.model_folder(label), rung=_rung(model))
        after = evaluate(Model.from_folder(saved.folder), test or text, **judged).perplexity  # type: ignore[arg-type]
        record.result.update(
            perplexity_before=before, perplexity_after=after, steps=made.steps, stopped=made.stopped,
            windows=len(rows), checkpoint=str(saved.folder), rung=saved.rung, checkpoint_params=saved.n_parameters,
            curve=[{"step": step, "loss": loss} for step, loss in made.curve],
        )  # fmt: skip
        report = run.folder / "recoveries" / f"{label}.json"
        write_json(report, record.result | {"settings": settings, "identity": model.identity})
        record.outputs += [saved.folder, report]
        record.result["report"] = str(report)
    shutil.rmtree(work, ignore_errors=True)
    return record.result


def _rung(model: Model) -> str:
    """The shape that the checkpoint says it has."""
    path = None if model.folder is None else model.folder / "graphprune.json"
    return str(read_json(path).get("rung", "auto")) if path is not None and path.is_file() else "auto"

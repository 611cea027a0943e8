"""Scores and masks that come in, go out, and are combined: the steps of `import`, `vote` and `mask`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import digest, file_digest, replacing, save_tensors, write_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.masks.algebra import (
    KINDS,
    Overlap,
    Reason,
    complement,
    diff,
    explain,
    intersection,
    losses,
    union,
)
from graphprune.masks.exported import removed_lists, table
from graphprune.masks.given import read_given
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.scorers.vote import Per, Rule, vote
from graphprune.steps.pipeline import open_run
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.removed import removed
from graphprune.surgery.shape import shape_of
from graphprune.surgery.torch_prune import MASK, prune_state, torch_masks

COMBINED: dict[str, Callable[..., Mask]] = {
    "union": union,
    "intersection": intersection,
    "complement": complement,
}
SUFFIX = ".safetensors"


def import_step(model: Model, output: Path, file: Path, *, name: str | None = None) -> dict[str, Any]:
    """Scores or a mask of one's own to ``RUN/scores`` or ``RUN/masks``; see `masks.given` for the files.

    Raises:
        InputError: there is no such file, or its ending is unknown.
        FormatError: an entry is unknown, missing, there twice or no number; the message names it.
    """
    label = name or file.stem
    given = read_given(file, model.units, model=model.identity, shapes=model.shapes, name=label)
    run = open_run(output, model)
    inputs = digest([model.identity, file_digest(file), label])
    path = run.mask_path(label) if isinstance(given, Mask) else run.scores_path(label)
    with run.recording(f"import {label}", inputs, {"file": str(file.absolute())}) as record:
        given.save(path)
        record.outputs.append(path)
        if isinstance(given, Mask):
            record.result.update(mask=str(path), **removed(model, given, KINDS))
        else:
            units = {name: sum(len(given.values[g.name]) for g in model.units.of_kind(name)) for name in given.kinds}
            record.result.update(scores=str(path), units=units)
    return record.result


def vote_step(
    run: Run, files: Sequence[Path], *, rule: Rule = "rank", per: Per = "layer", name: str | None = None
) -> dict[str, Any]:
    """The vote of several score files to ``RUN/scores``.

    Raises:
        InputError: there are fewer than two files, or they have nothing in common.
        FormatError: a file is damaged, or of another model than the run.
    """
    identity = run.manifest()["model"]["identity"]
    found_at = [_score_file(run, file) for file in files]
    several = [Scores.load(path, model=identity) for path in found_at]
    label = name or f"vote-{rule}"
    path = run.scores_path(label)
    options = {"rule": rule, "per": per, "of": [str(file.absolute()) for file in found_at]}
    inputs = digest([rule, per, [file_digest(file) for file in found_at]])
    if (found := run.finished(f"vote {label}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"vote {label}", inputs, options) as record:
        decided = vote(several, rule=rule, per=per)
        decided.save(path)
        record.outputs.append(path)
        record.result.update(scores=str(path), rule=rule, per=per, of=[s.method for s in several])
        record.result.update(units=list(decided.kinds))
    return record.result


def _score_file(run: Run, file: Path) -> Path:
    """A score file by its path, or by its name in the run folder."""
    own = run.folder / "scores" / f"{file}{SUFFIX}"
    if not file.is_file() and not own.is_file():
        raise InputError(f"{file} is no score file, and none in {own.parent} has that name")
    return file if file.is_file() else own


def combine_step(
    operation: str, files: Sequence[Path], output: Path, *, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """The `union`, `intersection` or `complement` of mask files, as another one.

    Raises:
        InputError: the masks are of different models or can't be combined, or the output has another ending.
        FormatError: a file is damaged.
    """
    if output.suffix != SUFFIX:
        raise InputError(f"a mask is written to a {SUFFIX} file, not to {output}")
    mask = COMBINED[operation](*(Mask.load(path) for path in files), kinds=kinds)
    mask.save(output)
    sizes = _totals((name, keep.numel()) for name, keep in mask.keep.items())
    gone = _totals((name, int((~keep).sum())) for name, keep in mask.keep.items())
    return {"mask": str(output.absolute()), "units": sizes, "removed": gone}


def diff_step(first: Path, second: Path) -> dict[str, Any]:
    """How much two masks have in common, by kind and block, and the units that one alone removes.

    Raises:
        InputError: the masks are of different models.
        FormatError: a file is damaged.
    """
    found = diff(Mask.load(first), Mask.load(second))
    return {
        "first": str(first.absolute()),
        "second": str(second.absolute()),
        "kinds": [_overlap(overlap) for overlap in found.kinds.values()],
        "blocks": [_overlap(overlap) for overlap in found.groups],
        "only_first": {name: units.tolist() for name, units in found.only_first.items()},
        "only_second": {name: units.tolist() for name, units in found.only_second.items()},
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "removed by": overlap.group,
        "both": overlap.both,
        "only the first": overlap.only_first,
        "only the second": overlap.only_second,
        "neither": overlap.neither,
        "jaccard": overlap.jaccard,
    }


def _totals(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums by kind of unit."""
    sums: dict[str, int] = {}
    for name, count in counts:
        kind = name.split(".")[0]
        sums[kind] = sums.get(kind, 0) + count
    return sums


def explain_step(
    path: Path, *, model: str | None = None, scores: Path | None = None, units: Sequence[str] = ()
) -> dict[str, Any]:
    """What a mask takes from every block and kind, and why some units go or stay.

    Args:
        path: the mask.
        model: that it is for; if it lies in a run folder, that of the run.
        scores: the file that it was made by; if it lies in a run folder, a file of the run that fits.
        units: to be explained.

    Raises:
        InputError: there is no such unit, or nothing says which model it is.
        FormatError: a file is damaged, or of another model.
    """
    dense = _model_of(path, model)
    mask = _checked(path, dense)
    by = _scores_of(path, mask) if scores is None else scores
    known = None if by is None else Scores.load(by, dense.units, dense.identity)
    lost = losses(mask, dense.units)
    reasons = [explain(mask, dense.units, unit, known) for unit in units]
    sums = _totals((loss.group, loss.parameters) for loss in lost)
    sizes = _totals((loss.group, loss.size) for loss in lost)
    gone = _totals((loss.group, loss.removed) for loss in lost)
    share = removed(dense, mask, KINDS)
    return {
        "mask": str(path.absolute()),
        "made by": mask.method,
        "options": dict(mask.options),
        "scores": None if by is None else str(by.absolute()),
        "sparsity": share["sparsity"],
        "params_removed": share["params_removed"],
        "n_params_removed": share["n_params_removed"],
        "kinds": [
            {"kind": kind, "units": sizes[kind], "removed": gone[kind], "parameters": sums[kind]} for kind in sizes
        ],
        "blocks": [
            {"group": loss.group, "units": loss.size, "removed": loss.removed, "parameters": loss.parameters}
            for loss in lost
        ],
        "reasons": [_reason(reason, by) for reason in reasons],
    }


def _reason(reason: Reason, scores: Path | None) -> dict[str, Any]:
    hint = "; `graphprune score` or `graphprune rank` writes them, --scores FILE names them" if scores is None else ""
    return {"sentence": reason.sentence + hint} | asdict(reason)


def _run_of(path: Path) -> Path | None:
    """The run folder that an artefact lies in, if it lies in one."""
    folder = path.absolute().parent.parent
    return folder if (folder / "manifest.json").is_file() else None


def _model_of(path: Path, named: str | None) -> Model:
    """The model that a mask is for: by name, or that of the run folder the mask lies in."""
    if named is not None:
        return load_model(named)
    if (folder := _run_of(path)) is None:
        raise InputError(f"{path} lies in no run folder; say which model it is for with --model MODEL")
    about = Run.open(folder).manifest()["model"]
    return load_model(about.get("folder") or about.get("name", ""))


def _checked(path: Path, model: Model) -> Mask:
    return Mask.load(path, model.units, model.identity, model.shapes)


def _scores_of(path: Path, mask: Mask) -> Path | None:
    """The scores in the run folder of a mask that have its method and options, if there is one such file."""
    folder = _run_of(path)
    wanted = mask.options.get("scorer", {})
    fitting = []
    for file in sorted((folder / "scores").glob(f"*{SUFFIX}")) if folder is not None else []:
        try:
            scores = Scores.load(file)
        except FormatError:  # a damaged one explains nothing
            continue
        if (scores.method, scores.model) == (mask.method, mask.model) and wanted.items() <= dict(
            scores.options
        ).items():
            fitting.append(file)
    return fitting[0] if len(fitting) == 1 else None


def mask_export_step(path: Path, to: str, output: Path, *, model: str | None = None) -> dict[str, Any]:
    """A mask for another program: `json` lists of what goes, a `csv` table, or tensors for `torch` to prune by.

    Args:
        path: the mask.
        to: `json`, `csv`, `torch` (masks alone) or `torch-state` (the whole state dict of the pruned network).
        output: the file.
        model: that the mask is for; if it lies in a run folder, that of the run.

    Raises:
        InputError: the mask has nothing that the format could hold, or nothing says which model it is for.
        FormatError: a file is damaged, or of another model.
    """
    if to in {"torch", "torch-state"}:
        if output.suffix != SUFFIX:
            raise InputError(f"tensors are written to a {SUFFIX} file, not to {output}")
        dense = _model_of(path, model)
        mask = _checked(path, dense)
        if to == "torch":
            tensors = {f"{name}{MASK}": keep for name, keep in torch_masks(dense, mask).items()}
        else:
            tensors = prune_state(dense, mask)
        save_tensors(output, tensors, {"format": "pt", "method": mask.method, "model": mask.model})
        return {"file": str(output.absolute()), "tensors": len(tensors)}
    mask = Mask.load(path) if model is None else _checked(path, load_model(model))
    if to == "json":
        write_json(output, {"method": mask.method, "model": mask.model, "removed": removed_lists(mask)})
    else:
        _write_table(output, table(mask.keep))
    return {"file": str(output.absolute()), "removed": _totals((n, int((~k).sum())) for n, k in mask.keep.items())}


def _write_table(path: Path, lines: Iterable[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    with replacing(path.absolute()) as temporary:
        temporary.write_text(content, encoding="utf-8")


def apply_step(
    model: Model, output: Path, path: Path, *, rung: str = "auto", name: str | None = None
) -> dict[str, Any]:
    """The checkpoint that a mask leaves to ``RUN/models``, with the mask in ``RUN/masks``; nothing is repaired.

    Raises:
        InputError: the mask doesn't allow the rung.
        FormatError: the mask is damaged, or of another model.
    """
    mask = _checked(path, model)
    shape_of(model, mask, rung)
    run = open_run(output, model)
    label = name or path.stem
    inputs = digest([model.identity, file_digest(path), rung])
    if (found := run.finished(f"apply {label}", inputs)) is not None:
        return found | {"found": True}
    with run.recording(f"apply {label}", inputs, {"mask": str(path.absolute()), "rung": rung}) as record:
        saved = save_pruned(model, mask, run.model_folder(label), rung=rung)
        mask.save(run.mask_path(label))
        record.outputs += [run.mask_path(label), saved.folder]
        record.result.update(method=mask.method, **removed(model, mask, KINDS))
        record.result.update(
            mask=str(run.mask_path(label)), checkpoint=str(saved.folder), rung=saved.rung, why=saved.why,
            checkpoint_params=saved.n_parameters, checkpoint_bytes=saved.n_bytes, max_difference=saved.max_difference,
        )  # fmt: skip
    return record.result

"""What a run folder has kept of scorers: their files, what made them, and the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphprune.comparison.agreement import SEED
from graphprune.core.errors import InputError
from graphprune.core.io import digest
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.models.load import load_model
from graphprune.models.model import Model

SEVERAL = ","


def model_of(run: Run) -> Model:
    """The model that a run belongs to, from where it was.

    Raises:
        InputError: it isn't there any more.
        FormatError: another one is there now.
    """
    facts = run.manifest()["model"]
    folder = facts.get("folder")
    if folder is None or not Path(folder).is_dir():
        raise InputError(f"the model of {run.folder} is not in {folder} any more")
    model = load_model(folder)
    Run.open(run.folder, identity=model.identity)
    return model


def named_scores(run: Run, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Score files by label, as the caller named them."""
    files = {each.split(SEVERAL)[0]: each.split(SEVERAL) for each in names}
    everything = [name for several in files.values() for name in several]
    if len(files) < len(names) or len(set(everything)) < len(everything):
        raise InputError(f"scores are named twice: {', '.join(names)}")
    for name in everything:
        if not run.scores_path(name).is_file():
            raise InputError(f"{run.folder} has no scores {name!r}; it has {_known(run)}")
    return files, []


def _known(run: Run) -> str:
    return ", ".join(sorted(path.stem for path in (run.folder / "scores").glob("*.safetensors"))) or "none"


def all_scores(run: Run) -> tuple[dict[str, list[str]], list[str]]:
    """All files of heads or neurons, by the first of the names of those that differ in the seed; and the others."""
    taken: dict[str, list[str]] = {}
    left_out = []
    for path in sorted((run.folder / "scores").glob("*.safetensors")):
        scores = loaded_scores(run, path.stem)
        if not {HEAD, NEURON} & set(scores.kinds):
            left_out.append(path.stem)
            continue
        taken.setdefault(_made_by(run, path.stem, scores), []).append(path.stem)
    groups = [sorted(names, key=lambda name: (len(name), name)) for names in taken.values()]
    return {names[0]: names for names in sorted(groups)}, left_out


def loaded_scores(run: Run, name: str) -> Scores:
    identity = run.manifest()["model"]["identity"]
    return Scores.load(run.scores_path(name), model=identity)


def _made_by(run: Run, name: str, scores: Scores) -> str:
    """A key that files share which differ in nothing but a seed; the file's own where it isn't known how it was made.

    The run's manifest says what text a score was calibrated on, and with which seed.
    """
    known = calibration_of(run, name)
    if known is None:
        return digest([name, scores.inputs])
    calibration = {key: value for key, value in known.items() if key != SEED}
    options = {key: value for key, value in scores.options.items() if key != SEED}
    return digest([scores.method, options, calibration])


def calibration_of(run: Run, name: str) -> dict[str, Any] | None:
    """What a score file was calibrated on, as the run's manifest has it: empty if on nothing, None if not known."""
    step = run.manifest().get("steps", {}).get(f"score {name}", {})
    result = step.get("result", {}) if isinstance(step, Mapping) else {}
    return dict(result["calibration"] or {}) if "calibration" in result else None

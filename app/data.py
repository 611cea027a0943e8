"""What lies in a run folder, read when it is first shown and again when it has changed. Nothing else touches the disk.

Files are chosen from a listing of the folder; a name from the browser that isn't in it opens nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import torch

from graphprune.comparison.consequence import FORMAT as CONSEQUENCES
from graphprune.comparison.consequence import Consequences
from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.graph_store import load_graph
from graphprune.core.io import read_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run, checked_name
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, NEURON, UnitTable
from graphprune.models import tiny
from graphprune.models.fetch import NAMED, TINY
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.prediction.architecture import Vectors
from graphprune.prediction.predictor import Predictor
from graphprune.steps.searching import only_pairs, predictor_of
from graphprune.surgery.removed import removed

from .kept import Made, once
from .state import State

SHIPPED = Path(tiny.__file__).parent  # the texts of the model that the package brings
EDITED = "edited-"  # what the names of masks begin with that were changed by hand
LEVEL = 0.9  # of the interval of a prediction
PIECES = 0.002  # of the prunable parameters: more than rounding
WRITING = Lock()  # two people who edit the same plan get a mask each
Stamp = tuple[int, int]  # when a file was written, and its size


@dataclass(frozen=True)
class Prediction:
    """A perplexity that was predicted, and its 90 % interval.

    Attributes:
        value: the perplexity.
        low: the lower end.
        high: the upper end.
        pairs: from how many measured masks.
        beyond: how this mask differs from all of them, if it does.
        made: how these were made.
        text: what it is the perplexity of.
    """

    value: float
    low: float
    high: float
    pairs: int
    beyond: str
    made: str
    text: str


@dataclass(frozen=True)
class Reading:
    """What a job reads, to calibrate or to measure.

    Attributes:
        text: the file.
        seq_len: tokens of a window.
        windows: how many are read.
        seed: of their draw, where they are drawn.
        leave_out: number and seed of windows that are none of them.
    """

    text: Path
    seq_len: int
    windows: int
    seed: int = 0
    leave_out: tuple[int, int] | None = None


@dataclass(frozen=True)
class RunData:
    """A run folder as the explorer sees it.

    Attributes:
        folder: the run folder, which may be missing, damaged or half-finished.
        calibration: the text that jobs calibrate on, if one was named.
        text: the text that jobs evaluate on, if one was named.
    """

    folder: Path
    calibration: Path | None = None
    text: Path | None = None

    def run(self) -> Run:
        """The run.

        Raises:
            GraphpruneError: there is none, or it is damaged; the sentence says what to do.
        """
        if not self.folder.is_dir():
            raise InputError(f"there is no folder {self.folder}; `graphprune demo -o {self.folder}` makes a run in it")
        path = self.folder / "manifest.json"
        return _run(self.folder, _stamp(path)) if path.is_file() else Run.open(self.folder)

    def manifest(self) -> dict[str, Any]:
        """What the run says of itself; not to be changed."""
        path = self.run().folder / "manifest.json"
        return _manifest(path, _stamp(path))

    def name(self) -> str:
        """What the model is called."""
        return str(self.manifest()["model"].get("name", "the model"))

    def model(self) -> Model:
        """The dense model that the run is of.

        Raises:
            GraphpruneError: it isn't where it was, or another one is there now.
        """
        facts = self.manifest()["model"]
        source = facts.get("folder") or facts.get("name")
        if source is None:
            raise InputError("this run is of a model in memory; save it to a folder to look at its units")
        return _model(str(source), facts["identity"])

    def source(self) -> str:
        """What a command calls the model: by its name if everybody has it by that name, else by its folder."""
        name, folder = self.name(), self.manifest()["model"].get("folder")
        return name if name in {TINY, *NAMED} else str(folder or name)

    def units(self) -> UnitTable:
        return self.model().units

    def graph(self) -> ModelGraph:
        """The run's graph, memory-mapped.

        Raises:
            GraphpruneError: there is none, or it is damaged.
        """
        path = self.run().graph_folder / "manifest.json"
        if not path.is_file():
            name = self.manifest()["model"].get("name", "MODEL")
            raise InputError(f"this run has no graph yet; `graphprune export {name} -o {self.folder}` makes it")
        return _graph(path.parent, _stamp(path))

    def graph_made(self) -> Made[ModelGraph]:
        """The run's graph, told apart by its file."""
        path = self.run().graph_folder / "manifest.json"
        return Made((path, _stamp(path)) if path.is_file() else None, self.graph())

    def scores_there(self) -> tuple[str, ...]:
        return self._listed("scores", ".safetensors")

    def masks_there(self) -> tuple[str, ...]:
        return self._listed("masks", ".safetensors")

    def evaluations_there(self) -> tuple[str, ...]:
        return self._listed("evaluations", ".json")

    def resolved(self, state: State) -> State:
        """The state with the scores that are meant where it names none: the run's first, and another one beside it."""
        there = self.scores_there()
        score = state.score or next(iter(there), "")
        return replace(state, score=score, against=state.against or next((n for n in there if n != score), ""))

    def scores(self, name: str) -> Scores:
        """The scores in a file of the run; the first one if no name is given.

        Raises:
            GraphpruneError: there is no such file, or it is damaged.
        """
        path = self.score_path(name)
        return _scores(path, _stamp(path))

    def score_path(self, name: str) -> Path:
        return self._chosen("scores", name, self.scores_there(), ".safetensors", "score MODEL --scorer NAME -o")

    def score_stamp(self, name: str) -> tuple[str, Stamp]:
        """What tells a score file from another, and from itself before it was written again."""
        path = self.score_path(name)
        return str(path), _stamp(path)

    def mask(self, name: str) -> Mask:
        """A mask of the run.

        Raises:
            GraphpruneError: there is no such file, or it is damaged.
        """
        path = self.mask_path(name)
        return _mask(path, _stamp(path), self.folder)

    def mask_path(self, name: str) -> Path:
        return self._chosen("masks", name, self.masks_there(), ".safetensors", "prune MODEL --method NAME -o")

    def evaluation(self, name: str) -> dict[str, Any]:
        return read_json(self._chosen("evaluations", name, self.evaluations_there(), ".json", "evaluate MODEL -o"))

    def edited(self, mask: Mask, edit: str) -> Mask:
        """A mask with units kept or removed by hand: ``-neuron.3.17,+head.0.1``; key/value heads follow their heads.

        Raises:
            InputError: a name is no unit, or what is left can't run.
        """
        units = self.units()
        keep = {name: values.clone() for name, values in mask.keep.items()}
        for word in filter(None, (part.strip() for part in edit.split(","))):
            group, _, position = word[1:].rpartition(".")
            known = group in units and units[group].kind in {HEAD, NEURON}
            if word[0] not in "+-" or not known or not position.isdigit() or int(position) >= units[group].size:
                raise InputError(f"{word!r} is no change of a mask; changes are like -neuron.3.17 or +head.0.1")
            keep[group][int(position)] = word[0] == "+"
        return self.changed(mask, keep)

    def changed(self, mask: Mask, keep: Mapping[str, torch.Tensor]) -> Mask:
        """A mask that keeps other heads and neurons; key/value heads follow their heads.

        Raises:
            InputError: what is left can't run.
        """
        units, followed = self.units(), dict(keep)
        for kv in units.of_kind(KV_HEAD):
            followed[kv.name] = keep[f"{HEAD}.{kv.layer}"].view(kv.size, -1).any(dim=1)
        changed = replace(mask, keep=followed, options={**mask.options, "edited": True})
        try:
            changed.check_legal(units)
        except ValueError as error:
            raise InputError(f"changed by hand, this mask can't run: {error}") from error
        return changed

    def keep_edited(self, mask: Mask, label: str) -> str:
        """Writes a mask that was changed by hand into the run, and says its name.

        One that is edited further is replaced; a new one takes no other's name.

        Args:
            mask: the mask.
            label: of what was edited: a plan, or an edited mask of the run.
        """
        run = self.run()
        with WRITING:
            there = self.masks_there()
            name = checked_name(label if label.startswith(EDITED) else f"{EDITED}{label}")
            if name != label:
                taken = (f"{name}-{i}" for i in range(2, len(there) + 3))
                name = next(each for each in (name, *taken) if each not in there)
            mask.save(run.mask_path(name))
        return name

    def file_of(self, mask: Mask) -> bytes:
        """A mask as the file that `graphprune` reads."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "mask.safetensors")
            mask.save(path)
            return path.read_bytes()

    def predicted(self, mask: Mask) -> Prediction | None:
        """The perplexity that the run's pairs say a mask has; None if the run has none of them.

        Raises:
            GraphpruneError: there are several files of pairs, too few pairs, or they are damaged.
        """
        if not any((self.folder / "pairs").glob("*.jsonl")):
            return None
        path = only_pairs(self.run())
        predictor = _predictor(Made((path, _stamp(path)), self.model()), path)
        parts = predictor.space.parts
        vector = np.array([[float((~mask.keep[part.group]).double().mean()) for part in parts]])
        middle, (low, high) = predictor.predict(vector), predictor.intervals(vector, LEVEL)
        about = read_json(path.with_suffix(".json"))
        made = f"{about.get('scorer', 'unknown')}, compensation {about.get('compensation', 'unknown')}"
        if about["cut"].get("head_mode") == "balanced":
            made += ", heads one of every group"
        judged = predictor.targets[0].partition(".")[2]
        ends = float(low[0, 0]), float(high[0, 0])
        beyond = _beyond(predictor, vector, removed(self.model(), mask, ())["n_params_removed"])
        return Prediction(float(middle[0, 0]), *ends, len(predictor.data), beyond, made, judged)

    def calibrating(self) -> Reading:
        """What jobs calibrate on: what the masks were that predictions are from, if their text is still there."""
        told = self._of_pairs("calibrated")
        texts = [told["text"]] if told else []
        text, known = _chosen_text(self.calibration, texts, SHIPPED / "calibration.txt")
        return Reading(text, told["seq_len"], told["n_samples"], told["seed"]) if known else Reading(text, 256, 32)

    def judging(self) -> Reading:
        """What jobs measure on, likewise."""
        told = self._of_pairs("judged")
        text, known = _chosen_text(self.text, told.get("texts", ()), SHIPPED / "evaluation.txt")
        if not known:
            return Reading(text, 256, 10)
        unseen = told.get("leave_out")
        return Reading(text, told["seq_len"], told["max_windows"], leave_out=unseen and (unseen[0], unseen[1]))

    def _of_pairs(self, fact: str) -> dict[str, Any]:
        """What the run's pairs say of how they were made; nothing if there are none, or several files of them."""
        there = sorted((self.folder / "pairs").glob("*.json"))
        found = read_json(there[0]).get(fact) if len(there) == 1 else None
        return found if isinstance(found, dict) else {}

    def documents(self, kind: str) -> dict[str, dict[str, Any]]:
        """Everything in one of the run's folders of JSON: `evaluations`, `searches`, `predictions`."""
        return {name: read_json(self.folder / kind / f"{name}.json") for name in self._listed(kind, ".json")}

    def consequences(self) -> Consequences:
        """What masks did to the graph and to the model, as it was compared last.

        Raises:
            GraphpruneError: it never was, or the file is damaged.
        """
        paths = [self.folder / "comparisons" / f"{name}.json" for name in self._listed("comparisons", ".json")]
        paths = [path for path in paths if _format(path, _stamp(path)) == CONSEQUENCES]
        if not paths:
            command = f"graphprune compare {self.folder} --sparsities 0.2 0.4 --text FILE"
            raise InputError(f"what masks cost has not been compared in this run yet; `{command}` does")
        path = max(paths, key=_stamp)
        return _consequences(path, _stamp(path))

    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        """What has been done, by name of the step."""
        steps = self.manifest().get("steps", {})
        return {name: step for name, step in steps.items() if isinstance(step, dict)}

    def unfinished(self) -> bool:
        """Whether a step was killed and would go on where it stopped."""
        folder = self.folder / "blocks"
        return folder.is_dir() and any(folder.iterdir())

    def problem(self) -> str | None:
        """Why nothing can be shown of this folder, in one sentence; None if something can."""
        try:
            self.run()
        except GraphpruneError as error:
            return str(error)
        return None

    def _listed(self, kind: str, suffix: str) -> tuple[str, ...]:
        paths = (self.folder / kind).glob(f"*{suffix}") if (self.folder / kind).is_dir() else ()
        return tuple(sorted(path.name.removesuffix(suffix) for path in paths if not path.name.startswith(".")))

    def _chosen(self, kind: str, name: str, there: tuple[str, ...], suffix: str, makes: str) -> Path:
        if not there:
            raise InputError(f"this run has no {kind} yet; `graphprune {makes} {self.folder}` makes some")
        if name and name not in there:
            raise InputError(f"this run has no {kind} named {name!r}; it has {', '.join(there)}")
        return self.folder / kind / f"{name or there[0]}{suffix}"


def _chosen_text(named: Path | None, known: Sequence[str], shipped: Path) -> tuple[Path, bool]:
    """The text that was named, the first known one that is there, or the shipped one; and whether it is a known one."""
    there = [path for path in map(Path, known) if path.is_file()]
    text = named or next(iter(there), shipped)
    return text, text in there


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _run(folder: Path, stamp: Stamp) -> Run:  # noqa: ARG001 - a changed file is read again
    return Run.open(folder)


@lru_cache(maxsize=2)
def _manifest(path: Path, stamp: Stamp) -> dict[str, Any]:  # noqa: ARG001 - likewise
    return read_json(path)


@lru_cache(maxsize=4)
def _model(source: str, identity: str) -> Model:
    model = load_model(source)
    if model.identity != identity:
        raise InputError(f"{source} holds another model now than the one that this run is of")
    return model


@lru_cache(maxsize=2)
def _graph(folder: Path, stamp: Stamp) -> ModelGraph:  # noqa: ARG001 - likewise
    return load_graph(folder)


@lru_cache(maxsize=64)
def _format(path: Path, stamp: Stamp) -> str:  # noqa: ARG001 - likewise
    return str(read_json(path).get("format", ""))


@lru_cache(maxsize=2)
def _consequences(path: Path, stamp: Stamp) -> Consequences:  # noqa: ARG001 - likewise
    return Consequences.load(path)


@lru_cache(maxsize=64)
def _scores(path: Path, stamp: Stamp) -> Scores:  # noqa: ARG001 - likewise
    return Scores.load(path)


@once(maxsize=2)
def _predictor(model: Made[Model], path: Path) -> Predictor:
    return predictor_of(path, model.value)


def _beyond(predictor: Predictor, vector: Vectors, n_removed: int) -> str:
    """How a mask differs from those that a predictor has learned from; nothing if it doesn't."""
    of_pieces = float(predictor.data.sparsities(vector)[0])
    if abs(n_removed / predictor.space.prunable - of_pieces) > PIECES:
        return "those masks are of other pieces"
    least, most = predictor.reach
    return "" if bool(predictor.covers(vector)[0]) else f"those masks remove {least:.1%} to {most:.1%}"


@lru_cache(maxsize=64)
def _mask(path: Path, stamp: Stamp, folder: Path) -> Mask:  # noqa: ARG001 - likewise
    model = RunData(folder).model()
    return Mask.load(path, model.units, model.identity, model.shapes)

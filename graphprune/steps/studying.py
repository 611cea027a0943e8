"""A study, cell by cell: what is known is found again, what is new is measured, and a table and a figure come of all.

``FOLDER/results.jsonl`` has a line for every cell, found again by a hash of all that the cell depends on, so that a
study that was stopped, or that has grown, goes on with what it lacks. ``table.md``, ``table.csv``, ``table.json`` and
``figure.html`` are made anew each time, ``figure.png`` and ``figure.svg`` where there is a browser to draw them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from graphprune.calibration.text import read_text, spread, windows
from graphprune.core.errors import GraphpruneError, InfeasibleError, InputError
from graphprune.core.io import digest, file_digest, replacing, sweep_temporaries, write_json
from graphprune.core.progress import progress
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.evaluation.perplexity import perplexity
from graphprune.evaluation.tasks import Task, answered
from graphprune.methods import Recipe
from graphprune.models.load import load_model
from graphprune.models.model import Model, build_causal_lm
from graphprune.plots.image import image
from graphprune.plots.study import study_curves
from graphprune.prediction.executors import Executor
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.scorers.inputs import Scorer
from graphprune.steps.pipeline import dtype_of
from graphprune.studies.store import VERSION, Result, Store
from graphprune.studies.study import Cell, Draw, Judging, SparsityOf, Study
from graphprune.studies.table import PERPLEXITY, Table
from graphprune.surgery.cut import zeroed
from graphprune.surgery.removed import removed

OF_NEURONS = ("llmrank", "mlprank")  # scorers that say nothing of heads
IMAGES, IMAGE_WIDTH = ("png", "svg"), 1000
RESULTS = "results.jsonl"
Item = tuple[str, Cell]
"""A cell with the hash of all that its result depends on."""


@dataclass(frozen=True)
class Judge:
    """What all models of a study are asked; small, and the same in every process."""

    rows: Mapping[str, Int[torch.Tensor, "_windows _seq_len"]]
    tasks: tuple[Task, ...]
    limit: int | None
    batch_size: int

    @classmethod
    def of(cls, judging: Judging, model: Model) -> "Judge":
        """With a model's tokens.

        Raises:
            InputError: a text is too short, or the model is a perceptron.
        """
        model.decoder  # noqa: B018 - says what a perceptron can't do
        found = {path.stem: windows(model.tokenizer, read_text(path), judging.seq_len) for path in judging.texts}
        rows = {name: spread(each, judging.max_windows) for name, each in found.items()}
        return cls(rows, judging.tasks, judging.limit, judging.batch_size)

    @property
    def key(self) -> str:
        """The same for judges that ask the same."""
        asked = [[name, rows.tolist()] for name, rows in self.rows.items()]
        return digest([asked, [[task.name, task.key] for task in self.tasks], self.limit])

    def __call__(self, network: Any, tokenizer: Any, device: str) -> dict[str, float]:
        """Quality by name."""
        found = {f"{PERPLEXITY}{name}": perplexity(network, rows, device=device) for name, rows in self.rows.items()}
        if not self.tasks:
            return found
        for score in answered(
            network, tokenizer, self.tasks, limit=self.limit, batch_size=self.batch_size, quiet=True
        ):  # fmt: skip
            found[f"acc.{score.task}"] = score.acc
            if score.acc_norm is not None:
                found[f"acc_norm.{score.task}"] = score.acc_norm
        return found


@dataclass(frozen=True)
class Work:
    """All that the cells of one model have in common.

    Attributes:
        model: hash of the dense model.
        folder: where it lies, for other processes.
        judge: what it is asked.
        sparsity_of: what a sparsity is a fraction of.
        dtype, device: of the forward passes.
    """

    model: str
    folder: Path | None
    judge: Judge
    sparsity_of: SparsityOf = "prunable"
    dtype: str | None = None
    device: str = "cpu"

    @cached_property
    def key(self) -> str:
        return digest([self.model, self.judge.key, self.sparsity_of, self.dtype])

    def bench(self, model: Model | None = None) -> "Callable[[Item], Result]":
        """What measures a cell, with the dense model, which is loaded if it isn't given.

        Raises:
            InputError: the model is in the memory of another process, or another one is there now.
        """
        if model is None:
            if self.folder is None:
                raise InputError("the model is in memory: other processes can't load it; save it as a checkpoint first")
            model = Model.from_folder(self.folder)
        if model.identity != self.model:
            raise InputError(f"{model.name} is not the model that the study began with")
        return Bench(self, model).measure

    def cell_key(self, cell: Cell) -> str:
        """A hash of all that a cell's result depends on."""
        drawn: list[object] = []
        if cell.draw is not None and cell.draw.text is not None:
            drawn = [_digest_of(cell.draw.text), cell.draw.n_samples, cell.draw.seq_len, cell.seed]
        recipe = None if cell.recipe is None else asdict(cell.recipe)
        return digest([VERSION, self.key, recipe, cell.sparsity, drawn])


@lru_cache
def _digest_of(text: Path) -> str:
    return file_digest(text)


class Bench:
    """A model that is pruned again and again; what calibration tells of it is found once for cells that share it."""

    def __init__(self, work: Work, model: Model) -> None:
        self.work, self.model = work, model
        self._drawn: tuple[tuple[Draw | None, int], Evidence] | None = None

    def measure(self, item: Item) -> Result:
        """The quality of a cell's model, and what it took to prune it.

        Raises:
            GraphpruneError: it can't be measured; the message begins with the cell's name.
        """
        key, cell = item
        try:
            if cell.recipe is None:
                return Result(key, self._quality(self.model, None))
            return self._pruned(cell, cell.recipe, key)
        except InfeasibleError as error:
            return Result(key, refused=str(error))
        except GraphpruneError as error:
            raise type(error)(f"{cell.name}: {error}") from error

    def _pruned(self, cell: Cell, recipe: Recipe, key: str) -> Result:
        evidence, start = self._evidence(cell), time.perf_counter()
        share = share_of(self.model, recipe) if self.work.sparsity_of == "blocks" else 1.0
        if cell.sparsity * share > 1:
            most = f"{1 / share:.3f} of the blocks' parameters"
            raise InfeasibleError(f"what {cell.method} may remove is {most}, less than {cell.sparsity:g}")
        cutting = apply(recipe, cell.sparsity * share, evidence)
        seconds = round(time.perf_counter() - start, 3)
        facts = removed(self.model, cutting.mask, (HEAD, KV_HEAD, NEURON))
        gone, of_all = facts["prunable_params_removed"], facts["params_removed"]
        return Result(key, self._quality(cutting.model, cutting), gone, of_all, seconds)

    def _quality(self, model: Model, cutting: Cutting | None) -> dict[str, float]:
        dtype = dtype_of(self.work.dtype) or self.model.preferred_dtype()
        parameters = model.parameters if cutting is None else zeroed(model.parameters, model.units, cutting.mask)
        network: Any = build_causal_lm(model.config, parameters, None, dtype).to(self.work.device).eval()
        return self.work.judge(network, self.model.tokenizer, self.work.device)

    def _evidence(self, cell: Cell) -> Evidence:
        """Of the cell's calibration; only the last one is kept, since cells come calibration by calibration."""
        shared = (cell.draw, cell.seed if cell.draw is not None else 0)
        if self._drawn is None or self._drawn[0] != shared:
            self._drawn = None  # before there are two
            draw, seed = shared
            options = {"dtype": dtype_of(self.work.dtype), "device": self.work.device}
            if draw is not None:
                options |= {"n_samples": draw.n_samples, "seq_len": draw.seq_len, "seed": seed}
            found = Evidence.of_text(self.model, None if draw is None else draw.text, **options)
            self._drawn = shared, replace(found, scored=_once(found))
        return self._drawn[1]


def _once(evidence: Evidence) -> Callable[[Scorer], Scores]:
    """What scorers say of the dense model, each asked once."""
    made: dict[Scorer, Scores] = {}
    return lambda scorer: made.get(scorer) or made.setdefault(scorer, evidence.scores(scorer))


def share_of(model: Model, recipe: Recipe) -> float:
    """The blocks' linear parameters over those of the kinds that a recipe prunes."""
    if recipe.of_weights:
        return 1.0
    kinds: tuple[str, ...] = (HEAD, KV_HEAD, NEURON)
    if recipe.cut.units == "neuron" or recipe.scorer in OF_NEURONS:
        kinds = (NEURON,)
    elif recipe.cut.units == "head":
        kinds = (HEAD, KV_HEAD)
    everything = model.units.prunable_parameters(HEAD, KV_HEAD, NEURON)
    return everything / max(model.units.prunable_parameters(*kinds), 1)


@dataclass(frozen=True)
class Begun:
    """A study with its models, and where its results are.

    Attributes:
        study: what is measured.
        folder: where results are, and come.
        models: by name.
        work: likewise.
        items: all cells.
    """

    study: Study
    folder: Path
    models: Mapping[str, Model]
    work: Mapping[str, Work]
    items: tuple[Item, ...]

    @classmethod
    def of(cls, study: Study, folder: Path, *, device: str = "cpu") -> "Begun":
        """Finds the models.

        Raises:
            InputError: one isn't there, a text is too short, or the folder can't be one.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, a study is a folder")
        models = {name: load_model(source) for name, source in study.models.items()}
        work = {
            name: Work(
                model.identity, model.folder, Judge.of(study.judging, model), study.sparsity_of, study.dtype, device
            )
            for name, model in models.items()
        }  # fmt: skip
        items = tuple((work[cell.model].cell_key(cell), cell) for cell in study.cells())
        return cls(study, folder, models, work, items)

    @property
    def store(self) -> Store:
        return Store(self.folder / RESULTS)

    def missing(self, known: Mapping[str, Result]) -> dict[str, dict[str, Cell]]:
        """The cells that haven't been measured, by key, model by model; those that come to the same are one."""
        lacking: dict[str, dict[str, Cell]] = {}
        for key, cell in self.items:
            if key not in known:
                lacking.setdefault(cell.model, {}).setdefault(key, cell)
        return lacking

    def measured(self, executor: Executor, missing: Mapping[str, Mapping[str, Cell]]) -> Iterator[Result]:
        """Results of cells, each as soon as it is there."""
        return chain.from_iterable(
            executor.results(self.work[name], self.models[name], tuple(cells.items()))
            for name, cells in missing.items()
        )  # fmt: skip


def study(
    config: Study | Path | str,
    folder: Path | str | None = None,
    *,
    data: Path | str | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
) -> Table:
    """The table of a study, all cells of which have been measured and kept; `plots.study_curves` draws it.

    Args:
        config: a study, or the path of its TOML file.
        folder: where results come, and are found again; `graphprune-study-NAME` by default.
        data: the folder that paths in the file begin in; its own by default.
        executor: where cells are measured; one after the other in this process by default.
        device: of the forward passes.

    Raises:
        InputError: the file can't be read, a key or a value of it is wrong, or something that it names isn't there.
        GraphpruneError: a cell can't be measured; those before it are kept.
    """
    if not isinstance(config, Study):
        name = Path(config).stem
        config = Study.read(Path(config), data=None if data is None else Path(data))
    else:
        name = config.title
    begun = Begun.of(config, Path(folder or default_folder(name)), device=device)
    return _measured(begun, executor or Executor())[0]


def default_folder(name: str) -> Path:
    return Path(f"graphprune-study-{name}")


def study_step(
    study: Study, folder: Path, *, executor: Executor | None = None, device: str = "cpu", dry_run: bool = False
) -> dict[str, Any]:
    """Measures a study, writes its table and its figure, and says where; or says what there is to do.

    Args:
        study: what is measured.
        folder: where results come, and are found again.
        executor: where cells are measured; one after the other in this process by default.
        device: of the forward passes.
        dry_run: measures and writes nothing.

    Raises:
        InputError: something that the study names isn't there.
        GraphpruneError: a cell can't be measured; those before it are kept.
    """
    begun = Begun.of(study, folder, device=device)
    if dry_run:
        known = begun.store.results()
        cells = [{"cell": cell.name, "done": key in known} for key, cell in begun.items]
        return {"title": study.title, "cells": len(cells), "done": sum(each["done"] is True for each in cells),
                "study": str(folder.absolute()), "list": cells}  # fmt: skip
    table, measured = _measured(begun, executor or Executor())
    return {"title": study.title, "cells": len(begun.items), "measured_now": measured, **table.facts(),
            **_written(table, folder), "markdown": table.markdown()}  # fmt: skip


def _measured(begun: Begun, executor: Executor) -> tuple[Table, int]:
    """The table of all cells, and how many were measured for it."""
    if begun.folder.is_dir():
        sweep_temporaries(begun.folder)
    known = begun.store.results()
    missing = begun.missing(known)
    about = {key: _about(cell) for cells in missing.values() for key, cell in cells.items()}
    for result in progress(begun.measured(executor, missing), "measuring", total=len(about), unit="cell"):
        begun.store.append(result, about[result.key])
        known[result.key] = result
    return Table.of(begun.study.title, [(cell, known[key]) for key, cell in begun.items]), len(about)


def _about(cell: Cell) -> dict[str, Any]:
    """What a reader of the results wants to know of a cell."""
    facts: dict[str, Any] = {"model": cell.model, "method": cell.method, "sparsity": cell.sparsity, "seed": cell.seed}
    if cell.draw is not None and cell.draw.text is not None:
        facts |= {"text": cell.draw.text.name, "n_samples": cell.draw.n_samples, "seq_len": cell.draw.seq_len}
    return facts


def _written(table: Table, folder: Path) -> dict[str, Any]:
    """The table's and the figure's files, and why there is no image if there is none."""
    paths = {kind: folder / f"table.{kind}" for kind in ("md", "csv", "json")}
    write_json(paths["json"], table.facts())
    _write(paths["md"], table.markdown().encode())
    _write(paths["csv"], table.csv().encode())
    files: dict[str, Any] = {"study": str(folder.absolute()), "table": str(paths["md"].absolute())}
    try:
        figure = study_curves(table)
    except ValueError as error:  # nothing could be pruned as it was asked for
        return files | {"no_figure": str(error)}
    files["figure"] = str((folder / "figure.html").absolute())
    _write(folder / "figure.html", figure.to_html(include_plotlyjs=True, full_html=True).encode())
    try:
        for kind in IMAGES:
            _write(folder / f"figure.{kind}", image(figure, kind, IMAGE_WIDTH))
    except GraphpruneError as error:
        return files | {"no_image": str(error)}
    return files | {"images": [str((folder / f"figure.{kind}").absolute()) for kind in IMAGES]}


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)

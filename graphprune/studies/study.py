"""A study as a TOML file: models x methods x calibrations x sparsities x seeds, and what they are judged on.

Everything that can be checked without a model is checked when the file is read. A value where a list may stand is a
list of one; several values of a method's option, or of the calibration, are so many methods, or calibrations.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_type_hints

from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.typed import choices, converted, fits, parts
from graphprune.evaluation.tasks import Task, check_limits, find_tasks, lm_eval
from graphprune.methods import Cut, Recipe
from graphprune.models.fetch import NAMED, TINY
from graphprune.models.model import DTYPES
from graphprune.solvers.joint import JointOptions

DENSE = "dense"
SparsityOf = Literal["prunable", "blocks"]


@dataclass(frozen=True)
class Several:
    """One value of a type, or a list of them."""

    of: Any


STUDY: Mapping[str, Any] = {
    "title": str, "models": Several(str), "methods": Several(str | dict), "sparsities": Several(float),
    "seeds": Several(int), "sparsity_of": SparsityOf, "dtype": str, "calibration": dict, "evaluation": dict,
}  # fmt: skip
CALIBRATION: Mapping[str, Any] = {"text": Several(str), "n_samples": Several(int), "seq_len": Several(int)}
EVALUATION: Mapping[str, Any] = {
    "text": Several(str), "seq_len": int, "max_windows": int, "tasks": Several(str), "tasks_dir": str, "limit": int,
    "batch_size": int,
}  # fmt: skip
CUT: Mapping[str, Any] = get_type_hints(Cut)
JOINT: Mapping[str, Any] = get_type_hints(JointOptions)
RECIPE: Mapping[str, Any] = {
    name: hint for name, hint in get_type_hints(Recipe).items() if name not in {"options", "cut", "joint"}
}
METHOD: Mapping[str, Any] = {
    "method": str, "name": str, "sparsities": Several(float), "options": dict,
    **{name: Several(hint) for name, hint in {**RECIPE, **CUT, **JOINT}.items()},
}  # fmt: skip
TYPES = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}
OPTION = "options."


@dataclass(frozen=True)
class Way:
    """A method with its options, and how much it removes."""

    label: str
    recipe: Recipe
    sparsities: tuple[float, ...]


@dataclass(frozen=True)
class Draw:
    """Which calibration windows are drawn, but for the seed."""

    text: Path | None = None
    n_samples: int = 32
    seq_len: int = 512


@dataclass(frozen=True)
class Judging:
    """What models are judged on.

    Attributes:
        texts: each of which gives a perplexity.
        seq_len: tokens a window.
        max_windows: of each text at most, spread evenly; None for all.
        tasks: questions, each task of which gives accuracies.
        limit: the first so many questions of every task; None for all.
        batch_size: choices a forward pass.
    """

    texts: tuple[Path, ...] = ()
    seq_len: int = 512
    max_windows: int | None = None
    tasks: tuple[Task, ...] = ()
    limit: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.texts and not self.tasks:
            raise InputError("there is nothing to judge by; give text, tasks, or both")
        if self.seq_len < 2 or (self.max_windows is not None and self.max_windows < 1):
            raise InputError(f"at least 1 window of 2 tokens is read, not {self.max_windows} of {self.seq_len}")
        stems = [path.stem for path in self.texts]
        if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
            raise InputError(f"two texts are called {twice!r}; their names tell the results apart")
        check_limits(self.limit, self.batch_size)


@dataclass(frozen=True)
class Cell:
    """One model of a study: pruned in one way, or dense.

    Attributes:
        model: as the study names it.
        method: what the way is called, or `dense`.
        recipe: how it is pruned; None for the dense model.
        sparsity: the fraction removed.
        seed: of the calibration windows.
        draw: which windows; None where nothing sees them.
    """

    model: str
    method: str
    recipe: Recipe | None = None
    sparsity: float = 0.0
    seed: int = 0
    draw: Draw | None = None

    @property
    def name(self) -> str:
        if self.recipe is None:
            return f"{self.model}, {self.method}"
        drawn = "" if self.draw is None else f", seed {self.seed}"
        return f"{self.model}, {self.method} at {self.sparsity:g}{drawn}"


@dataclass(frozen=True)
class Study:
    """Models x methods x calibrations x sparsities x seeds.

    Attributes:
        title: of the table and the figure.
        models: what `load_model` is asked for, by name.
        ways: the methods.
        seeds: of the calibration windows, and of random scores.
        draws: the calibrations.
        judging: what models are judged on.
        sparsity_of: what a sparsity is a fraction of: the parameters of the kinds that a method may remove (`prunable`,
            as in `graphprune prune`), or all linear parameters of the `blocks`, for every method alike.
        dtype: of the forward passes; None for the checkpoint's own.
    """

    title: str
    models: Mapping[str, str]
    ways: tuple[Way, ...]
    judging: Judging
    seeds: tuple[int, ...] = (0,)
    draws: tuple[Draw, ...] = field(default=(Draw(),))
    sparsity_of: SparsityOf = "prunable"
    dtype: str | None = None

    @classmethod
    def read(cls, path: Path, *, data: Path | None = None) -> "Study":
        """A study from its file.

        Args:
            path: a TOML file.
            data: the folder that its paths begin in; by default the file's own.

        Raises:
            InputError: the file isn't there or isn't TOML; a key is unknown or missing, a value of another type or out
                of range; or something that it names isn't there.
        """
        if data is not None and not data.is_dir():
            raise InputError(f"the folder {data} is not there")
        return _study(_table(path), path, data or path.parent)

    def cells(self) -> tuple[Cell, ...]:
        """All of them: model by model, the dense one first, and what shares a calibration behind each other."""
        return tuple(cell for model in self.models for cell in self._of_model(model))

    def _of_model(self, model: str) -> Iterator[Cell]:
        yield Cell(model, DENSE)
        for draw, seed, way in product(self.draws, self.seeds, self.ways):
            recipe = seeded(way.recipe, seed)
            seen = draw if recipe.sees_text else None
            yield from (Cell(model, way.label, recipe, sparsity, seed, seen) for sparsity in way.sparsities)


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """The recipe, random scores of which are drawn with a seed unless they have one of their own."""
    if recipe.scorer != "random" or "seed" in recipe.options:
        return recipe
    return Recipe(**{**vars(recipe), "options": {**recipe.options, "seed": seed}})


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the study {path} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    except OSError as error:
        raise InputError(f"the study {path} cannot be read: {error.strerror}") from error


def _study(table: dict[str, Any], path: Path, base: Path) -> Study:
    where = path.name
    found = _checked(table, STUDY, where)
    for key in ("models", "methods", "evaluation"):
        if key not in found:
            raise InputError(f"{where} has no {key}")
    dtype = found.get("dtype")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"{where}: dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    for seed in found.get("seeds", ()):
        if not 0 <= seed < 1 << 63:
            raise InputError(f"{where}: seeds are whole numbers from 0 to 2^63 - 1, not {seed}")
    _check_sparsities(found.get("sparsities", ()), where)
    draws = _draws(found.get("calibration", {}), f"{where}, [calibration]", base)
    judging = _judging(found["evaluation"], f"{where}, [evaluation]", base)
    ways = tuple(way for each in found["methods"] for way in _ways(each, found.get("sparsities"), where))
    labels = [way.label for way in ways]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"{where}: two methods are called {twice!r}; give them a name each")
    if blind := next((way for way in ways if way.recipe.sees_text and draws[0].text is None), None):
        raise InputError(f"{where}: the method {blind.label!r} needs calibration; give [calibration] a text")
    given = {name: found[name] for name in ("seeds", "sparsity_of", "dtype") if name in found}
    models = {name: _model(name, base) for name in found["models"]}
    return Study(found.get("title", path.stem), models, ways, judging, draws=draws, **given)


def _checked(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table, those of which there may be several as tuples.

    Raises:
        InputError: a key is unknown, or a value of another type.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where} has no key {key!r}; it has {', '.join(known)}")
        hint = known[key]
        if not isinstance(hint, Several):
            found[key] = _value(hint, value, key, where)
            continue
        values = value if isinstance(value, list) else [value]
        found[key] = tuple(_value(hint.of, each, key, where) for each in values)
        if not values:
            raise InputError(f"{where}: {key} is an empty list")
        if twice := next((each for at, each in enumerate(values) if each in values[:at]), None):
            raise InputError(f"{where}: {key} names {twice!r} twice")
    return found


def _value(hint: Any, value: Any, key: str, where: str) -> Any:
    if not fits(hint, value):
        of = choices(hint) or [TYPES[part] for part in parts(hint) if part in TYPES]
        raise InputError(f"{where}: {key} is {' or '.join(of)}, not {value!r}")
    return converted(hint, value)


def _check_sparsities(sparsities: Sequence[float], where: str) -> None:
    for sparsity in sparsities:
        if not 0 < sparsity < 1:
            raise InputError(f"{where}: sparsities are fractions removed, between 0 and 1, not {sparsity:g}")


def _draws(table: dict[str, Any], where: str, base: Path) -> tuple[Draw, ...]:
    found = _checked(table, CALIBRATION, where)
    texts = tuple(_text(name, base, where) for name in found.get("text", ())) or (None,)
    sizes = found.get("n_samples", (Draw.n_samples,)), found.get("seq_len", (Draw.seq_len,))
    for n_samples, seq_len in product(*sizes):
        if n_samples < 1 or seq_len < 2:
            raise InputError(f"{where}: calibration needs at least 1 sample of 2 tokens, not {n_samples} of {seq_len}")
    return tuple(Draw(*each) for each in product(texts, *sizes))


def _judging(table: dict[str, Any], where: str, base: Path) -> Judging:
    found = _checked(table, EVALUATION, where)
    if "tasks" not in found and (extra := next((key for key in ("tasks_dir", "limit") if key in found), None)):
        raise InputError(f"{where}: {extra} says more of tasks; give tasks")
    sizes = {name: found[name] for name in ("seq_len", "max_windows", "limit", "batch_size") if name in found}
    with _within(where):
        texts = tuple(_text(name, base, where) for name in found.get("text", ()))
        tasks = _tasks(found["tasks"], found.get("tasks_dir"), base) if "tasks" in found else ()
        return Judging(texts, tasks=tasks, **sizes)


def _tasks(names: tuple[str, ...], folder: str | None, base: Path) -> tuple[Task, ...]:
    lm_eval()
    return find_tasks(names, None if folder is None else base / folder)


def _text(name: str, base: Path, where: str) -> Path:
    path = base / name
    if not path.is_file():
        raise InputError(f"{where}: the text {path} is not there")
    return path


def _model(name: str, base: Path) -> str:
    """A folder beside the study, or what `load_model` knows by that name."""
    folder = base / name
    return str(folder) if name not in {TINY, *NAMED} and folder.is_dir() else name


def _ways(given: str | dict[str, Any], sparsities: tuple[float, ...] | None, where: str) -> Iterator[Way]:
    """A method, once for every combination of its options' values."""
    table = {"method": given} if isinstance(given, str) else given
    name = table.get("name", table.get("method"))
    found = _checked(table, METHOD, f"{where}, method {name!r}" if isinstance(name, str) else f"{where}, a method")
    if "method" not in found:
        raise InputError(f"{where}: a method has no key method, which names it")
    where = f"{where}, method {name!r}"
    _check_sparsities(found.get("sparsities", ()), where)
    values = {key: found[key] for key in table if key not in {"method", "name", "sparsities", "options"}}
    options = {f"{OPTION}{key}": value for key, value in found.get("options", {}).items()}
    values |= {key: tuple(value) if isinstance(value, list) else (value,) for key, value in options.items()}
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        told = chosen if "name" not in found else {key: x for key, x in chosen.items() if len(values[key]) > 1}
        label = ", ".join([str(name), *(f"{key.removeprefix(OPTION)} {value}" for key, value in told.items())])
        with _within(where):
            recipe = _recipe(found["method"], chosen)
            way = Way(label, recipe, _sparsities(recipe, found.get("sparsities"), sparsities))
        yield way


def _recipe(method: str, chosen: Mapping[str, Any]) -> Recipe:
    cut = Cut(**{key: value for key, value in chosen.items() if key in CUT})
    joint = JointOptions(**{key: value for key, value in chosen.items() if key in JOINT})
    options = {key.removeprefix(OPTION): value for key, value in chosen.items() if key.startswith(OPTION)}
    others = {key: value for key, value in chosen.items() if key in RECIPE}
    return Recipe.of(method, options=options, cut=cut, joint=joint, **others)


def _sparsities(
    recipe: Recipe, own: tuple[float, ...] | None, shared: tuple[float, ...] | None
) -> tuple[float, ...]:  # fmt: skip
    """How much a method removes: its own, what its pattern says, or what all do."""
    if recipe.n_of_m is not None and own is None:
        found: tuple[float, ...] = (recipe.sparsity(None),)
    elif (found := own or shared or ()) == ():
        raise InputError("how much shall go? give sparsities, the fractions removed")
    for sparsity in found:
        recipe.check(recipe.sparsity(sparsity))
    return found


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Says of errors where in the file they come from."""
    try:
        yield
    except GraphpruneError as error:
        if str(error).startswith(where):
            raise
        raise type(error)(f"{where}: {error}") from error

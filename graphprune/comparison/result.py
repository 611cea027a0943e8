"""What a comparison found, as data and as a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, leaves_list

from graphprune.core.errors import FormatError
from graphprune.core.io import load_tensors, save_tensors, write_json

FORMAT, VERSION = "graphprune.comparison", 1
OVERALL = "overall"
Statistic = Literal["spearman", "kendall", "rbo", "jaccard"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
CORRELATIONS = ("spearman", "kendall")
LOW, HIGH, STABILITY = "low", "high", "stability"

Table = list[list[float | None]]


@dataclass(frozen=True)
class Contender:
    """A scorer that is compared.

    Attributes:
        label: what it is called here.
        method: the scorer's name.
        options: its options, those that change from seed to seed left out.
        inputs: the hash of what each of its score files depends on; one a calibration seed.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ("",)

    @property
    def n_seeds(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Scope:
    """The units that a statistic is about.

    Attributes:
        name: `overall`, a kind (`neuron`), or a unit group (`neuron.3`).
        groups: the unit groups in it.
        units: how many units these have together.
        constant: labels of the contenders that score all of them alike, so that no correlation is defined.
    """

    name: str
    groups: tuple[str, ...]
    units: int
    constant: tuple[str, ...] = ()

    @property
    def kind(self) -> str | None:
        """The kind of all units, if it is one."""
        kinds = {group.split(".")[0] for group in self.groups}
        return kinds.pop() if len(kinds) == 1 else None

    def why_undefined(self, *labels: str) -> str | None:
        """Why there is no correlation of these contenders here, in words; None if there is one."""
        if self.units < 2:
            return f"{self.name} has one unit, which has no order"
        flat = next((label for label in labels if label in self.constant), None)
        return None if flat is None else f"{flat} scores all units of {self.name} alike"


@dataclass(frozen=True)
class Agreed:
    """How much two contenders agree by one statistic.

    Attributes:
        value: the mean over pairs of their seeds; None where it isn't defined.
        low, high: a bootstrap interval over calibration seeds; None where one of them has a single seed.
        why: in words, why there is no value, or no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """Agreement of several scorers on the same units of one model.

    Attributes:
        contenders: who is compared.
        scopes: overall, per kind, and per unit group.
        budgets: fractions of the units that go, for the Jaccard index.
        tensors: `spearman`, `kendall` and `rbo`, one entry a scope and a pair of contenders, `jaccard` with one more a
            budget; `NAME.low` and `NAME.high` bound the bootstrap intervals, `NAME.stability` is the agreement of a
            contender with itself from seed to seed. Entries that aren't defined are 0 and not to be read; `agreed`,
            `matrix` and `stability` know which.
        merges: SciPy's linkage of the contenders in ``clustered`` by 1 - Spearman overall.
        clustered: their positions; those without a correlation are left out.
        settings: `p` (None: by the number of units), `end`, `level`, `resamples`, `seed`; `statistics`, where it isn't
            all of them.
        model: hash of the checkpoint that was scored.
        inputs: hash of everything the comparison depends on.
        notes: what a reader must know, in sentences.
    """

    contenders: tuple[Contender, ...]
    scopes: tuple[Scope, ...]
    budgets: tuple[float, ...]
    tensors: Mapping[str, Float[torch.Tensor, "..."]]
    merges: tuple[tuple[float, float, float, float], ...]
    clustered: tuple[int, ...]
    settings: Mapping[str, Any]
    model: str = ""
    inputs: str = ""
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(contender.label for contender in self.contenders)

    def scope(self, name: str) -> Scope:
        """A scope by name.

        Raises:
            ValueError: there is none of this name.
        """
        return self.scopes[self._scope_at(name)]

    def _scope_at(self, name: str) -> int:
        names = [scope.name for scope in self.scopes]
        if name not in names:
            raise ValueError(f"nothing was compared on {name!r}; there are {', '.join(names[:6])} …")
        return names.index(name)

    def _at(self, label: str) -> int:
        if label not in self.labels:
            raise ValueError(f"{label!r} was not compared; there are {', '.join(self.labels)}")
        return self.labels.index(label)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Those that were worked out."""
        return tuple(name for name in STATISTICS if name in self.settings.get("statistics", STATISTICS))

    def _check_known(self, statistic: Statistic) -> None:
        if statistic not in self.statistics:
            raise ValueError(f"{statistic} was not worked out; there are {', '.join(self.statistics)}")

    def _budget_at(self, statistic: str, budget: float | None) -> int | None:
        if statistic != "jaccard":
            return None
        if budget is None or not any(abs(budget - b) < 1e-9 for b in self.budgets):
            raise ValueError(f"the overlap was taken at the budgets {', '.join(map(str, self.budgets))}, not {budget}")
        return min(range(len(self.budgets)), key=lambda i: abs(self.budgets[i] - budget))

    def agreed(
        self, a: str, b: str, statistic: Statistic = "spearman", scope: str = OVERALL, *, budget: float | None = None
    ) -> Agreed:
        """How much two contenders agree.

        Args:
            a: a label.
            b: another.
            statistic: `spearman`, `kendall`, `rbo` or `jaccard`.
            scope: `overall`, a kind, or a unit group.
            budget: of `jaccard`.

        Raises:
            ValueError: there is no such contender, scope or budget, or the statistic was not worked out.
        """
        self._check_known(statistic)
        where, at = self.scope(scope), self._budget_at(statistic, budget)
        why = where.why_undefined(a, b) if statistic in CORRELATIONS else None
        i, j = self._at(a), self._at(b)
        if why is not None:
            return Agreed(None, why=why)

        def number(name: str) -> float:
            entry = self.tensors[name][self._scope_at(scope), i, j]
            return float(entry if at is None else entry[at])

        value = number(statistic)
        if i == j:
            return Agreed(value)
        single = [label for label in (a, b) if self.contenders[self._at(label)].n_seeds < 2]
        if single or f"{statistic}.{LOW}" not in self.tensors:
            return Agreed(value, why=f"{' and '.join(single)}: one calibration seed, so no interval")
        return Agreed(value, number(f"{statistic}.{LOW}"), number(f"{statistic}.{HIGH}"))

    def matrix(self, statistic: Statistic = "spearman", scope: str = OVERALL, *, budget: float | None = None) -> Table:
        """The agreement of all pairs, in the order of the labels; None where it isn't defined."""
        labels = self.labels
        return [[self.agreed(a, b, statistic, scope, budget=budget).value for b in labels] for a in labels]

    def stability(
        self, label: str, statistic: Statistic = "spearman", scope: str = OVERALL, *, budget: float | None = None
    ) -> Agreed:
        """The agreement of a contender with itself, averaged over pairs of its calibration seeds."""
        self._check_known(statistic)
        i, where, at = self._at(label), self.scope(scope), self._budget_at(statistic, budget)
        if self.contenders[i].n_seeds < 2:
            return Agreed(None, why=f"{label}: one calibration seed")
        if statistic in CORRELATIONS and (why := where.why_undefined(label)) is not None:
            return Agreed(None, why=why)
        entry = self.tensors[f"{statistic}.{STABILITY}"][self._scope_at(scope), i]
        return Agreed(float(entry if at is None else entry[at]))

    def clusters(self, distance: float = 0.3) -> tuple[tuple[str, ...], ...]:
        """Contenders that belong together: merged by average linkage below this distance (1 - Spearman overall).

        Contenders without a correlation are alone. The largest cluster comes first.
        """
        found: dict[int, list[str]] = {}
        names = fcluster(list(map(list, self.merges)), distance, criterion="distance") if self.merges else [1]
        for i, name in zip(self.clustered, names, strict=len(self.merges) > 0):
            found.setdefault(int(name), []).append(self.labels[i])
        alone = [(label,) for i, label in enumerate(self.labels) if i not in self.clustered]
        return (*sorted(map(tuple, found.values()), key=lambda each: (-len(each), each)), *alone)

    @property
    def order(self) -> tuple[int, ...]:
        """The positions of the contenders, similar ones beside each other; those without a correlation come last."""
        last = tuple(i for i in range(len(self.contenders)) if i not in self.clustered)
        if len(self.clustered) < 3:
            return self.clustered + last
        return tuple(self.clustered[i] for i in leaves_list(list(map(list, self.merges)))) + last

    def save(self, path: Path) -> None:
        """Writes ``path`` (safetensors, with all facts as metadata) and, for people, a JSON of the same name."""
        facts = asdict(replace(self, tensors={}))
        facts.pop("tensors")
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        save_tensors(path, self.tensors, {"format": FORMAT, "version": str(VERSION), **metadata})
        scopes = [scope.name for scope in self.scopes if "." not in scope.name]
        correlations: dict[str, dict[str, Table]]
        correlations = {
            name: {scope: self.matrix(name, scope) for scope in scopes} for name in self.statistics if name != "jaccard"
        }
        write_json(path.with_suffix(".json"), {"format": FORMAT, "version": VERSION, **facts, **correlations})

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """Reads a comparison.

        Raises:
            InputError: there is no such file.
            FormatError: it is something else, of a newer version, or damaged.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT:
            raise FormatError(f"{path} is no {FORMAT} file")
        version = metadata.get("version", "")
        if not version.isdigit() or int(version) > VERSION:
            raise FormatError(f"{path} has format version {version}; this program reads up to {VERSION}")
        try:
            facts = {name: json.loads(value) for name, value in metadata.items() if name not in {"format", "version"}}
            contenders = tuple(Contender(**row | {"inputs": tuple(row["inputs"])}) for row in facts.pop("contenders"))
            scopes = tuple(
                Scope(row["name"], tuple(row["groups"]), row["units"], tuple(row["constant"]))
                for row in facts.pop("scopes")
            )
            merges = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in facts.pop("merges"))
            budgets, clustered, notes = (tuple(facts.pop(name)) for name in ("budgets", "clustered", "notes"))
            settings = {name: facts[name] for name in ("settings", "model", "inputs")}
            comparison = cls(contenders, scopes, budgets, tensors, merges, clustered, notes=notes, **settings)
            comparison._check(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path} has damaged metadata: {error}") from error
        return comparison

    def _check(self, path: Path) -> None:
        """Checks that the tensors are all there, finite, and of the sizes that the facts say."""
        pairs = (len(self.scopes), len(self.contenders), len(self.contenders))
        for statistic in self.statistics:
            per = (len(self.budgets),) if statistic == "jaccard" else ()
            wanted: dict[str, tuple[int, ...]] = {statistic: (*pairs, *per)}
            if f"{statistic}.{STABILITY}" in self.tensors:
                wanted |= {f"{statistic}.{end}": (*pairs, *per) for end in (LOW, HIGH)}
                wanted[f"{statistic}.{STABILITY}"] = (*pairs[:2], *per)
            for name, shape in wanted.items():
                if name not in self.tensors or tuple(self.tensors[name].shape) != shape:
                    raise FormatError(f"{path}: {name} is missing or of another size")
                if not bool(torch.isfinite(self.tensors[name]).all()):
                    raise FormatError(f"{path}: {name} has a value that is NaN or infinite")

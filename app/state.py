"""What the page shows, all of it: the query of its address. A copied link shows the same page."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from graphprune.allocation import ALLOCATIONS
from graphprune.core.errors import InputError
from graphprune.methods import COMPENSATIONS

VIEWS = ("overview", "graph", "compare", "prune", "runs")
LONGEST = 4000  # characters of an address that every browser and proxy takes


@dataclass(frozen=True)
class State:
    """One field a control; a field that has its default isn't in the address.

    Attributes:
        view: which page.
        score: the score file that colours and decides; the first of the run if empty.
        against: the one it is compared with.
        mask: the mask that is shown; none if empty.
        beside: the mask it is shown beside.
        unit: what is selected: a group such as `neuron.3`, or a unit such as `neuron.3.17`.
        kind: of the units that are compared.
        within: whether a unit's place is among those of its block (`group`) or of its kind.
        sparsity: the fraction that the pruning page removes.
        allocation: how much goes from which block.
        compensation: how what stays makes up for it.
        units: what may go.
        heads: whether heads go as whole key/value groups, or one of every group.
        share: of the credit that the shown edges hold.
        n: how many neighbours, units or rows.
        find: what units are looked for: ``neuron block:3 score:>0.9``.
        edit: units that are kept or removed by hand: ``-neuron.3.17,+head.0.1``.
        edited: a mask of the run that was changed by hand, and is shown instead of the plan.
        theme: light or dark.
    """

    view: str = "overview"
    score: str = ""
    against: str = ""
    mask: str = ""
    beside: str = ""
    unit: str = ""
    kind: str = "all"
    within: str = "group"
    sparsity: float = 0.2
    allocation: str = "uniform"
    compensation: str = "none"
    units: str = "all"
    heads: str = "group"
    share: float = 0.9
    n: int = 12
    find: str = ""
    edit: str = ""
    edited: str = ""
    theme: str = "light"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"this link's {name} is {getattr(self, name)!r}; it is one of {', '.join(allowed)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"this link's {name} is {getattr(self, name):g}; it lies between {low:g} and {high:g}")

    @classmethod
    def parse(cls, query: str | None) -> "State":
        """The state in the query of an address.

        Raises:
            InputError: a field has a value that it can't have.
        """
        return cls().given(dict(parse_qsl((query or "").lstrip("?"))))

    def given(self, values: Mapping[str, Any]) -> "State":
        """The state with some fields replaced by what a control or a link says; what is no field is left out.

        Raises:
            InputError: a field has a value that it can't have.
        """
        known: dict[str, Any] = {}
        for each in fields(self):
            if each.name in values:
                known[each.name] = _read(each.name, type(each.default), values[each.name])
        return replace(self, **known)

    def query(self) -> str:
        """The state as the query of an address, such as ``?view=graph&unit=neuron.3.17``."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        told = {name: value for name, value in known.items() if value != getattr(State, name)}
        return f"?{urlencode(told)}" if told else ""


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "view": VIEWS,
    "kind": ("all", "neuron", "head", "resid"),
    "within": ("group", "kind"),
    "allocation": tuple(ALLOCATIONS),
    "compensation": COMPENSATIONS,
    "units": ("all", "neuron", "head"),
    "heads": ("group", "balanced"),
    "theme": ("light", "dark"),
}
_RANGES = {"sparsity": (0.0, 1.0), "share": (0.0, 1.0), "n": (1, 200)}


def _read(name: str, kind: type, value: Any) -> Any:
    if len(str(value)) > LONGEST:
        raise InputError(f"this link's {name} is longer than {LONGEST} characters")
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"this link's {name} is {value!r}, no number") from error

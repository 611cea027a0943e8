"""The units that two scorers judge most differently, and what the graph says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata

from graphprune.centrality.leiden import leiden
from graphprune.centrality.path_mass import path_mass
from graphprune.centrality.result import CentralityResult
from graphprune.centrality.strength import in_strength, out_strength
from graphprune.centrality.units import per_unit
from graphprune.comparison.agreement import lined_up
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.scores import Scores

BACKBONE = 8
ROUNDS = 2  # of Leiden's refinement; until nothing improves takes twenty times as long
Within = Literal["group", "kind"]


@dataclass(frozen=True)
class UnitFacts:
    """What a graph says of every unit, by unit group.

    Attributes:
        in_strength, out_strength: the sums of the weights that reach and that leave a unit's output channels.
        path_mass: the share of all weighted input-to-output paths that run through these.
        community: the number of the Leiden community that it is in; the largest is 0.
    """

    in_strength: Mapping[str, torch.Tensor]
    out_strength: Mapping[str, torch.Tensor]
    path_mass: Mapping[str, torch.Tensor]
    community: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, graph: ModelGraph, *, backbone: int = BACKBONE, seed: int = 0) -> "UnitFacts":
        """The facts of a model's graph at channel or unit level.

        Args:
            graph: with non-negative weights.
            backbone: communities are those of each node's so many strongest incoming edges: all edges together are
                nearly complete between layers, and too many for igraph.
            seed: of the communities.

        Raises:
            InputError: the graph is from outside or of whole modules, or its weights are signed.
        """
        if graph.order is not None or graph.level == "block":
            raise InputError("a graph from outside, or of whole modules, says nothing of heads and neurons")
        if graph.weight == "signed":
            raise InputError("path mass and communities need weights without a sign; export another graph")
        strongest, _ = graph.sparsify(top_k=backbone)
        members = leiden(strongest, n_iterations=ROUNDS, seed=seed).membership.to(torch.float32)
        community = CentralityResult(members, "community", "both", "a label", "", aggregate="mean")
        measures = (in_strength(graph), out_strength(graph), path_mass(graph), community)
        return cls(*(per_unit(graph, measure) for measure in measures))

    def at(self, group: str, unit: int) -> dict[str, float | int]:
        """All of one unit."""
        return {
            "in_strength": float(self.in_strength[group][unit]),
            "out_strength": float(self.out_strength[group][unit]),
            "path_mass": float(self.path_mass[group][unit]),
            "community": round(float(self.community[group][unit])),
        }


@dataclass(frozen=True)
class Disagreement:
    """A unit that two scorers judge differently.

    Attributes:
        unit: `neuron.3.17`.
        group: `neuron.3`.
        position: 17.
        a, b: its place in either ranking, from 0 (goes first) to 1 (stays longest).
        facts: what the graph says of it; empty without a graph.
    """

    unit: str
    group: str
    position: int
    a: float
    b: float
    facts: Mapping[str, float | int]

    @property
    def difference(self) -> float:
        return self.a - self.b

    def row(self) -> dict[str, Any]:
        """As a line of a table."""
        return {"unit": self.unit, "a": self.a, "b": self.b, "difference": self.difference, **self.facts}


@dataclass(frozen=True)
class Places:
    """Where two scorers rank the same units.

    Attributes:
        groups: the unit groups.
        sizes: how many units each has.
        a, b: the place of every unit in either ranking, from 0 (goes first) to 1 (stays longest), ties averaged.
    """

    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    a: Float[np.ndarray, " units"]
    b: Float[np.ndarray, " units"]

    @property
    def difference(self) -> Float[np.ndarray, " units"]:
        """How much higher the first scorer ranks a unit than the second."""
        return np.asarray(self.a - self.b)

    def order(self) -> Int[np.ndarray, " units"]:
        """The units whose places lie furthest apart, furthest first; ties in order of the units."""
        return np.argsort(-np.abs(self.difference), kind="stable")

    def units(self) -> list[tuple[str, int]]:
        """The group of every unit, and its position in there."""
        return [(name, i) for name, size in zip(self.groups, self.sizes, strict=True) for i in range(size)]


def placed(a: Scores, b: Scores, *, within: Within = "group", kinds: Sequence[str] | None = None) -> Places:
    """Where two scorers rank every unit that both score; see `disagreements`.

    Raises:
        InputError: the scores are of different models or units.
    """
    groups = lined_up({"the first": [a], "the second": [b]}, kinds)
    sizes = tuple(len(a.values[name]) for name in groups)
    return Places(groups, sizes, _places(a, groups, within), _places(b, groups, within))


def disagreements(
    a: Scores,
    b: Scores,
    *,
    top: int = 20,
    within: Within = "group",
    kinds: Sequence[str] | None = None,
    facts: UnitFacts | None = None,
) -> tuple[Disagreement, ...]:
    """The units whose places in two rankings lie furthest apart, furthest first; ties in order of the units.

    Args:
        a: scores of one scorer.
        b: of another.
        top: how many units, at most.
        within: places are among the units of a `group` (of one kind and block), which compares scores that don't
            compare between blocks, or of a `kind`.
        kinds: of units; heads and neurons that both have, if not given.
        facts: what a graph says of the units.

    Raises:
        InputError: the scores are of different models or units, or ``top`` is less than 1.
    """
    if top < 1:
        raise InputError(f"at least 1 unit is asked for, not {top}")
    places = placed(a, b, within=within, kinds=kinds)
    units, found = places.units(), []
    for i in places.order()[:top]:
        group, position = units[i]
        said = {} if facts is None else facts.at(group, position)
        found.append(Disagreement(f"{group}.{position}", group, position, float(places.a[i]), float(places.b[i]), said))
    return tuple(found)


def _places(scores: Scores, groups: tuple[str, ...], within: Within) -> Float[np.ndarray, " units"]:
    """Every unit's place, from 0 to 1, ties averaged."""
    parts: dict[str, list[str]] = {}
    for name in groups:
        parts.setdefault(name if within == "group" else name.split(".")[0], []).append(name)
    found: dict[str, np.ndarray] = {}
    for names in parts.values():
        values = np.concatenate([scores.values[name].double().numpy() for name in names])
        place = (rankdata(values) - 1) / max(len(values) - 1, 1)
        ends = np.cumsum([len(scores.values[name]) for name in names])[:-1]
        found |= dict(zip(names, np.split(place, ends), strict=True))
    return np.concatenate([found[name] for name in groups])

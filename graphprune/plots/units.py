"""What measures say about the units of a graph, in an order and under names that figures share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from graphprune.centrality.result import CentralityResult
from graphprune.centrality.units import per_unit
from graphprune.core.graph import ModelGraph
from graphprune.core.scores import Scores
from graphprune.plots.style import COLOURS

Measure = CentralityResult | Scores
_NAMES = {"pagerank": "PageRank", "katz": "Katz", "hits": "HITS"}


@dataclass(frozen=True)
class Group:
    """The units of one kind and layer that a mask has left, and what a measure says about them.

    Attributes:
        name: `neuron.3`, or `block.3.attn`.
        kind, layer: likewise; for the residual stream, the layer is the position in the stream.
        names: of the units: `neuron.3.17`.
        values: one score a unit.
        stderr: its standard error, where scores were sampled. For a head, the sum (or mean) of its channels' errors: an
            upper bound.
    """

    name: str
    kind: str
    layer: int
    names: tuple[str, ...]
    values: Float[np.ndarray, " units"]
    stderr: Float[np.ndarray, " units"] | None

    @property
    def block(self) -> float:
        """How deep it lies; the stream has a position before every block and one within it."""
        return self.layer / 2 if self.kind == "resid" else float(self.layer)


def groups_of(graph: ModelGraph, measure: Measure, kinds: Sequence[str] | None = None) -> dict[str, Group]:
    """The groups of some kinds (of all, if none are given), in order of depth.

    Raises:
        ValueError: there are no units, or none of a kind; the scores have several columns, or are of another graph.
    """
    values = _by_group(graph, measure)
    errors: dict[str, torch.Tensor] = {}
    if isinstance(measure, CentralityResult) and measure.stderr is not None:
        errors = _by_group(graph, replace(measure, scores=measure.stderr))
    present = _present(graph)
    groups = {}
    for name, scores in values.items():
        if name not in present or len(present[name]) != len(scores):
            raise ValueError(
                f"the scores of {label_of(measure)!r} don't fit the graph: it has no {len(scores):,} {name}"
            )
        there = present[name].nonzero()[:, 0]
        stderr = errors[name][there].double().numpy() if errors else None
        names = _unit_names(graph, name, there.numpy())
        groups[name] = Group(name, *_kind_and_layer(name), names, scores[there].double().numpy(), stderr)
    return _of_kinds(groups, kinds, label_of(measure))


def shared(several: Sequence[dict[str, Group]]) -> list[list[Group]]:
    """Of several measures, the groups that all of them have, in the same order.

    Raises:
        ValueError: there are none.
    """
    names = [name for name in several[0] if all(name in each for each in several)]
    if not names:
        raise ValueError("the measures have no units in common")
    return [[each[name] for name in names] for each in several]


def label_of(measure: Measure, *, direction: bool = False) -> str:
    """What a figure calls a measure."""
    name = measure.name if isinstance(measure, CentralityResult) else measure.method
    label = _NAMES.get(name, name.replace("_", " "))
    if not direction or isinstance(measure, Scores) or measure.direction == "both":
        return label
    return f"{label}, {measure.direction}"


def labelled(results: Mapping[str, Measure] | Sequence[Measure]) -> dict[str, Measure]:
    """Measures by label: the caller's, or their names, with directions where a name occurs twice.

    Raises:
        ValueError: there are none, or labels are the same.
    """
    if isinstance(results, Mapping):
        named = dict(results)
    else:
        plain = [label_of(measure) for measure in results]
        labels = [label_of(m, direction=plain.count(label) > 1) for m, label in zip(results, plain, strict=True)]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two measures are called {twice!r}; pass a mapping from labels to measures")
        named = dict(zip(labels, results, strict=True))
    if not named:
        raise ValueError("a figure needs at least one measure")
    return named


def unit_of(measure: Measure) -> str:
    """What a measure's scores are scaled to, for an axis title."""
    return measure.normalisation if isinstance(measure, CentralityResult) else "score"


def _by_group(graph: ModelGraph, measure: Measure) -> dict[str, torch.Tensor]:
    if isinstance(measure, Scores):
        identity = graph.model.get("identity")
        if graph.order is not None or (measure.model and identity and measure.model != identity):
            raise ValueError(f"the scores of {measure.method!r} belong to another model than the graph")
        return dict(measure.values)
    if measure.scores.ndim > 1:
        raise ValueError(f"{measure.name} has {measure.scores.shape[1]} columns of scores; a figure shows one of them")
    if len(measure.scores) != graph.n_nodes:
        raise ValueError(f"{measure.name} has {len(measure.scores):,} scores, the graph has {graph.n_nodes:,} nodes")
    if graph.order is not None:
        return {"node": measure.scores.cpu()}
    return per_unit(graph, measure)


def _present(graph: ModelGraph) -> dict[str, torch.Tensor]:
    """Which units of each group a mask has left."""
    left = CentralityResult(graph.in_caller_order(graph.indicator()), "present", "both", "1 if it stays", "counting")
    return {name: count > 0 for name, count in _by_group(graph, left).items()}


def _kind_and_layer(name: str) -> tuple[str, int]:
    if name == "node":
        return name, 0
    first, layer, *rest = name.split(".")
    return (rest[0] if rest else first), int(layer)


def _unit_names(graph: ModelGraph, group: str, positions: Int[np.ndarray, " units"]) -> tuple[str, ...]:
    if graph.labels is not None:
        return tuple(str(graph.labels[position]) for position in positions)
    return (group,) if graph.level == "block" else tuple(f"{group}.{position}" for position in positions)


def _of_kinds(groups: dict[str, Group], kinds: Sequence[str] | None, what: str) -> dict[str, Group]:
    groups = {name: group for name, group in groups.items() if len(group.values)}
    known = sorted({group.kind for group in groups.values()}, key=[*COLOURS].index)
    if not known:
        raise ValueError(f"{what} has no units to show")
    for kind in known if kinds is None else kinds:
        if kind not in known:
            raise ValueError(f"{what} has no scores of the kind {kind!r}; it has {', '.join(known)}")
    return {name: group for name, group in groups.items() if kinds is None or group.kind in kinds}

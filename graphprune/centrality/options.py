"""What the measures' options mean, and what is refused."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float

from graphprune.centrality.result import DIRECTIONS
from graphprune.core.graph import ModelGraph

Choice = torch.Tensor | Mapping[Any, float] | str | None
Weight = Literal["weight"] | None


def weighed(graph: ModelGraph, weight: Weight, measure: str, *, signed: bool = False) -> ModelGraph:
    """The graph with its weights, or with every edge counting the same.

    Raises:
        ValueError: the option is unknown, or weights are negative where the measure forbids it.
    """
    if weight not in {None, "weight"}:
        raise ValueError(f"weight must be 'weight' or None (every edge counts the same), not {weight!r}")
    if weight is None:
        return graph.unweighted()
    if not signed:
        refuse_negative(graph, measure)
    return graph


def refuse_negative(graph: ModelGraph, measure: str) -> None:
    if graph.weight == "signed":
        raise ValueError(
            f"{measure} needs non-negative weights; export the graph with magnitude or activation weights, or pass |W|"
        )


def ways(direction: str, *, both: bool = True) -> tuple[bool, ...]:
    """Whether to go against the edges: once, or both ways.

    Raises:
        ValueError: the direction is unknown.
    """
    known = DIRECTIONS if both else DIRECTIONS[:2]
    if direction not in known:
        raise ValueError(f"direction must be one of {known}, not {direction!r}")
    return {"forward": (False,), "backward": (True,), "both": (False, True)}[direction]


def chosen(graph: ModelGraph, choice: Choice, name: str) -> Float[torch.Tensor, " n_nodes *k"]:
    """A choice of nodes as non-negative weights in topological order; removed nodes have none.

    ``choice`` is None or `uniform` (all nodes), `inputs` (no weight reaches them), `outputs` (no weight leaves them), a
    vector or matrix in the caller's order, or a mapping from node labels (missing nodes count as zero).

    Raises:
        ValueError: it is unknown, negative, not finite, or a column is all zero.
    """
    present = graph.indicator()
    if isinstance(choice, str) or choice is None:
        if choice not in {None, "uniform", "inputs", "outputs"}:
            raise ValueError(f"{name} must be uniform, inputs, outputs, a vector or a mapping, not {choice!r}")
        if choice in {None, "uniform"}:
            return present
        strength = graph.in_strength if choice == "inputs" else graph.out_strength
        return present * (strength == 0)
    if isinstance(choice, Mapping):
        labels = graph.labels if graph.labels is not None else range(graph.n_nodes)
        unknown = choice.keys() - set(labels)
        if unknown:
            raise ValueError(f"{name} names a node that isn't in the graph: {next(iter(unknown))!r}")
        choice = torch.tensor([float(choice.get(label, 0.0)) for label in labels], dtype=torch.float64)
    if choice.ndim not in {1, 2} or len(choice) != graph.n_nodes:
        raise ValueError(f"{name} has shape {tuple(choice.shape)}, the graph has {graph.n_nodes} nodes")
    values = graph.in_topological_order(choice.to(dtype=graph.dtype, device=graph.device))
    values = values * (present if values.ndim == 1 else present[:, None])
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or bool((values.sum(dim=0) <= 0).any()):
        raise ValueError(f"{name} must be finite, non-negative and not all zero")
    return values


def spread(graph: ModelGraph, choice: Choice, name: str) -> Float[torch.Tensor, " n_nodes *k"]:
    """A choice of nodes as shares that sum to 1 (each column)."""
    values = chosen(graph, choice, name)
    total = values.sum(dim=0)
    if bool((total <= 0).any()):
        raise ValueError(f"{name} must be finite, non-negative and not all zero")
    return values / total

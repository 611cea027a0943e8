"""Path mass: which share of all weighted paths from the inputs to the outputs runs through a node or an edge.

Math: the weight of a path is the product of its edges' weights. With ``F = A^T (s + F)`` (paths from the sources) and
``B = A (t + B)`` (paths to the targets), what runs through v is ``s_v B_v + F_v t_v + F_v B_v``, through an edge
``(s_u + F_u) w_uv (t_v + B_v)``: paths have at least one edge. Both sweeps are in the log domain.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from graphprune.centrality.log_domain import solve_log
from graphprune.centrality.options import Choice, Weight, chosen, weighed
from graphprune.centrality.result import CentralityResult, EdgeCentralityResult
from graphprune.core.graph import ModelGraph

Vector = Float[torch.Tensor, " n_nodes"]


@dataclass(frozen=True)
class _Paths:
    """Logs of the weights of paths, in float64 and topological order.

    Attributes:
        source, target: where paths start and end.
        arrived: of the paths of at least one edge from the sources to each node.
        onward: of those from each node to the targets.
        total: of all paths from the sources to the targets.
        check: relative gap between that total counted at the targets and counted at the sources.
    """

    source: Vector
    target: Vector
    arrived: Vector
    onward: Vector
    total: float
    check: float


def path_mass(
    graph: ModelGraph, sources: Choice = "inputs", targets: Choice = "outputs", *, weight: Weight = "weight"
) -> CentralityResult:
    """The share of all weighted paths from the sources to the targets that runs through each node.

    Args:
        graph: a graph with non-negative weights.
        sources: where paths start: `inputs` (nodes no weight reaches), `outputs`, `uniform`, a vector or a mapping.
        targets: where they end, likewise.
        weight: `weight`, or None to count paths.

    Normalisation: shares of the total, so the nodes of any cut that every path crosses once sum to 1. Zero everywhere
    in a graph without paths.

    Cost: two passes over the edges.

    Raises:
        ValueError: weights are negative, or no path leads from the sources to the targets that were named.

    >>> import networkx as nx
    >>> diamond = nx.DiGraph()
    >>> diamond.add_weighted_edges_from([("in", "a", 3.0), ("in", "b", 1.0), ("a", "out", 1.0), ("b", "out", 1.0)])
    >>> [round(x, 4) for x in path_mass(ModelGraph.from_networkx(diamond)).scores.tolist()]
    [1.0, 0.75, 0.25, 1.0]
    """
    graph = weighed(graph, weight, "path mass")
    paths = _paths(graph, sources, targets)
    ways = (paths.source + paths.onward, paths.arrived + paths.target, paths.arrived + paths.onward)
    logs = torch.stack(ways).logsumexp(dim=0) - paths.total
    scores = graph.in_caller_order(logs.exp().to(graph.dtype))
    return CentralityResult(
        scores, "path_mass", "both", "share of all paths", "two triangular sweeps in the log domain",
        check=lambda: paths.check,
    )  # fmt: skip


def total_path_mass(graph: ModelGraph, sources: Choice = "inputs", targets: Choice = "outputs") -> float:
    """The log of the weight of all paths of at least one edge from the sources to the targets.

    Minus infinity where there is no path.

    Cost: one pass over the edges.

    Raises:
        ValueError: weights are negative.
    """
    graph = weighed(graph, "weight", "path mass")
    source, target = (chosen(graph, which, name) for which, name in ((sources, "sources"), (targets, "targets")))
    arrived = solve_log(graph, source.double().log(), arrivals=True)
    return float((arrived + target.double().log()).logsumexp(dim=0)) if len(source) else -float("inf")


def edge_path_mass(
    graph: ModelGraph, sources: Choice = "inputs", targets: Choice = "outputs", *, weight: Weight = "weight"
) -> EdgeCentralityResult:
    """The share of all weighted paths from the sources to the targets that runs through each edge; see `path_mass`.

    Cost: three passes over the edges, and the memory of one more value an edge.
    """
    graph = weighed(graph, weight, "path mass")
    paths = _paths(graph, sources, targets)
    forward = torch.logaddexp(paths.source, paths.arrived) - paths.total
    backward = torch.logaddexp(paths.target, paths.onward)
    blocks = []
    for edges in graph.blocks:
        block = edges.load()
        before, after = forward[slice(*block.src)], backward[slice(*block.dst)]
        if block.is_full:
            logs = block.matrix.double().log().add_(before).add_(after[:, None]).view(-1)
        else:
            logs = block.values.double().log() + before[block.col] + after[block.rows()]
        blocks.append(replace(block, values=logs.exp().to(block.dtype)))
    scored = replace(graph, blocks=tuple(blocks), strengths=None, weight="magnitude")
    return EdgeCentralityResult(
        scored, "edge_path_mass", "both", "share of all paths", "two triangular sweeps in the log domain",
        check=lambda: paths.check,
    )  # fmt: skip


def _paths(graph: ModelGraph, sources: Choice, targets: Choice) -> _Paths:
    source, target = (chosen(graph, which, name) for which, name in ((sources, "sources"), (targets, "targets")))
    if source.ndim > 1 or target.ndim > 1:
        raise ValueError("sources and targets are one vector each")
    source, target = source.double().log(), target.double().log()
    arrived = solve_log(graph, source, arrivals=True)
    onward = solve_log(graph, target, backward=True, arrivals=True)
    total = (arrived + target).logsumexp(dim=0) if len(source) else source.new_tensor(-torch.inf)
    if not bool(torch.isfinite(total)):
        if (sources, targets) != ("inputs", "outputs"):
            raise ValueError("no path leads from the sources to the targets")
        nowhere = torch.full_like(source, -torch.inf)
        return _Paths(source, target, nowhere, nowhere, 0.0, 0.0)
    begun = (source + onward).logsumexp(dim=0)
    return _Paths(source, target, arrived, onward, float(total), abs(float(torch.expm1(begun - total))))

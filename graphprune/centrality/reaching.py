"""Reaching centrality: which share of the outputs a node has a noticeable effect on.

Math: the effect of v on an output o is ``B_vo`` with ``B = 1_o + A B`` (the weight of all paths from v to o), or, so
that it is comparable between outputs and depths, with every node's incoming weights scaled to sum 1: then ``B_vo`` is
the share of o's credit that comes through v, the probability that a walk back from o passes it. A deep full network
mixes: nodes of one layer then have much the same effect on all outputs, each about one over the layer's width.
"""

import math
from typing import Literal

import torch

from graphprune.centrality.log_domain import solve_log
from graphprune.centrality.options import Choice, chosen, refuse_negative
from graphprune.centrality.result import CentralityResult
from graphprune.centrality.sampling import WORK, started
from graphprune.centrality.sweep import divided
from graphprune.core.graph import ModelGraph

LOG_STEPS = 40  # of a node and a target: its logs and levels; an edge is one
EDGES_A_STEP = 16  # in a full block


def reaching(
    graph: ModelGraph,
    threshold: float = 1e-3,
    targets: Choice | Literal["all"] = "outputs",
    *,
    normalized: bool = True,
) -> CentralityResult:
    """The share of the targets on which a node has an effect of at least ``threshold``.

    With ``threshold=0`` every path counts, however weak; with ``targets="all"`` this is then
    ``networkx.local_reaching_centrality`` (which does not count the node itself).

    Args:
        graph: a graph with non-negative weights.
        threshold: the smallest effect that counts, at least 0.
        targets: `outputs` (nodes no weight leaves), `inputs`, `all`, a vector (every node that isn't zero), a mapping.
        normalized: measure effects as shares of a target's credit, else as sums of products of weights.

    Normalisation: divided by the number of targets. A target reaches itself.

    Cost: one pass over the edges for all targets of a batch; sixteen take about as long as one. What would take much
    longer than a quarter of an hour is refused.

    Raises:
        ValueError: the threshold is negative, weights are, or there are too many targets.
    """
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"threshold must be at least 0 and finite, not {threshold}")
    refuse_negative(graph, "reaching centrality")
    goals = chosen(graph, None if isinstance(targets, str) and targets == "all" else targets, "targets")
    if goals.ndim > 1:
        raise ValueError("targets are one vector")
    nodes = (goals > 0).nonzero()[:, 0]
    if len(nodes) * _steps(graph) > WORK:
        raise ValueError(
            f"reaching {len(nodes):,} targets takes too many steps (at most {WORK:.0e}); choose fewer targets"
        )
    share = divided(1.0, graph.in_strength.double()).log() if normalized else None
    least = math.log(threshold) - 16 * torch.finfo(graph.dtype).eps if threshold else -math.inf
    counts = torch.zeros(graph.n_nodes, dtype=torch.float64, device=graph.device)
    for _, start in started(graph, nodes, "reaching", elsewhere=-torch.inf):
        effects = solve_log(graph, start, sender=share, backward=True)
        counts += ((effects >= least) & torch.isfinite(effects)).sum(dim=1)
    scores = graph.in_caller_order((counts / max(len(nodes), 1)).to(graph.dtype))
    solver = "triangular sweeps in the log domain"
    return CentralityResult(scores, "reaching", "backward", "share of the targets", solver, aggregate="mean")


def _steps(graph: ModelGraph) -> int:
    """What one target takes, in the steps of `WORK`: logs at every node, and few for the edges of a dense product."""
    edges = 0
    for block in graph.blocks:
        is_full = block.n_edges == block.shape[0] * block.shape[1]
        edges += block.n_edges // EDGES_A_STEP if is_full else block.n_edges
    return LOG_STEPS * graph.n_nodes + edges

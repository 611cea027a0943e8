"""One pass over the edges in topological order solves any unit triangular system on a DAG exactly."""

import torch
from jaxtyping import Float

from graphprune.core.graph import ModelGraph


def solve(
    graph: ModelGraph,
    rhs: Float[torch.Tensor, " n_nodes *k"],
    *,
    alpha: float,
    scale: Float[torch.Tensor, " n_nodes"] | None = None,
    backward: bool = False,
) -> Float[torch.Tensor, " n_nodes *k"]:
    """``x`` with ``x = rhs + alpha * (D A)^T x`` (or ``rhs + alpha * (D A^T)^T x`` backward), ``D = diag(scale)``.

    Nodes are in topological order. Every node is final before any edge leaves it, so this is substitution, not
    iteration: no tolerance, no residual but rounding.

    Args:
        graph: the graph.
        rhs: one or several right-hand sides.
        alpha: factor of every edge.
        scale: factor of what a node sends; 1 if not given.
        backward: go against the edges.

    Cost: every edge is read once; bound by memory bandwidth.
    """
    x = rhs.clone()
    factor = None if scale is None else (alpha * scale if x.ndim == 1 else alpha * scale[:, None])
    for block in graph.backward_blocks if backward else graph.forward_blocks:
        sender, receiver = (block.dst, block.src) if backward else (block.src, block.dst)
        sent = x[slice(*sender)] * (alpha if factor is None else factor[slice(*sender)])
        x[slice(*receiver)] += block.pull(sent) if backward else block.push(sent)
    return x

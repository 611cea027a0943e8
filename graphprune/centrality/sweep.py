"""One pass over the edges in topological order: on a DAG that is substitution, so it is exact.

Sums are here; sums in the log domain (`log_domain`) and shortest paths (`shortest_paths`) are the same sweep with
another step and another way to join what arrives.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float

from graphprune.core.block import EdgeBlock
from graphprune.core.graph import ModelGraph

Values = Float[torch.Tensor, " n_nodes *k"]
Step = Callable[[EdgeBlock, torch.Tensor], torch.Tensor]
Send = Callable[[torch.Tensor, int, int], torch.Tensor]


def sweep(
    graph: ModelGraph,
    x: Values,
    step: Step,
    join: Callable[..., torch.Tensor],
    *,
    send: Send | None = None,
    backward: bool = False,
    since: int | None = None,
) -> Values:
    """Carries ``x`` along the edges: at every node, ``join`` of what it holds and of what arrives.

    Every node is final before any edge leaves it, and every edge is used once. ``x`` is changed in place.

    Args:
        graph: the graph.
        x: what each node holds to begin with, in topological order.
        step: what arrives at a block's receivers, from what its senders send.
        join: of two tensors, with an ``out``: `torch.add`, `torch.logaddexp`, `torch.minimum`.
        send: what nodes ``first`` to ``last`` send once they are final; what they hold, if not given.
        backward: go against the edges.
        since: leave out the edges between nodes before this one.
    """
    sent = x if send is None else torch.empty_like(x)
    ready = graph.n_nodes if backward else 0
    for block in graph.backward_blocks if backward else graph.forward_blocks:
        if since is not None and block.src[1] <= since:
            continue
        senders, receivers = (block.dst, block.src) if backward else (block.src, block.dst)
        if send is not None:
            first, last = (receivers[1], ready) if backward else (ready, receivers[0])
            if first < last:
                sent[first:last] = send(x[first:last], first, last)
                ready = first if backward else last
        here = x[slice(*receivers)]
        join(here, step(block, sent[slice(*senders)]), out=here)
    return x


def solve(
    graph: ModelGraph,
    rhs: Values,
    *,
    sender: Float[torch.Tensor, " n_nodes"] | float = 1.0,
    receiver: Float[torch.Tensor, " n_nodes"] | None = None,
    backward: bool = False,
) -> Values:
    """``x`` with ``x = rhs + R A^T S x`` (``x = rhs + R A S x`` backward), ``S``, ``R`` diagonal.

    ``I - R A^T S`` is unit triangular in topological order: no tolerance, no residual but rounding.

    Args:
        graph: the graph.
        rhs: one or several right-hand sides.
        sender: factor of what each node sends, or one for all.
        receiver: factor of what each node receives; 1 if not given.
        backward: go against the edges.

    Cost: every weight is read once; bound by memory bandwidth. Sixteen right-hand sides take about as long as one.
    """
    x = rhs.clone()
    factor = sender if isinstance(sender, float) else _column(sender, x)
    gain = None if receiver is None else _column(receiver, x)

    def step(block: EdgeBlock, sent: torch.Tensor) -> torch.Tensor:
        arrived = block.pull(sent) if backward else block.push(sent)
        return arrived if gain is None else arrived * gain[slice(*(block.src if backward else block.dst))]

    def send(final: torch.Tensor, first: int, last: int) -> torch.Tensor:
        return final * (factor if isinstance(factor, float) else factor[first:last])

    identity = isinstance(factor, float) and factor == 1.0
    return sweep(graph, x, step, torch.add, send=None if identity else send, backward=backward)


def residual(
    graph: ModelGraph,
    x: Values,
    rhs: Values,
    *,
    sender: Float[torch.Tensor, " n_nodes"] | float = 1.0,
    receiver: Float[torch.Tensor, " n_nodes"] | None = None,
    backward: bool = False,
) -> float:
    """``sum |x - rhs - R A^T S x|`` of what `solve` solves, by a pass over the edges that uses no order."""
    arrived = across(graph, x * (sender if isinstance(sender, float) else _column(sender, x)), backward=backward)
    return float((x - rhs - (arrived if receiver is None else _column(receiver, x) * arrived)).abs().sum())


def across(graph: ModelGraph, x: Values, *, backward: bool = False) -> Values:
    """``A^T x`` (``A x`` backward): one step along every edge."""
    result = torch.zeros_like(x)
    for block in graph.blocks:
        if backward:
            result[slice(*block.src)] += block.pull(x[slice(*block.dst)])
        else:
            result[slice(*block.dst)] += block.push(x[slice(*block.src)])
    return result


def divided(numerator: Values | float, strength: Values) -> Values:
    """``numerator / strength``, 0 where the strength is 0."""
    return torch.where(strength == 0, 0.0, numerator / strength)


def _column(factor: Float[torch.Tensor, " n_nodes"], x: Values) -> torch.Tensor:
    return factor if x.ndim == 1 else factor[:, None]

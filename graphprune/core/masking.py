"""A graph without some of its nodes, as a view: no edge is copied, and nodes keep their numbers."""

from dataclasses import replace

import torch
from jaxtyping import Bool

from graphprune.core.block import EdgeBlock, MaskedBlock
from graphprune.core.coarsen import Quotient
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.mask import Mask


def masked(graph: ModelGraph, mask: Mask | Bool[torch.Tensor, " n_nodes"]) -> ModelGraph:
    """The graph without the nodes that don't stay and the edges at them.

    Every measure of it equals that of the graph rebuilt from what is left, and is zero at the removed nodes.

    Args:
        graph: any graph; masks add up.
        mask: a mask of units, for a model's graph at channel or unit level, or one bool a node in the caller's order
            (True = stays).

    Cost: one bool a node. Sweeps read every block as before: a mask saves no time until the model is pruned.

    Raises:
        InputError: the mask is of another shape, or of units where the graph has none.
    """
    if isinstance(mask, Mask):
        stays = _nodes_of(graph, mask).to(graph.device)
    else:
        if mask.dtype != torch.bool or mask.shape != (graph.n_nodes,):
            raise InputError(
                f"a mask is one bool for each of the {graph.n_nodes:,} nodes, not {tuple(mask.shape)} of {mask.dtype}"
            )
        stays = graph.in_topological_order(mask.to(graph.device)).clone()
    if graph.present is not None:
        stays = stays & graph.present
    blocks = tuple(_masked(block, stays) for block in graph.blocks)
    return replace(graph, blocks=blocks, present=stays, strengths=None)


def _masked(block: EdgeBlock, stays: torch.Tensor) -> EdgeBlock:
    keep_src, keep_dst = stays[slice(*block.src)], stays[slice(*block.dst)]
    return block if bool(keep_src.all()) and bool(keep_dst.all()) else MaskedBlock(block, keep_src, keep_dst)


def _nodes_of(graph: ModelGraph, mask: Mask) -> Bool[torch.Tensor, " n_nodes"]:
    """Which nodes of a model's graph stay with its units."""
    if graph.order is not None or graph.level == "block":
        what = "a graph from outside" if graph.order is not None else "a graph of whole modules"
        raise InputError(f"{what} has no heads and neurons to mask; give one bool a node")
    identity = graph.model.get("identity")
    if mask.model and identity and mask.model != identity:
        raise InputError("the mask belongs to another model than the graph")
    if mask.weights:
        raise InputError("the mask removes single weights: export the pruned checkpoint, whose graph has none of them")
    quotient = Quotient(graph.nodes, "unit")
    stays = torch.ones(quotient.nodes.n_nodes, dtype=torch.bool)
    for name, keep in mask.keep.items():
        kind, _, layer = name.partition(".")
        if name not in quotient.nodes or len(part := quotient.nodes.of(stays, kind, int(layer))) != len(keep):
            raise InputError(f"the mask's {name} ({len(keep)} units) is not in the graph")
        part.copy_(keep)
    return quotient.lifted(stays)

"""Node values as unit values: one tensor a unit group, for score files."""

import torch
from jaxtyping import Float

from graphprune.centrality.result import CentralityResult
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph


def per_unit(graph: ModelGraph, result: CentralityResult) -> dict[str, Float[torch.Tensor, " units"]]:
    """A centrality of a model's graph by unit: ``neuron.L``, ``head.L``, ``resid.K``.

    The channels of a head are joined as the result says: summed where scores add up, else averaged. At block level:
    ``block.L.attn``, ``block.L.mlp`` and ``resid.K``.

    Raises:
        InputError: the graph is from outside and has no units.
    """
    if graph.order is not None:
        raise InputError("a graph from outside has no units; its scores are by node")
    if graph.level == "block":
        names = {"attn": "block.{}.attn", "mlp": "block.{}.mlp"}
    else:
        names = {"head": "head.{}", "kv_head": "kv_head.{}", "attn": "head.{}"}
    values = {}
    for span in graph.nodes.spans:
        part = graph.nodes.of(result.scores, span.kind, span.layer)
        if span.kind == "attn" and graph.level == "channel":
            start, stop = graph.nodes.range("pattern", span.layer)
            channels = part.view(stop - start, -1)
            part = channels.sum(dim=1) if result.aggregate == "sum" else channels.mean(dim=1)
        if span.kind in {*names, "neuron", "resid"}:
            values[names.get(span.kind, f"{span.kind}.{{}}").format(span.layer)] = part.float().cpu().contiguous()
    return values

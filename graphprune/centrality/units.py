"""Node values as unit values: one tensor a unit group, for score files."""

import torch
from jaxtyping import Float

from graphprune.core.graph import ModelGraph


def per_unit(graph: ModelGraph, values: Float[torch.Tensor, " n_nodes"]) -> dict[str, Float[torch.Tensor, " units"]]:
    """A model's node values by unit: ``neuron.L``, ``head.L`` (summed over its output channels), ``resid.K``.

    At block level: ``block.L.attn``, ``block.L.mlp`` and ``resid.K``.
    """
    if graph.level == "block":
        names = {"attn": "block.{}.attn", "mlp": "block.{}.mlp"}
    else:
        names = {"head": "head.{}", "kv_head": "kv_head.{}", "attn": "head.{}"}
    result = {}
    for span in graph.nodes.spans:
        part = graph.nodes.of(values, span.kind, span.layer)
        if span.kind == "attn" and graph.level == "channel":
            start, stop = graph.nodes.range("pattern", span.layer)
            part = part.view(stop - start, -1).sum(dim=1)
        if span.kind in {*names, "neuron", "resid"}:
            result[names.get(span.kind, f"{span.kind}.{{}}").format(span.layer)] = part.float().cpu().contiguous()
    return result

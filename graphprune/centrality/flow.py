"""Credit flow: how much of the output's credit every edge carries back towards the input.

Math: the outputs share a credit of one, and every node hands what it has to its sources in proportion to the weights of
its incoming edges: ``c_u = t_u + sum_v f_uv`` with ``f_uv = c_v w_uv / s_v`` and the in-strength ``s``. No credit is
lost on the way, so the flows through any cut sum to one.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int

from graphprune.centrality.sweep import divided, solve
from graphprune.core.coarsen import Quotient
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph

Nodes = Float[torch.Tensor, " n_nodes"]
Members = Bool[torch.Tensor, " n_nodes"]


@dataclass(frozen=True)
class CreditFlow:
    """The credit of every node of a model's graph, and what flows along any of its edges.

    Attributes:
        graph: with non-negative weights.
        credit: of every node, in topological order.
        per_weight: the credit that a unit of incoming weight is worth: ``c / s``.
    """

    graph: ModelGraph
    credit: Nodes
    per_weight: Nodes

    @classmethod
    def of(cls, graph: ModelGraph) -> "CreditFlow":
        """One sweep over the edges.

        Raises:
            InputError: the graph is from outside, or its weights are signed.
        """
        if graph.order is not None:
            raise InputError("a graph from outside has no modules for credit to flow between")
        if graph.weight == "signed":
            raise InputError("credit flows along weights without a sign; export another graph")
        last = graph.nodes.spans[-1]
        outputs = torch.zeros(graph.n_nodes, dtype=graph.dtype)
        outputs[graph.n_nodes - last.size :] = 1 / last.size
        share = divided(1.0, graph.in_strength)
        credit = solve(graph, outputs, sender=share, backward=True)
        return cls(graph, credit, credit * share)

    @cached_property
    def _units(self) -> tuple[Quotient | None, Int[torch.Tensor, " n_nodes"]]:
        """The map to units and, of every node, the unit it is part of."""
        if self.graph.level != "channel":
            return None, torch.arange(self.graph.n_nodes)
        coarse = Quotient(self.graph.nodes, "unit")
        return coarse, coarse.lifted(torch.arange(coarse.nodes.n_nodes))

    def members(self, group: str, position: int | None = None) -> Members:
        """The nodes of a unit, or of all units of a group (`neuron.3`).

        Raises:
            InputError: the graph has none.
        """
        coarse, part_of = self._units
        nodes = self.graph.nodes if coarse is None else coarse.nodes
        kind, _, layer = group.partition(".")
        if group not in nodes:
            raise InputError(f"this {self.graph.level} graph has no {group}")
        start, stop = nodes.range(kind, int(layer))
        return (part_of >= start) & (part_of < stop) if position is None else part_of == start + position

    def into(self, members: Members) -> Nodes:
        """The credit that flows from every node to some others."""
        flow = torch.zeros_like(self.credit)
        for block in self.graph.blocks:
            if bool(members[slice(*block.dst)].any()):
                flow[slice(*block.src)] += block.pull(torch.where(members, self.per_weight, 0.0)[slice(*block.dst)])
        return torch.where(members, 0.0, flow)

    def out_of(self, members: Members) -> Nodes:
        """The credit that flows to some nodes from every other: what these owe to them."""
        flow = torch.zeros_like(self.credit)
        there = members.to(self.credit.dtype)
        for block in self.graph.blocks:
            if bool(members[slice(*block.src)].any()):
                here = slice(*block.dst)
                flow[here] += block.push(there[slice(*block.src)]) * self.per_weight[here]
        return torch.where(members, 0.0, flow)

    def unit_of(self, node: int) -> str:
        """The unit that a node is part of: `neuron.3.17`."""
        coarse, part_of = self._units
        kind, layer, position = (self.graph.nodes if coarse is None else coarse.nodes).locate(int(part_of[node]))
        return f"{kind}.{layer}.{position}"

    def strongest(self, flow: Nodes, n: int) -> list[tuple[str, float]]:
        """The units with the largest flow, by name (`neuron.3.17`), largest first."""
        coarse, part_of = self._units
        nodes = self.graph.nodes if coarse is None else coarse.nodes
        sums = torch.zeros(nodes.n_nodes, dtype=flow.dtype).index_add_(0, part_of, flow)
        values, at = sums.topk(min(n, nodes.n_nodes))
        found = [(nodes.locate(i), value) for i, value in zip(at.tolist(), values.tolist(), strict=True) if value > 0]
        return [(f"{kind}.{layer}.{position}", value) for (kind, layer, position), value in found]

    def between_modules(self) -> dict[tuple[str, str], float]:
        """What flows between attentions (`attn.3`), MLPs (`mlp.3`) and places in the stream (`resid.6`).

        Cost: a sweep for every kind of node that shares a block of edges with another: two or three.
        """
        spans = {span.name: self.graph.nodes.range(span.kind, span.layer) for span in self.graph.nodes.spans}
        modules = Quotient(self.graph.nodes, "block") if self.graph.level != "block" else None
        part_of = torch.arange(self.graph.n_nodes)
        names = [span.name for span in (self.graph.nodes if modules is None else modules.nodes).spans]
        if modules is not None:
            part_of = modules.lifted(torch.arange(modules.nodes.n_nodes))
        home = {name: names[int(part_of[start])] for name, (start, _) in spans.items()}
        flows: dict[tuple[str, str], float] = {}
        for block in self.graph.blocks:
            for dst in [name for name, run in spans.items() if block.dst[0] <= run[0] and run[1] <= block.dst[1]]:
                sent = torch.zeros(block.dst[1] - block.dst[0], dtype=self.credit.dtype)
                inside = slice(spans[dst][0] - block.dst[0], spans[dst][1] - block.dst[0])
                sent[inside] = self.per_weight[slice(*spans[dst])]
                arrived = block.pull(sent)
                for src in [name for name, run in spans.items() if block.src[0] <= run[0] and run[1] <= block.src[1]]:
                    if home[src] != home[dst]:
                        amount = arrived[spans[src][0] - block.src[0] : spans[src][1] - block.src[0]].sum()
                        edge = home[src], home[dst]
                        flows[edge] = flows.get(edge, 0.0) + float(amount)
        return flows

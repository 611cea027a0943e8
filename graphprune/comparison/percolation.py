"""What is left of a graph behind a mask: paths, credit, reach, the narrowest cut, components.

Everything is held against the dense graph and its inputs and outputs: what a mask turns into a dead end doesn't become
an output by that.

- `path_mass`: the weight of all input-to-output paths that remain, as a share.
- `credit`: the share of the outputs' credit (backward PageRank) in the dense graph that the units which stay had.
- `reach`: the share of the outputs that an input has a noticeable effect on (at least an even share of all inputs'),
  averaged over inputs.
- `min_cut`: the weight of the edges that must go until no path is left, as a share. Taken between whole modules, whose
  edges are joined by their sum: it is the least cut among those that split no module, and so an upper bound of that
  between channels, which a hundred million edges put out of reach.
- `components`, `largest`: of the nodes that stay, joined by the strongest edges into each node (the backbone); and the
  share of the dense graph's nodes in the largest component. With all edges, neighbouring layers are always connected.
- `entropy`: of the credit as it is spread over the units that stay, in nats.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp, inf

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components

from graphprune.centrality.options import chosen, refuse_negative
from graphprune.centrality.pagerank import pagerank
from graphprune.centrality.path_mass import total_path_mass
from graphprune.centrality.reaching import reaching
from graphprune.centrality.result import CentralityResult
from graphprune.centrality.units import per_unit
from graphprune.core.graph import ModelGraph
from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, NEURON

BACKBONE, TARGETS = 8, 32
QUANTITIES = ("path_mass", "credit", "reach", "min_cut", "components", "largest", "entropy")

Nodes = Float[torch.Tensor, " n_nodes"]


@dataclass(frozen=True)
class Remains:
    """What is left of a graph; see the module for what each is."""

    path_mass: float
    credit: float
    reach: float
    min_cut: float
    components: int
    largest: float
    entropy: float

    def facts(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Percolation:
    """A dense graph, prepared so that masks of it can be looked at one after the other.

    Attributes:
        graph: with non-negative weights.
        modules: its quotient between whose nodes cuts are taken; the graph itself where it has no modules.
        backbone: its strongest edges.
        inputs, outputs: 1 at these nodes of the graph, in the caller's order.
        targets: 1 at the outputs that reach is counted on: all, or some spread evenly.
        threshold: the smallest share of an output's credit that is noticeable: an even share of the inputs.
        credit: of every node.
        paths: the log of the weight of all paths.
        cut: the weight of the least cut.
    """

    graph: ModelGraph
    modules: ModelGraph
    backbone: ModelGraph
    inputs: Nodes
    outputs: Nodes
    targets: Nodes
    threshold: float
    credit: Nodes
    paths: float
    cut: float

    @classmethod
    def of(cls, graph: ModelGraph, *, backbone: int = BACKBONE, targets: int = TARGETS) -> "Percolation":
        """Prepares a graph.

        Args:
            graph: any graph with non-negative weights.
            backbone: how many of the strongest edges into each node count for components.
            targets: on how many outputs reach is counted, at most.

        Raises:
            ValueError: weights are negative.
        """
        refuse_negative(graph, "percolation")
        inputs, outputs = _ends(graph)
        strongest, _ = graph.sparsify(top_k=backbone)
        modules = _modules(graph)
        paths, cut = _paths(graph, inputs, outputs), min_cut(modules)
        threshold = 1 / max(float(inputs.sum()), 1.0)
        credit = _credit(graph, outputs)
        return cls(
            graph, modules, strongest, inputs, outputs, _spread(outputs, targets), threshold, credit, paths, cut
        )  # fmt: skip

    def after(self, mask: Mask | Bool[torch.Tensor, " n_nodes"]) -> Remains:
        """What is left behind a mask.

        Cost: two sweeps, two more for 32 targets, and one quotient.

        Raises:
            InputError: the mask is of another model, or of units that the graph hasn't.
        """
        left = self.graph.masked(mask)
        present = left.in_caller_order(left.indicator())
        inputs, outputs, targets = (nodes * present for nodes in (self.inputs, self.outputs, self.targets))
        components, largest = _components(self.backbone.masked(mask), present)
        paths = _paths(left, inputs, outputs)
        reach = 0.0
        if float(targets.sum()) > 0:
            effects = reaching(left, self.threshold, targets).scores
            reach = float((effects * inputs).sum() / self.inputs.sum() * (targets.sum() / self.targets.sum()))
        return Remains(
            path_mass=exp(paths - self.paths) if self.paths > -inf else 1.0,
            credit=kept_credit(self.graph, self.credit, present),
            reach=reach,
            min_cut=min_cut(_modules(left), self.modules) / self.cut if self.cut > 0 else 1.0,
            components=components,
            largest=largest,
            entropy=_entropy(_of_units(left, _credit(left, outputs))),
        )


def kept_credit(graph: ModelGraph, credit: Nodes, present: Nodes) -> float:
    """The share of a dense graph's credit on heads and neurons that those which stay had.

    Args:
        graph: the dense one.
        credit: of its nodes, in the caller's order.
        present: 1 where a node stays.
    """
    before = _of_units(graph, credit)
    total = float(before.sum())
    return float(_of_units(graph, credit * present).sum()) / total if total > 0 else 1.0


def _ends(graph: ModelGraph) -> tuple[Nodes, Nodes]:
    """The inputs and the outputs, in the caller's order; a node without edges is neither."""
    first, last = (graph.in_caller_order(chosen(graph, which, which)) for which in ("inputs", "outputs"))
    return first * (1 - last), last * (1 - first)


def _paths(graph: ModelGraph, inputs: Nodes, outputs: Nodes) -> float:
    """The log of the weight of all paths; minus infinity if there are none."""
    if float(inputs.sum()) == 0 or float(outputs.sum()) == 0:
        return -inf
    return total_path_mass(graph, inputs, outputs)


def _credit(graph: ModelGraph, outputs: Nodes) -> Nodes:
    """Of every node; zero where there are no outputs."""
    if float(outputs.sum()) == 0:
        return torch.zeros_like(outputs)
    return pagerank(graph, personalization=outputs, direction="backward").scores


def _modules(graph: ModelGraph) -> ModelGraph:
    return graph if graph.order is not None or graph.level == "block" else graph.quotient("block", norm=1)


def _spread(nodes: Nodes, most: int) -> Nodes:
    """Of the nodes with a 1, at most so many, evenly."""
    there = nodes.nonzero()[:, 0]
    taken = there[torch.linspace(0, len(there) - 1, min(most, len(there))).round().long()]
    return torch.zeros_like(nodes).index_fill_(0, taken, 1.0)


def _of_units(graph: ModelGraph, values: Nodes) -> Float[torch.Tensor, " _units"]:
    """The values of heads and neurons; of all nodes of a graph that has none."""
    if graph.order is not None or graph.level == "block":
        return values
    result = CentralityResult(values, "credit", "backward", "sum 1", "")
    groups = per_unit(graph, result)
    return torch.cat([groups[name] for name in groups if name.split(".")[0] in {HEAD, NEURON}])


def _entropy(values: Float[torch.Tensor, " units"]) -> float:
    """Shannon's, in nats, of the values as shares."""
    total = values.double().sum()
    if float(total) <= 0:
        return 0.0
    shares = values.double() / total
    return float(-torch.xlogy(shares, shares).sum())


def min_cut(graph: ModelGraph, dense: ModelGraph | None = None) -> float:
    """The least weight of edges that must go until no path leads from the inputs to the outputs, by igraph.

    Args:
        graph: with non-negative weights.
        dense: the graph whose inputs and outputs are meant; its own, if not given.
    """
    of = dense or graph
    ends = [nodes.nonzero()[:, 0].tolist() for nodes in _ends(of)]
    host = graph.to_igraph()
    if not host.ecount() or not all(ends):
        return 0.0
    weights = [max(float(weight), 0.0) for weight in host.es["weight"]]
    source, target = host.vcount(), host.vcount() + 1
    host.add_vertices(2)
    outside = [(source, node) for node in ends[0]] + [(node, target) for node in ends[1]]
    host.add_edges(outside)
    largest = sum(weights) + 1.0  # never worth cutting
    value: float = host.maxflow_value(source, target, [*weights, *[largest] * len(outside)])
    return min(value, sum(weights))


def _components(backbone: ModelGraph, present: Nodes) -> tuple[int, float]:
    """How many components the nodes that stay have, and the share of all nodes in the largest."""
    stays = present.bool().cpu().numpy()
    if not stays.any():
        return 0, 0.0
    _, membership = connected_components(backbone.to_scipy(), directed=False)
    sizes = np.bincount(membership[stays])
    return int((sizes > 0).sum()), float(sizes.max() / len(stays))


def curve(percolation: Percolation, masks: Mapping[float, Mask]) -> dict[float, Remains]:
    """What is left at each sparsity."""
    return {sparsity: percolation.after(mask) for sparsity, mask in sorted(masks.items())}

"""Measures that need a sweep from every node: all of them, or a sample with its standard error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from graphprune.centrality.shortest_paths import Length
from graphprune.core.graph import ModelGraph
from graphprune.core.progress import progress

WORK = 5e11  # steps of an exact answer, measured at one or two nanoseconds: a quarter of an hour
NODE_STEPS = 8  # of a node and a source: to start it, to join what arrives, to sum; an edge is one
BATCH_VALUES = 1 << 22  # node values a batch of sources holds: 32 MB in float64


@dataclass(frozen=True)
class Sources:
    """Nodes to start from, in topological order, and what they say about all nodes.

    Attributes:
        graph: the graph.
        nodes: the sources.
        exact: whether they are all the nodes there are.
    """

    graph: ModelGraph
    nodes: torch.Tensor
    exact: bool

    @classmethod
    def draw(
        cls,
        graph: ModelGraph,
        k: int | None,
        seed: int,
        length: Length,
        measure: str,
        *,
        passes: int = 1,
        every_edge: bool = False,
    ) -> "Sources":
        """``k`` nodes drawn without replacement, or all of them.

        Args:
            graph: the graph.
            k: how many; all if not given.
            seed: of the sample.
            length: what the sweeps measure.
            measure: what they are for.
            passes: how many min-plus sweeps what is done for a source takes as long as.
            every_edge: that is done edge by edge also where hops are counted by node.

        Raises:
            ValueError: k is out of range, or all of them are too many.
        """
        everyone = torch.arange(graph.n_nodes) if graph.present is None else graph.present.cpu().nonzero()[:, 0]
        n = len(everyone)
        if k is None:
            edges = graph.n_edges if every_edge else sum(length.cost(block) for block in graph.blocks)
            work = passes * n * (NODE_STEPS * graph.n_nodes + edges)
            if work > WORK:
                raise ValueError(
                    f"exact {measure} of {n:,} nodes takes a sweep from each, {work:.1e} steps (at most {WORK:.0e}); "
                    "give k, the number of sources to sample"
                )
            return cls(graph, everyone, exact=True)
        if not min(3, n) <= k <= n:
            raise ValueError(f"k, the number of sampled sources, lies between 3 and the {n:,} nodes, not {k}")
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]
        return cls(graph, everyone[drawn.sort().values], exact=k == n)

    def batches(self, what: str) -> Iterator[tuple[torch.Tensor, Float[torch.Tensor, "n_nodes k"]]]:
        """Sources by the handful, and their starting distances: 0 at a column's source, infinity elsewhere."""
        return started(self.graph, self.nodes, what, elsewhere=torch.inf)

    def described(self, solver: str) -> str:
        """The solver, and how many sources it started from if they aren't all."""
        return solver if self.exact else f"{solver} from {len(self.nodes)} sampled sources"

    def _seen(self, own: bool) -> tuple[Float[torch.Tensor, " *n_nodes"], int]:
        """From how many sources each node was seen, and from how many it could be; without itself unless ``own``."""
        if own:
            return torch.tensor(float(len(self.nodes)), dtype=torch.float64), self.graph.n_present
        counts = torch.full((self.graph.n_nodes,), float(len(self.nodes)), dtype=torch.float64)
        counts[self.nodes] -= 1
        return counts.to(self.graph.device), self.graph.n_present - 1

    def total(self, sums: Float[torch.Tensor, " values"], *, own: bool = False) -> Float[torch.Tensor, " values"]:
        """What the sum over all other nodes is, from the sum over those that were drawn; unbiased.

        ``own``: every source counts: a node says something about itself as well, or the values are those of edges.
        """
        seen, n = self._seen(own)
        return sums if self.exact else sums * n / seen.clamp(min=1)

    def stderr(
        self, sums: Float[torch.Tensor, " values"], squares: Float[torch.Tensor, " values"], *, own: bool = False
    ) -> Float[torch.Tensor, " values"]:
        """The standard error of `total`, from sums of values and of their squares; drawn without replacement."""
        m, n = self._seen(own)
        variance = ((squares - sums**2 / m.clamp(min=1)) / (m - 1).clamp(min=1)).clamp(min=0)
        return n * (variance / m.clamp(min=1) * (1 - m / max(n, 1)).clamp(min=0)).sqrt()


def started(
    graph: ModelGraph, nodes: Int[torch.Tensor, " n"], what: str, *, elsewhere: float
) -> Iterator[tuple[torch.Tensor, Float[torch.Tensor, "n_nodes k"]]]:
    """Nodes by the handful, and values to start from: 0 at a column's node, ``elsewhere`` at all others."""
    size = max(1, min(256, BATCH_VALUES // max(graph.n_nodes, 1)))
    for batch in progress(torch.split(nodes, size) if len(nodes) else (), what, unit="batch"):
        here = batch.to(graph.device)
        start = torch.full((graph.n_nodes, len(here)), elsewhere, dtype=torch.float64, device=graph.device)
        start[here, torch.arange(len(here), device=graph.device)] = 0.0
        yield here, start


def summed(
    sources: Sources, what: str, values: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over all sources, the sums of ``values(nodes, start)`` and of their squares; ``values`` is (n_nodes, k)."""
    n = sources.graph.n_nodes
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=sources.graph.device) for _ in range(2))
    for nodes, start in sources.batches(what):
        found = values(nodes, start)
        sums += found.sum(dim=1)
        squares += (found * found).sum(dim=1)
    return sums, squares

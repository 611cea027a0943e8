"""A weighted directed acyclic graph as sparse blocks between runs of nodes.

Every block leads from earlier nodes to strictly later ones, so the graph is acyclic by construction and one pass over
the blocks in order is one pass in topological order. Direction is information flow: ``adjacency[src, dst]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped

from graphprune.core.block import EdgeBlock, UnweightedBlock
from graphprune.core.nodes import NodeIndex

if TYPE_CHECKING:
    import igraph
    import networkx as nx
    from scipy import sparse

    from graphprune.core.mask import Mask

Level = Literal["channel", "unit", "block"]
Weight = Literal["magnitude", "activation", "power", "signed"]
LEVELS: tuple[Level, ...] = ("channel", "unit", "block")
WEIGHTS: tuple[Weight, ...] = ("magnitude", "activation", "power", "signed")
MEASURED: tuple[Weight, ...] = ("activation", "power")
"""Edge weights that need calibration."""


@dataclass(frozen=True)
class ModelGraph:
    """A network as a weighted directed acyclic graph.

    Attributes:
        nodes: which node is what, in topological order.
        blocks: the edges; each block leads from earlier nodes to strictly later ones.
        level: `channel`, `unit` or `block`.
        weight: what an edge weight is: `magnitude`, `activation` or `signed`.
        model: where the graph comes from (name, checkpoint hash, sizes); JSON.
        order: for a graph from outside, the caller's id of each node; results are returned in the caller's order.
        labels: for a graph from networkx, the caller's node objects by the caller's id.
        strengths: sums of the weights that leave and that reach each node, where they are known.
        present: which nodes a mask has left, in topological order; all of them if not given.
    """

    nodes: NodeIndex
    blocks: tuple[EdgeBlock, ...]
    level: Level = "channel"
    weight: Weight = "magnitude"
    model: Mapping[str, Any] = field(default_factory=dict)
    order: Int[torch.Tensor, " n_nodes"] | None = None
    labels: tuple[Any, ...] | None = None
    strengths: tuple[torch.Tensor, torch.Tensor] | None = None
    present: Bool[torch.Tensor, " n_nodes"] | None = None

    def __post_init__(self) -> None:
        for block in self.blocks:
            if not 0 <= block.src[0] <= block.src[1] <= block.dst[0] <= block.dst[1] <= self.n_nodes:
                raise ValueError(f"block {block.src} -> {block.dst} does not lead from earlier to later nodes")

    @property
    def n_nodes(self) -> int:
        return self.nodes.n_nodes

    @property
    def n_edges(self) -> int:
        return sum(block.n_edges for block in self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].dtype if self.blocks else torch.float64

    @property
    def device(self) -> torch.device:
        return self.blocks[0].device if self.blocks else torch.device("cpu")

    @property
    def n_present(self) -> int:
        """How many nodes a mask has left."""
        return self.n_nodes if self.present is None else int(self.present.sum())

    def indicator(self) -> Float[torch.Tensor, " n_nodes"]:
        """1 at every node, 0 at those that a mask has removed."""
        if self.present is None:
            return torch.ones(self.n_nodes, dtype=self.dtype, device=self.device)
        return self.present.to(self.dtype)

    @cached_property
    def forward_blocks(self) -> tuple[EdgeBlock, ...]:
        """Blocks ordered so that all edges into a node come before any edge out of it."""
        return tuple(sorted(self.blocks, key=lambda block: block.dst[0]))

    @cached_property
    def backward_blocks(self) -> tuple[EdgeBlock, ...]:
        """Blocks ordered so that all edges out of a node come before any edge into it."""
        return tuple(sorted(self.blocks, key=lambda block: -block.src[1]))

    @cached_property
    def out_strength(self) -> Float[torch.Tensor, " n_nodes"]:
        """Sum of the weights of the edges that leave each node, in topological order."""
        if self.strengths is not None:
            return self.strengths[0]
        total = torch.zeros(self.n_nodes, dtype=self.dtype, device=self.device)
        for block in self.blocks:
            total[slice(*block.src)] += block.sent()
        return total

    @cached_property
    def in_strength(self) -> Float[torch.Tensor, " n_nodes"]:
        """Sum of the weights of the edges that reach each node, in topological order."""
        if self.strengths is not None:
            return self.strengths[1]
        total = torch.zeros(self.n_nodes, dtype=self.dtype, device=self.device)
        for block in self.blocks:
            total[slice(*block.dst)] += block.received()
        return total

    def in_caller_order(self, values: Shaped[torch.Tensor, " n_nodes *k"]) -> Shaped[torch.Tensor, " n_nodes *k"]:
        """Per-node values in the order in which a graph from outside numbered its nodes."""
        if self.order is None:
            return values
        result = torch.empty_like(values)
        result[self.order] = values
        return result

    def in_topological_order(self, values: Shaped[torch.Tensor, " n_nodes *k"]) -> Shaped[torch.Tensor, " n_nodes *k"]:
        """The inverse of `in_caller_order`."""
        return values if self.order is None else values[self.order]

    def to(self, device: torch.device | str) -> "ModelGraph":
        """The same graph with its edges on another device."""
        return replace(
            self,
            blocks=tuple(block.to(device) for block in self.blocks),
            order=None if self.order is None else self.order.to(device),
            strengths=None if self.strengths is None else (self.strengths[0].to(device), self.strengths[1].to(device)),
            present=None if self.present is None else self.present.to(device),
        )

    def unweighted(self) -> "ModelGraph":
        """The same edges, each with weight one; nothing is copied."""
        blocks = tuple(UnweightedBlock(block) for block in self.blocks)
        return replace(self, blocks=blocks, strengths=None, weight="magnitude")

    def masked(self, mask: "Mask | Bool[torch.Tensor, ' n_nodes']") -> "ModelGraph":
        """The graph without what a mask removes; no edge is copied. See `graphprune.core.masking.masked`."""
        from graphprune.core.masking import masked

        return masked(self, mask)

    @classmethod
    def from_scipy(cls, matrix: "sparse.sparray | sparse.spmatrix") -> "ModelGraph":
        """The graph of a square sparse matrix with ``matrix[src, dst]``; see `graphprune.core.convert.from_scipy`."""
        from graphprune.core.convert import from_scipy

        return from_scipy(matrix)

    @classmethod
    def from_networkx(cls, digraph: "nx.DiGraph[Any]", *, weight: str | None = "weight") -> "ModelGraph":
        """The graph of an acyclic networkx digraph; see `graphprune.core.convert.from_networkx`."""
        from graphprune.core.convert import from_networkx

        return from_networkx(digraph, weight=weight)

    def to_scipy(self, *, max_edges: int = 500_000_000) -> "sparse.csr_array":
        """The whole adjacency ``[src, dst]`` as one SciPy CSR array; refuses more than ``max_edges`` edges."""
        from graphprune.core.convert import to_scipy

        return to_scipy(self, max_edges=max_edges)

    def to_torch(self, *, max_edges: int = 500_000_000) -> torch.Tensor:
        """The whole adjacency ``[src, dst]`` as one torch sparse CSR tensor with int32 indices; refuses likewise."""
        matrix = self.to_scipy(max_edges=max_edges)
        crow, col = (torch.from_numpy(array.astype("int32", copy=False)) for array in (matrix.indptr, matrix.indices))
        return torch.sparse_csr_tensor(crow, col, torch.from_numpy(matrix.data), size=matrix.shape).to(self.device)

    def to_networkx(self, *, max_edges: int = 2_000_000) -> "nx.DiGraph[Any]":
        """A networkx digraph; refuses more than ``max_edges`` edges (about 400 bytes each)."""
        from graphprune.core.convert import to_networkx

        return to_networkx(self, max_edges=max_edges)

    def to_igraph(self, *, max_edges: int = 20_000_000) -> "igraph.Graph":
        """An igraph graph; refuses more than ``max_edges`` edges (about 100 bytes each)."""
        from graphprune.core.convert import to_igraph

        return to_igraph(self, max_edges=max_edges)

    def quotient(self, level: Level, *, norm: int = 2) -> "ModelGraph":
        """The graph of a coarser level; see `graphprune.core.coarsen.quotient`."""
        from graphprune.core.coarsen import quotient

        return quotient(self, level, norm=norm)

    def sparsify(
        self,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        share: float | None = None,
        folder: Path | None = None,
    ) -> tuple["ModelGraph", "Dropped"]:
        """The strongest edges and what was dropped; see `graphprune.core.sparsify.sparsify`."""
        from graphprune.core.sparsify import sparsify

        return sparsify(self, top_k=top_k, threshold=threshold, share=share, folder=folder)


@dataclass(frozen=True)
class Dropped:
    """What sparsification removed.

    Attributes:
        edges: how many edges.
        edge_share: the share of all edges.
        weight_share: the share of the total absolute weight.
    """

    edges: int
    edge_share: float
    weight_share: float

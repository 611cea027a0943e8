"""A weighted directed acyclic graph as sparse blocks between runs of nodes.

Every block leads from earlier nodes to strictly later ones, so the graph is acyclic by construction and one pass over
the blocks in order is one pass in topological order. Direction is information flow: ``adjacency[src, dst]``.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int, Shaped

from graphprune.core.nodes import NodeIndex

if TYPE_CHECKING:
    import igraph
    import networkx as nx
    from scipy import sparse

Level = Literal["channel", "unit", "block"]
Weight = Literal["magnitude", "activation", "signed"]
LEVELS: tuple[Level, ...] = ("channel", "unit", "block")
WEIGHTS: tuple[Weight, ...] = ("magnitude", "activation", "signed")

with warnings.catch_warnings():  # torch announces once per process that sparse CSR is in beta: get it over with
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


@lru_cache(maxsize=32)
def full_pattern(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The index arrays (int32) of a CSR matrix in which every entry is stored; shared by all blocks of one shape."""
    crow = torch.arange(rows + 1, dtype=torch.int32, device=device) * columns
    return crow, torch.arange(columns, dtype=torch.int32, device=device).repeat(rows)


def row_pointers(rows: Int[torch.Tensor, " edges"], n_rows: int) -> Int[torch.Tensor, " n_rows_plus_one"]:
    """The CSR row pointers (int32) of edges sorted by row."""
    pointers = torch.zeros(n_rows + 1, dtype=torch.int32, device=rows.device)
    pointers[1:] = torch.bincount(rows, minlength=n_rows).cumsum(0)
    return pointers


@dataclass(frozen=True)
class Block:
    """Edges from nodes ``src`` (first, one past last) to nodes ``dst``, as a CSR matrix of shape (dst, src).

    Rows are destinations, as in a weight matrix, so that ``push`` is an ordinary sparse product.
    """

    src: tuple[int, int]
    dst: tuple[int, int]
    values: Float[torch.Tensor, " edges"]
    crow: Int[torch.Tensor, " rows_plus_one"]
    col: Int[torch.Tensor, " edges"]

    @classmethod
    def full(cls, src: tuple[int, int], dst: tuple[int, int], weights: Float[torch.Tensor, "dst src"]) -> "Block":
        """Every entry of a matrix (rows are destinations), zeros included."""
        crow, col = full_pattern(dst[1] - dst[0], src[1] - src[0], weights.device)
        return cls(src, dst, weights.reshape(-1), crow, col)

    @property
    def shape(self) -> tuple[int, int]:
        return self.dst[1] - self.dst[0], self.src[1] - self.src[0]

    @property
    def n_edges(self) -> int:
        return self.values.numel()

    @property
    def is_full(self) -> bool:
        """Whether every possible edge is stored, so that the values are a dense matrix in row order."""
        return self.n_edges == self.shape[0] * self.shape[1]

    @property
    def csr(self) -> torch.Tensor:
        """The block as a torch sparse CSR tensor of shape (dst, src); nothing is copied."""
        return torch.sparse_csr_tensor(self.crow, self.col, self.values, size=self.shape)

    def rows(self) -> Int[torch.Tensor, " edges"]:
        """The row (destination within the block) of every stored edge."""
        counts = self.crow.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]:
        """``W @ x``: what arrives at the destinations when the sources hold ``x``. Bound by memory bandwidth."""
        if self.n_edges == 0:
            return x.new_zeros((self.shape[0], *x.shape[1:]))
        return self.csr @ x

    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        """``W.T @ y``: the sweep against the edges.

        torch's transposed CSR product is a hundred times slower than its plain one on CPU, so a full block is
        read as the dense matrix it is and any other as SciPy's CSC, both without a copy.
        """
        if self.n_edges == 0:
            return y.new_zeros((self.shape[1], *y.shape[1:]))
        if self.is_full:
            return self.values.view(self.shape).t() @ y
        if y.device.type == "cpu":
            from scipy import sparse

            arrays = (self.values.numpy(), self.col.numpy(), self.crow.numpy())
            return torch.from_numpy(sparse.csr_array(arrays, shape=self.shape).T @ y.numpy())
        weights = self.values if y.ndim == 1 else self.values[:, None]
        return y.new_zeros((self.shape[1], *y.shape[1:])).index_add_(0, self.col, weights * y[self.rows()])

    def sent(self) -> Float[torch.Tensor, " src"]:
        """The sum of the weights that leave each source: ``pull`` of ones, quicker where every edge is stored."""
        return self.values.view(self.shape).sum(dim=0) if self.is_full else self.pull(self._ones(self.shape[0]))

    def received(self) -> Float[torch.Tensor, " dst"]:
        """The sum of the weights that reach each destination: ``push`` of ones."""
        return self.values.view(self.shape).sum(dim=1) if self.is_full else self.push(self._ones(self.shape[1]))

    def _ones(self, size: int) -> torch.Tensor:
        return self.values.new_ones(size)

    def to(self, device: torch.device | str) -> "Block":
        return replace(self, values=self.values.to(device), crow=self.crow.to(device), col=self.col.to(device))


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
    """

    nodes: NodeIndex
    blocks: tuple[Block, ...]
    level: Level = "channel"
    weight: Weight = "magnitude"
    model: Mapping[str, Any] = field(default_factory=dict)
    order: Int[torch.Tensor, " n_nodes"] | None = None
    labels: tuple[Any, ...] | None = None
    strengths: tuple[torch.Tensor, torch.Tensor] | None = None

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
        return self.blocks[0].values.dtype if self.blocks else torch.float64

    @property
    def device(self) -> torch.device:
        return self.blocks[0].values.device if self.blocks else torch.device("cpu")

    @cached_property
    def forward_blocks(self) -> tuple[Block, ...]:
        """Blocks ordered so that all edges into a node come before any edge out of it."""
        return tuple(sorted(self.blocks, key=lambda block: block.dst[0]))

    @cached_property
    def backward_blocks(self) -> tuple[Block, ...]:
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
        )

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
        self, *, top_k: int | None = None, threshold: float | None = None, share: float | None = None
    ) -> tuple["ModelGraph", "Dropped"]:
        """The strongest edges and what was dropped; see `graphprune.core.coarsen.sparsify`."""
        from graphprune.core.coarsen import sparsify

        return sparsify(self, top_k=top_k, threshold=threshold, share=share)


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

"""Graphs from and to SciPy, networkx and igraph."""

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from scipy import sparse

from graphprune.core.errors import InputError
from graphprune.core.graph import Block, ModelGraph
from graphprune.core.nodes import NodeIndex, Span

if TYPE_CHECKING:
    import igraph

IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]


def from_scipy(matrix: sparse.sparray | sparse.spmatrix) -> ModelGraph:
    """The graph whose edge ``src -> dst`` has weight ``matrix[src, dst]``; stored zeros are edges of weight zero.

    The floating-point type is kept (integers become float64). Nodes are grouped by topological generation (the
    longest path from a source), one block of edges a generation; results come back in the caller's order.

    Cost: linear in nodes and edges, plus a few tens of microseconds a generation.

    Raises:
        InputError: the matrix isn't square, has a weight that isn't finite, or contains a cycle (one is named).

    >>> graph = from_scipy(sparse.csr_array(np.array([[0.0, 2.0], [0.0, 0.0]])))
    >>> graph.n_nodes, graph.n_edges, graph.dtype
    (2, 1, torch.float64)
    """
    rows, columns = matrix.shape
    if rows != columns:
        raise InputError(f"an adjacency matrix is square, this one is {rows} x {columns}")
    adjacency = sparse.csr_array(matrix, copy=True)
    adjacency.sum_duplicates()
    if adjacency.dtype not in (np.float32, np.float64):
        if not np.issubdtype(adjacency.dtype, np.integer) and adjacency.dtype != np.bool_:
            raise InputError(f"edge weights are float32, float64 or integers, not {adjacency.dtype}")
        adjacency = adjacency.astype(np.float64)
    if not np.isfinite(adjacency.data).all():
        raise InputError("an edge weight is NaN or infinite")
    generation = _generations(adjacency)
    order = np.argsort(generation, kind="stable")
    sizes = np.bincount(generation) if rows else np.zeros(0, dtype=np.int64)
    index = NodeIndex(tuple(Span("node", level, int(size)) for level, size in enumerate(sizes)))
    incoming = sparse.csr_array(adjacency.T)[order][:, order]  # row = destination, both in topological order
    incoming.sort_indices()
    return ModelGraph(index, tuple(_generation_blocks(incoming, sizes)), order=torch.from_numpy(order.copy()))


def _generations(adjacency: sparse.csr_array) -> IntArray:
    """The length of the longest path that ends at each node, found by peeling off sources."""
    waiting = np.bincount(adjacency.indices, minlength=adjacency.shape[0])
    generation = np.full(adjacency.shape[0], -1, dtype=np.int64)
    frontier = np.flatnonzero(waiting == 0)
    level = 0
    while len(frontier):
        generation[frontier] = level
        reached, counts = np.unique(adjacency[frontier].indices, return_counts=True)
        waiting[reached] -= counts
        frontier = reached[waiting[reached] == 0]
        level += 1
    if (generation < 0).any():
        raise InputError(f"the graph has a cycle: {' -> '.join(map(str, _cycle(adjacency, generation < 0)))}")
    return generation


def _cycle(adjacency: sparse.csr_array, left: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """A cycle among nodes each of which has a predecessor among them: walk back until a node repeats."""
    incoming = sparse.csr_array(adjacency.T)
    node = int(np.flatnonzero(left)[0])
    position: dict[int, int] = {}
    walk: list[int] = []
    while node not in position:
        position[node] = len(walk)
        walk.append(node)
        sources = incoming.indices[incoming.indptr[node] : incoming.indptr[node + 1]]
        node = int(sources[left[sources]][0])
    return [node, *reversed(walk[position[node] :])]


def _generation_blocks(incoming: sparse.csr_array, sizes: IntArray) -> list[Block]:
    blocks = []
    start = 0
    for size in sizes.tolist():
        first, last = int(incoming.indptr[start]), int(incoming.indptr[start + size])
        if last > first or start == 0:  # the first generation's block, always empty, holds the type of the weights
            crow = torch.from_numpy((incoming.indptr[start : start + size + 1] - first).astype(np.int32))
            col = torch.from_numpy(incoming.indices[first:last].astype(np.int32))
            values = torch.from_numpy(incoming.data[first:last].copy())
            blocks.append(Block((0, start), (start, start + size), values, crow, col))
        start += size
    return blocks


def from_networkx(digraph: "nx.DiGraph[Any]", *, weight: str | None = "weight") -> ModelGraph:
    """The graph of a networkx digraph, in float64; parallel edges are summed, a missing weight counts as one.

    Raises:
        InputError: it is undirected or has a cycle (one is named).
    """
    if not digraph.is_directed():
        raise InputError("an undirected graph has no direction of information flow; pass a DiGraph")
    labels = tuple(digraph)
    if not labels:
        return ModelGraph(NodeIndex(()), (), order=torch.zeros(0, dtype=torch.int64), labels=())
    if not nx.is_directed_acyclic_graph(digraph):
        cycle = [edge[0] for edge in nx.find_cycle(digraph)]
        raise InputError(f"the graph has a cycle: {' -> '.join(str(node) for node in [*cycle, cycle[0]])}")
    matrix = nx.to_scipy_sparse_array(digraph, nodelist=labels, weight=weight, dtype=np.float64, format="csr")
    graph = from_scipy(matrix)
    return ModelGraph(graph.nodes, graph.blocks, order=graph.order, labels=labels)


def to_scipy(graph: ModelGraph, *, max_edges: int = 500_000_000) -> sparse.csr_array:
    """The whole adjacency ``[src, dst]``, in the caller's order if the graph came from outside.

    Raises:
        InputError: the graph has more than ``max_edges`` edges.
    """
    _refuse_above(graph, max_edges, "one SciPy matrix")
    src, dst, values = _edge_arrays(graph)
    return sparse.csr_array(sparse.coo_array((values, (src, dst)), shape=(graph.n_nodes, graph.n_nodes)))


def _edge_arrays(graph: ModelGraph) -> tuple[IntArray, IntArray, np.ndarray[Any, np.dtype[Any]]]:
    """Source, destination (int32, the caller's ids) and weight of every edge."""
    n = graph.n_edges
    src, dst = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    values = np.empty(n, dtype=np.float32 if graph.dtype == torch.float32 else np.float64)
    at = 0
    for block in graph.blocks:
        here = slice(at, at + block.n_edges)
        src[here] = block.col.cpu().numpy() + block.src[0]
        dst[here] = block.rows().cpu().numpy() + block.dst[0]
        values[here] = block.values.cpu().numpy()
        at += block.n_edges
    if graph.order is not None:
        order = graph.order.cpu().numpy().astype(np.int32)
        src, dst = order[src], order[dst]
    return src, dst, values


def node_name(graph: ModelGraph, node: int) -> str:
    """``kind.layer.position`` of a node of a model, in topological numbering."""
    kind, layer, position = graph.nodes.locate(node)
    return f"{kind}.{layer}.{position}"


def _refuse_above(graph: ModelGraph, max_edges: int, what: str) -> None:
    if graph.n_edges > max_edges:
        raise InputError(
            f"{graph.n_edges:,} edges are too many for {what} (at most {max_edges:,}); "
            "sparsify the graph or take a coarser level first"
        )


def to_networkx(graph: ModelGraph, *, max_edges: int) -> "nx.DiGraph[Any]":
    """A digraph with `weight` on edges and, for a model, `kind`, `layer` and `position` on nodes.

    Raises:
        InputError: the graph has more than ``max_edges`` edges.
    """
    _refuse_above(graph, max_edges, "networkx")
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    if graph.order is not None:
        names: list[Any] = list(graph.labels) if graph.labels is not None else list(range(graph.n_nodes))
        digraph.add_nodes_from(names)
    else:
        names = [f"{span.name}.{position}" for span in graph.nodes.spans for position in range(span.size)]
        places = ((s.kind, s.layer, i) for s in graph.nodes.spans for i in range(s.size))
        for name, (kind, layer, position) in zip(names, places, strict=True):
            digraph.add_node(name, kind=kind, layer=layer, position=position)
    src, dst, values = _edge_arrays(graph)
    edges = zip(src.tolist(), dst.tolist(), values.tolist(), strict=True)
    digraph.add_weighted_edges_from((names[a], names[b], w) for a, b, w in edges)
    return digraph


def to_igraph(graph: ModelGraph, *, max_edges: int) -> "igraph.Graph":
    """An igraph graph with `weight` on edges and, for a model, `name`, `kind` and `layer` on vertices.

    Raises:
        InputError: the graph has more than ``max_edges`` edges.
    """
    import igraph

    _refuse_above(graph, max_edges, "igraph")
    src, dst, values = _edge_arrays(graph)
    result = igraph.Graph(n=graph.n_nodes, edges=np.stack([src, dst], axis=1), directed=True)
    result.es["weight"] = values.tolist()
    if graph.order is None:
        spans = graph.nodes.spans
        result.vs["name"] = [f"{span.name}.{i}" for span in spans for i in range(span.size)]
        result.vs["kind"] = [span.kind for span in spans for _ in range(span.size)]
        result.vs["layer"] = [span.layer for span in spans for _ in range(span.size)]
    elif graph.labels is not None:
        result.vs["name"] = [str(label) for label in graph.labels]
    return result

"""Graphs from and to SciPy, networkx and igraph."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from scipy import sparse

from graphprune.core.block import Block
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span

if TYPE_CHECKING:
    import igraph

FULL_FROM = 256  # edges from which a block of its own pays for a set of edges of which all are there
IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]


def from_scipy(matrix: sparse.sparray | sparse.spmatrix) -> ModelGraph:
    """The graph whose edge ``src -> dst`` has weight ``matrix[src, dst]``; stored zeros are edges of weight zero.

    The floating-point type is kept (integers become float64). Nodes are grouped by topological generation (the
    longest path from a source), one or two blocks of edges a generation; results come back in the caller's order.

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
    adjacency = sparse.csr_array(matrix)
    if not adjacency.has_canonical_format:
        adjacency = adjacency.copy()
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
    outgoing, incoming = _in_order(adjacency, order)
    ones = np.ones(rows, dtype=adjacency.dtype)
    return ModelGraph(
        index,
        tuple(_generation_blocks(incoming, sizes)),
        weight="signed" if (adjacency.data < 0).any() else "magnitude",
        order=torch.from_numpy(order),
        strengths=(torch.from_numpy(outgoing @ ones), torch.from_numpy(incoming @ ones)),
    )


def _in_order(adjacency: sparse.csr_array, order: IntArray) -> tuple[sparse.csr_array, sparse.csr_array]:
    """The matrix and its transpose, both by row and with the nodes in another order; no sorting is needed."""
    rank = np.empty(len(order), dtype=adjacency.indices.dtype)
    rank[order] = np.arange(len(order), dtype=rank.dtype)
    picked = adjacency[order]
    outgoing = sparse.csr_array((picked.data, rank[picked.indices], picked.indptr), shape=adjacency.shape)
    by_column = outgoing.tocsc()  # as rows of the transpose, with ascending columns since the rows came in order
    incoming = sparse.csr_array((by_column.data, by_column.indices, by_column.indptr), shape=adjacency.shape)
    return outgoing, incoming


def _generations(adjacency: sparse.csr_array) -> IntArray:
    """The length of the longest path that ends at each node, found by peeling off sources."""
    waiting = np.bincount(adjacency.indices, minlength=adjacency.shape[0])
    generation = np.full(adjacency.shape[0], -1, dtype=np.int64)
    place = np.empty(adjacency.shape[0], dtype=np.int64)
    frontier = np.flatnonzero(waiting == 0)
    level = 0
    while len(frontier):
        generation[frontier] = level
        reached = adjacency[frontier].indices
        np.subtract.at(waiting, reached, 1)
        freed = reached[waiting[reached] == 0]
        place[freed] = np.arange(len(freed))
        frontier = freed[place[freed] == np.arange(len(freed))]  # each of them once
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


def _generation_blocks(incoming: sparse.csr_array, sizes: IntArray) -> Iterator[Block]:
    """The edges into each generation: those from the one before as a full block, if all are there, and the rest."""
    pointers, columns, data = incoming.indptr, incoming.indices.astype(np.int32, copy=False), incoming.data
    start, before = 0, 0
    if not len(sizes):
        yield _sparse_block(0, np.zeros(1, dtype=np.int64), columns, data)
    for size in sizes.tolist():
        stop = start + size
        first, last = int(pointers[start]), int(pointers[stop])
        rows = pointers[start : stop + 1] - first
        if start == 0:  # always empty: it holds the type of the weights
            yield _sparse_block(start, rows, columns[:0], data[:0])
        elif _all_there(rows, columns[first:last], start, before):
            wide = rows[1:, None] + np.arange(-before, 0)  # the last edges of every row, since columns ascend
            yield Block.full((start - before, start), (start, stop), torch.from_numpy(data[first:last][wide]))
            others = np.ones(last - first, dtype=np.bool_)
            others[wide] = False
            if others.any():
                rest = rows - before * np.arange(size + 1)
                yield _sparse_block(start, rest, columns[first:last][others], data[first:last][others])
        else:
            yield _sparse_block(start, rows, columns[first:last], data[first:last])
        start, before = stop, size


def _all_there(rows: IntArray, columns: IntArray, start: int, before: int) -> bool:
    """Whether each of some nodes has an edge from each of the ``before`` nodes before them, and it is worth a block."""
    if len(rows) * before < FULL_FROM or not (np.diff(rows) >= before).all():
        return False
    return bool((columns[rows[1:] - before] == start - before).all())


def _sparse_block(start: int, rows: IntArray, columns: IntArray, data: "np.ndarray[Any, np.dtype[Any]]") -> Block:
    """Edges into the nodes from ``start``, by row with ascending columns, from the run of nodes that they come from."""
    src = (0, 0)
    filled = np.flatnonzero(np.diff(rows))
    if len(filled):
        src = int(columns[rows[filled]].min()), int(columns[rows[filled + 1] - 1].max()) + 1
    crow, col = torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(columns - np.int32(src[0]))
    return Block(src, (start, start + len(rows) - 1), torch.from_numpy(data), crow, col)


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
    return replace(graph, labels=labels)


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
    for edges in graph.blocks:
        block = edges.load()
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

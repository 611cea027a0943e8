"""A run's graph in the formats of other programs."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy import sparse

from graphprune.core import mask, scores
from graphprune.core.coarsen import quotient, sparsify
from graphprune.core.convert import to_networkx, to_scipy
from graphprune.core.errors import FormatError, InputError
from graphprune.core.graph import Level, ModelGraph
from graphprune.core.graph_store import load_graph
from graphprune.core.io import load_tensors, replacing
from graphprune.core.run import Run

if TYPE_CHECKING:
    import networkx as nx

MAX_XML_EDGES = 2_000_000


def convert(
    run: Run,
    to: str,
    path: Path,
    *,
    level: Level | None = None,
    top_k: int | None = None,
    share: float | None = None,
    attributes: Path | None = None,
) -> dict[str, Any]:
    """Writes ``RUN/graph`` as SciPy `npz`, `graphml` or `gexf` (gzipped if the name ends in .gz).

    Args:
        run: the run.
        to: the format.
        path: the file.
        level: take this coarser level first.
        top_k: keep each node's strongest incoming edges.
        share: keep the strongest edges that hold this share of the weight.
        attributes: a score or mask file whose values become node attributes.

    Raises:
        InputError: the graph is too large for the format; sparsify it or take a coarser level.
    """
    graph = load_graph(run.graph_folder)
    if level is not None:
        graph = quotient(graph, level)
    dropped = None
    if top_k is not None or share is not None:
        try:
            graph, dropped = sparsify(graph, top_k=top_k, share=share)
        except ValueError as error:
            raise InputError(str(error)) from error
    with replacing(path.absolute()) as temporary:
        if to == "npz":
            with temporary.open("wb") as file:
                sparse.save_npz(file, to_scipy(graph))
        else:
            _write_xml(graph, to, temporary, attributes, gzipped=path.suffix == ".gz")
    result = {"file": str(path.absolute()), "nodes": graph.n_nodes, "edges": graph.n_edges}
    if dropped is not None:
        result |= {"edges_dropped": dropped.edges, "weight_share_dropped": dropped.weight_share}
    return result


def _write_xml(graph: ModelGraph, to: str, path: Path, attributes: Path | None, *, gzipped: bool) -> None:
    import networkx as nx

    digraph = to_networkx(graph, max_edges=MAX_XML_EDGES)
    if attributes is not None:
        _attach(digraph, _unit_values(attributes, str(graph.model.get("identity"))))
    write = nx.write_graphml if to == "graphml" else nx.write_gexf
    if gzipped:
        with gzip.open(path, "wb") as file:
            write(digraph, file)
    else:
        write(digraph, str(path))


def _unit_values(path: Path, model: str) -> Mapping[str, torch.Tensor]:
    """The values in a score or mask file of a model.

    Raises:
        FormatError: the file is damaged, something else, or of another model.
    """
    kind = load_tensors(path)[1].get("format")
    if kind == json.dumps(mask.FORMAT):
        return mask.Mask.load(path, model=model).keep
    if kind == json.dumps(scores.FORMAT):
        return scores.Scores.load(path, model=model).values
    raise FormatError(f"{path} holds no scores and is no mask")


def _attach(digraph: "nx.DiGraph[Any]", values: Mapping[str, torch.Tensor]) -> None:
    """Unit values as the attribute `value` of the nodes of the same name; a head's also on its channels' pattern."""
    matched = 0
    for name, tensor in values.items():
        kind, _, layer = name.partition(".")
        if kind == "block":  # block.LAYER.attn is the node attn.LAYER.0
            layer, _, kind = layer.partition(".")
        for position, value in enumerate(tensor.tolist()):
            for node in (f"{kind}.{layer}.{position}", f"pattern.{layer}.{position}" if kind == "head" else None):
                if node is not None and node in digraph:
                    digraph.nodes[node]["value"] = float(value) if isinstance(value, float) else bool(value)
                    matched += 1
    if not matched:
        raise InputError("none of the units in the score file is a node of this graph")

"""A run's graph in the formats of other programs."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy import sparse

from graphprune.centrality import EdgeCentralityResult, edge_betweenness, edge_path_mass
from graphprune.core import mask, scores
from graphprune.core.coarsen import quotient
from graphprune.core.convert import to_networkx, to_scipy
from graphprune.core.errors import FormatError, InputError
from graphprune.core.graph import Level, ModelGraph
from graphprune.core.graph_store import load_graph
from graphprune.core.io import load_tensors, replacing
from graphprune.core.run import Run

if TYPE_CHECKING:
    import networkx as nx

MAX_XML_EDGES = 2_000_000
EDGE_SCORES: dict[str, Callable[[ModelGraph], EdgeCentralityResult]] = {
    "path_mass": edge_path_mass,
    "betweenness": edge_betweenness,
}


def convert(
    run: Run,
    to: str,
    path: Path,
    *,
    level: Level | None = None,
    top_k: int | None = None,
    share: float | None = None,
    attributes: Sequence[Path] = (),
    edge_scores: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes ``RUN/graph`` as SciPy `npz`, `graphml` or `gexf` (gzipped if the name ends in .gz).

    Args:
        run: the run.
        to: the format.
        path: the file.
        level: take this coarser level first.
        top_k: keep each node's strongest incoming edges.
        share: keep the strongest edges that hold this share of the weight.
        attributes: score or mask files; their values become node attributes named like the files.
        edge_scores: edge centralities of the graph as it is written, as edge attributes: names in `EDGE_SCORES`.

    Raises:
        InputError: the graph is too large for the format; sparsify it or take a coarser level.
    """
    unknown = [name for name in edge_scores if name not in EDGE_SCORES]
    if unknown:
        raise InputError(f"no edge centrality is named {unknown[0]!r}; there are {', '.join(EDGE_SCORES)}")
    if to == "npz" and (attributes or edge_scores):
        raise InputError("a SciPy matrix has no room for scores; write graphml or gexf")
    graph = load_graph(run.graph_folder)
    if level is not None:
        graph = quotient(graph, level)
    dropped = None
    if top_k is not None or share is not None:
        try:
            graph, dropped = graph.sparsify(top_k=top_k, share=share)
        except ValueError as error:
            raise InputError(str(error)) from error
    with replacing(path.absolute()) as temporary:
        if to == "npz":
            with temporary.open("wb") as file:
                sparse.save_npz(file, to_scipy(graph))
        else:
            _write_xml(graph, to, temporary, attributes, edge_scores, gzipped=path.suffix == ".gz")
    result = {"file": str(path.absolute()), "nodes": graph.n_nodes, "edges": graph.n_edges}
    if dropped is not None:
        result |= {"edges_dropped": dropped.edges, "weight_share_dropped": dropped.weight_share}
    return result


def _write_xml(
    graph: ModelGraph, to: str, path: Path, attributes: Sequence[Path], edge_scores: Sequence[str], *, gzipped: bool
) -> None:
    import networkx as nx

    digraph = to_networkx(graph, max_edges=MAX_XML_EDGES)
    for scored_file in attributes:
        _attach(digraph, scored_file.stem, _unit_values(scored_file, str(graph.model.get("identity"))))
    for name in edge_scores:
        try:
            scored = EDGE_SCORES[name](graph).edges.to_networkx(max_edges=MAX_XML_EDGES)
        except ValueError as error:
            raise InputError(str(error)) from error
        nx.set_edge_attributes(digraph, nx.get_edge_attributes(scored, "weight"), name)
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
        keep = mask.Mask.load(path, model=model).keep  # single weights are no nodes
        return {name: values for name, values in keep.items() if not name.startswith(mask.WEIGHT)}
    if kind == json.dumps(scores.FORMAT):
        return scores.Scores.load(path, model=model).values
    raise FormatError(f"{path} holds no scores and is no mask")


def _attach(digraph: "nx.DiGraph[Any]", attribute: str, values: Mapping[str, torch.Tensor]) -> None:
    """Unit values as an attribute of the nodes of the same name; a head's also on its channels' pattern."""
    matched = 0
    for name, tensor in values.items():
        kind, _, layer = name.partition(".")
        if kind == "block":  # block.LAYER.attn is the node attn.LAYER.0
            layer, _, kind = layer.partition(".")
        for position, value in enumerate(tensor.tolist()):
            for node in (f"{kind}.{layer}.{position}", f"pattern.{layer}.{position}" if kind == "head" else None):
                if node is not None and node in digraph:
                    digraph.nodes[node][attribute] = float(value) if isinstance(value, float) else bool(value)
                    matched += 1
    if not matched:
        raise InputError("none of the units in the score file is a node of this graph")

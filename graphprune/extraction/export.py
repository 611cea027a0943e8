"""A model's graph, streamed one decoder block at a time.

1. `DecoderEdges` and `PerceptronEdges` lay out the nodes in topological order
2. and yield the edges between them, one decoder block (or layer) at a time.
3. `export` takes each part to the level asked for and keeps it in memory or writes it as a shard.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphprune.core.block import Block
from graphprune.core.coarsen import Quotient, joined
from graphprune.core.errors import InputError
from graphprune.core.graph import LEVELS, MEASURED, WEIGHTS, Level, ModelGraph, Weight
from graphprune.core.graph_store import GraphWriter, load_graph
from graphprune.core.progress import progress
from graphprune.core.stats import CalibrationStats
from graphprune.extraction.decoder import DecoderEdges
from graphprune.extraction.perceptron import PerceptronEdges
from graphprune.models.architecture import Perceptron
from graphprune.models.model import Model


def export(
    model: Model,
    *,
    level: Level = "channel",
    weight: Weight = "magnitude",
    stats: CalibrationStats | None = None,
    folder: Path | None = None,
    inputs: str = "",
) -> ModelGraph:
    """The graph of a model (DESIGN: nodes of every kind, direction of information flow).

    Args:
        model: a decoder or a perceptron.
        level: `channel` (every activation), `unit` (heads, neurons, residual channels) or `block` (modules).
        weight: `magnitude` is |W| with the normalisation gain folded in, skip and structural edges 1. `activation`
            is |W_ij| times the root mean square of input j, skip edges that of the stream they carry, edges into a
            product that of the product. `power` is how much power (squared change) at i a unit of power at j causes, to
            first order: W_ij^2 with the normalisation as it scales here, skips 1, through a gate what the other factor
            makes of it, and of attention the values' path alone. `signed` is W with the gain folded in, skip and
            structural edges 1.
        stats: calibration statistics; needed for `activation` and `power`.
        folder: where to write the graph; it is then loaded memory-mapped. In memory if not given.
        inputs: a hash under which the stored graph can be recognised.

    A matrix of which at least half is zero, as pruning single weights leaves it, is stored without its zeros.

    Cost: one read of the weights and one write of the graph; memory for one decoder block when ``folder`` is given.

    Raises:
        InputError: an unknown level or weight, or one that needs statistics without those of this model.
    """
    if level not in LEVELS:
        raise InputError(f"the level {level!r} is unknown; levels are {', '.join(LEVELS)}")
    if weight not in WEIGHTS:
        raise InputError(f"the edge weight {weight!r} is unknown; weights are {', '.join(WEIGHTS)}")
    if weight in MEASURED:
        if stats is None:
            raise InputError(f"edge weights by {weight} need calibration statistics")
        if stats.model != model.identity:
            raise InputError("the calibration statistics belong to another model")
    source = _edges_of(model, weight, stats)
    coarse = None if level == "channel" else Quotient(source.nodes, level)
    nodes = coarse.nodes if coarse else source.nodes
    kept: Weight = joined(weight) if coarse else weight
    facts = graph_facts(model, stats if weight in MEASURED else None)
    if folder is None:
        parts = map(_without_zeros, source.parts())
        blocks = tuple(block for part in parts for block in (coarse.blocks(part) if coarse else part))
        return ModelGraph(nodes, blocks, level=level, weight=kept, model=facts)
    writer = GraphWriter(folder, nodes)
    n_edges = 0
    try:
        for part in progress(source.parts(), "exporting", total=model.architecture.n_layers, unit="block"):
            edges = _without_zeros(part)
            written = coarse.blocks(edges) if coarse else edges
            n_edges += sum(block.n_edges for block in written)
            writer.add(written)
    except BaseException:
        writer.abandon()
        raise
    writer.finish(level=level, weight=kept, model=facts, inputs=inputs, n_edges=n_edges)
    return load_graph(folder)


def _without_zeros(blocks: Sequence[Block]) -> list[Block]:
    """The same edges, those of weight zero left out of every matrix of which they are at least half.

    So the graph of a model without many of its single weights has no edge for them, and is as much smaller.
    """
    return [_sparse(block) if block.is_full else block for block in blocks]


def _sparse(block: Block) -> Block:
    there = block.values != 0
    return block.selected(there) if 0 < 2 * int(there.sum()) <= block.n_edges else block


def graph_facts(model: Model, stats: CalibrationStats | None) -> dict[str, Any]:
    """Where a graph comes from: the model, its sizes, and the calibration its weights depend on, if they do."""
    calibration = dict(stats.options) if stats is not None else None
    return {"name": model.name, "identity": model.identity, "calibration": calibration, **model.architecture.facts()}


def _edges_of(model: Model, weight: Weight, stats: CalibrationStats | None) -> "DecoderEdges | PerceptronEdges":
    if isinstance(model.architecture, Perceptron):
        return PerceptronEdges(model.architecture, model.parameters, weight, stats)
    return DecoderEdges(model.architecture, model.parameters, weight, stats)


def n_bytes(folder: Path) -> int:
    """Bytes of a graph folder on disk."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())

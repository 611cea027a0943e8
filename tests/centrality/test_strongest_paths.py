"""The strongest paths: all of them by brute force, in order, and with what runs through a unit."""

from collections.abc import Iterator
from itertools import pairwise

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune import export
from graphprune.centrality.flow import CreditFlow
from graphprune.centrality.strongest_paths import StrongestPaths
from graphprune.core.block import Block
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.nodes import NodeIndex, Span
from tests.families import decoder

WIDTH = 3


def layered(weights: torch.Tensor) -> ModelGraph:
    """Two layers of neurons beside a stream that also goes on by itself, its own edges sparse."""
    spans = [Span("resid", 0, WIDTH), Span("neuron", 0, WIDTH), Span("resid", 2, WIDTH), Span("neuron", 1, WIDTH)]
    nodes = NodeIndex((*spans, Span("resid", 4, WIDTH)))
    runs = {span.name: nodes.range(span.kind, span.layer) for span in nodes.spans}
    full = [
        Block.full(runs[src], runs[dst], weights[i])
        for i, (src, dst) in enumerate(
            [("resid.0", "neuron.0"), ("neuron.0", "resid.2"), ("resid.2", "neuron.1"), ("neuron.1", "resid.4")]
        )
    ]
    pointers = torch.arange(WIDTH + 1, dtype=torch.int32)
    stream = [
        Block(runs[src], runs[dst], weights[4, i], pointers, pointers[:-1])
        for i, (src, dst) in enumerate([("resid.0", "resid.2"), ("resid.2", "resid.4")])
    ]
    return ModelGraph(nodes, (*full, *stream))


def all_paths(graph: ModelGraph, through: set[int]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every path from an input to an output that passes some nodes, and the credit that it carries."""
    adjacency = torch.from_numpy(graph.to_scipy().toarray()).double()
    share = adjacency / adjacency.sum(dim=0).clamp_min(1e-300)
    digraph = nx.from_numpy_array(adjacency.numpy(), create_using=nx.DiGraph)
    inputs = [node for node in digraph if digraph.in_degree(node) == 0]
    outputs = range(graph.n_nodes - graph.nodes.spans[-1].size, graph.n_nodes)
    for source in inputs:
        for target in outputs:
            for path in [(source,)] if source == target else map(tuple, nx.all_simple_paths(digraph, source, target)):
                credit = 1 / len(outputs)
                for u, v in pairwise(path):
                    credit *= float(share[u, v])
                if through & {*path}:
                    yield path, credit


@given(
    weights=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=45, max_size=45),
    through=st.sets(st.integers(0, 14), min_size=1, max_size=4),
    n=st.integers(1, 400),
)
def test_they_are_the_strongest_of_all_paths_in_order(weights: list[float], through: set[int], n: int) -> None:
    graph = layered(torch.tensor(weights, dtype=torch.float64).view(5, 3, 3))
    members = torch.zeros(15, dtype=torch.bool).index_fill(0, torch.tensor([*through]), value=True)
    found = StrongestPaths.of(CreditFlow.of(graph)).through(members, n)
    truth = dict(all_paths(graph, through))
    assert len(found) == len({path.nodes for path in found}) == min(n, len(truth))
    carried = [path.credit for path in found]
    assert carried == pytest.approx(sorted(truth.values(), reverse=True)[:n])
    assert carried == pytest.approx([truth[path.nodes] for path in found])
    assert carried == pytest.approx(sorted(carried, reverse=True))


def test_what_all_paths_through_a_node_carry_is_its_credit() -> None:
    graph = layered(torch.rand(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    flow = CreditFlow.of(graph)
    paths = StrongestPaths.of(flow)
    for name, position in (("neuron.0", 1), ("resid.2", 0), ("neuron.1", 2)):
        members = flow.members(name, position)
        assert sum(path.credit for path in paths.through(members, 10_000)) == pytest.approx(float(flow.credit[members]))


@pytest.mark.parametrize("unit", ["neuron.1.3", "head.0.1", "resid.2.4"])
def test_paths_of_a_decoder_pass_the_unit_from_an_input_to_an_output(unit: str) -> None:
    graph = export(decoder("llama"))
    flow = CreditFlow.of(graph)
    group, _, position = unit.rpartition(".")
    members = flow.members(group, int(position))
    found = StrongestPaths.of(flow).through(members, 8)
    assert len(found) == 8
    for path in found:
        assert any(bool(members[node]) for node in path.nodes)
        assert flow.unit_of(path.nodes[0]).startswith("resid.0.")
        assert flow.unit_of(path.nodes[-1]).startswith(graph.nodes.spans[-1].kind)
    assert any(flow.unit_of(node) == unit for node in found[0].nodes)
    assert 0 < sum(path.credit for path in found) < float(flow.credit[members].sum())


def test_a_unit_that_no_path_reaches_has_none_and_none_cannot_be_asked_for() -> None:
    graph = layered(torch.zeros(5, 3, 3, dtype=torch.float64).index_fill(0, torch.tensor([4]), 1.0))
    paths = StrongestPaths.of(CreditFlow.of(graph))
    assert paths.through(paths.flow.members("neuron.0", 1), 3) == ()
    with pytest.raises(InputError, match="at least 1 path"):
        paths.through(paths.flow.members("resid.2"), 0)

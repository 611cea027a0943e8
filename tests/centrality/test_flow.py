"""Credit flow: conserved, and the same by nodes, by units and by modules."""

import pytest
import torch

from graphprune import export
from graphprune.centrality.flow import CreditFlow
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from tests.families import decoder


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return export(decoder("llama"))


@pytest.fixture(scope="module")
def flow(graph: ModelGraph) -> CreditFlow:
    return CreditFlow.of(graph)


def dense(flow: CreditFlow) -> torch.Tensor:
    """What flows along every edge, [src, dst]."""
    adjacency = torch.from_numpy(flow.graph.to_scipy().toarray()).double()
    strength = adjacency.sum(dim=0)
    return adjacency * torch.where(strength > 0, flow.credit.double() / strength, 0.0)


def test_credit_solves_its_equation_and_none_is_lost(flow: CreditFlow) -> None:
    edges, last = dense(flow), flow.graph.nodes.spans[-1].size
    given = edges.sum(dim=1)
    given[-last:] += 1 / last
    torch.testing.assert_close(flow.credit.double(), given, atol=1e-6, rtol=1e-4)
    first = flow.graph.nodes.spans[0].size
    assert float(flow.credit[:first].sum()) == pytest.approx(1, rel=1e-4)


def test_what_flows_into_and_out_of_a_unit_is_the_sum_over_its_nodes(flow: CreditFlow) -> None:
    edges = dense(flow)
    for name, position in (("neuron.1", 3), ("head.0", 1), ("resid.1", 2)):
        members = flow.members(name, position)
        into = edges[:, members].sum(dim=1).masked_fill(members, 0)
        out = edges[members].sum(dim=0).masked_fill(members, 0)
        torch.testing.assert_close(flow.into(members).double(), into, atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(flow.out_of(members).double(), out, atol=1e-7, rtol=1e-4)


def test_a_neuron_is_its_gate_its_input_and_its_output(flow: CreditFlow) -> None:
    members = flow.members("neuron.0", 5)
    found = [flow.graph.nodes.locate(int(i)) for i in members.nonzero()[:, 0]]
    assert {(kind, position) for kind, _, position in found} == {("gate", 5), ("up", 5), ("neuron", 5)}


def test_the_strongest_units_are_named_and_come_first(flow: CreditFlow) -> None:
    strongest = flow.strongest(flow.into(flow.members("neuron.1", 3)), 4)
    assert [name.rsplit(".", 1)[0] for name, _ in strongest] == ["resid.3"] * 4
    values = [value for _, value in strongest]
    assert values == sorted(values, reverse=True)


def test_modules_exchange_what_their_nodes_exchange(flow: CreditFlow) -> None:
    flows, edges, nodes = flow.between_modules(), dense(flow), flow.graph.nodes
    resid, mlp = slice(*nodes.range("resid", 1)), flow.members("neuron.0")
    assert flows["resid.1", "mlp.0"] == pytest.approx(float(edges[resid][:, mlp].sum()), rel=1e-3)
    assert flows["resid.1", "resid.2"] == pytest.approx(
        float(edges[resid, slice(*nodes.range("resid", 2))].sum()), rel=1e-3
    )
    arriving = sum(value for (_, dst), value in flows.items() if dst == "resid.4")
    assert arriving == pytest.approx(1, rel=1e-4)


def test_a_unit_graph_gives_units_too(graph: ModelGraph) -> None:
    flow = CreditFlow.of(graph.quotient("unit"))
    assert int(flow.members("head.1", 0).sum()) == 1
    assert len(flow.strongest(flow.credit, 3)) == 3


def test_weights_with_a_sign_and_graphs_from_outside_are_refused() -> None:
    with pytest.raises(InputError, match="without a sign"):
        CreditFlow.of(export(decoder("llama"), weight="signed"))
    with pytest.raises(InputError, match="no head"):
        CreditFlow.of(export(decoder("llama")).quotient("block")).members("head.0")

"""What is left behind a mask, against enumeration and against the model itself."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from graphprune import Mask, Model, ModelGraph, export
from graphprune.comparison.percolation import QUANTITIES, Percolation, curve, min_cut
from tests import families
from tests.oracles import percolation as oracle

N = 7


def drawn(seed: int) -> tuple["nx.DiGraph[Any]", list[bool]]:
    """A small acyclic digraph, and which of its nodes stay."""
    generator = np.random.default_rng(seed)
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_nodes_from(range(N))
    pairs = [(u, v) for v in range(N) for u in range(v)]
    for i in generator.choice(len(pairs), generator.integers(4, 16), replace=False):
        digraph.add_edge(*pairs[i], weight=float(generator.uniform(0.1, 3)))
    return digraph, (generator.random(N) < 0.75).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_everything_that_can_be_enumerated_is_as_enumerated(seed: int) -> None:
    digraph, stays = drawn(seed)
    graph = ModelGraph.from_networkx(digraph)
    left = digraph.subgraph([node for node in range(N) if stays[node]])
    sources, targets = (set(nodes) for nodes in oracle.ends(digraph))
    sources, targets = sources - targets, targets - sources
    percolation = Percolation.of(graph, backbone=N)
    found = percolation.after(torch.tensor(stays))
    assert percolation.cut == pytest.approx(oracle.min_cut(digraph, sources, targets))
    dense, rest = (oracle.path_weight(each, sources, targets) for each in (digraph, left))
    assert found.path_mass == pytest.approx(rest / dense, rel=1e-6)
    cut = oracle.min_cut(left, sources, targets)
    assert found.min_cut * percolation.cut == pytest.approx(cut, abs=1e-6)
    parts = list(nx.weakly_connected_components(left))
    assert found.components == len(parts)
    assert found.largest == pytest.approx(max(map(len, parts), default=0) / N)


def test_the_narrowest_place_of_a_chain_is_the_cut() -> None:
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_weighted_edges_from(
        [("a", "b", 5.0), ("b", "c", 0.5), ("b", "d", 1.0), ("c", "e", 3.0), ("d", "e", 2.0)]
    )
    assert min_cut(ModelGraph.from_networkx(digraph)) == pytest.approx(1.5)


def test_entropy_is_that_of_the_credit() -> None:
    """Two equal ways from one input to one output: of four nodes that hold credit, by hand."""
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_weighted_edges_from([("in", "a", 1.0), ("in", "b", 1.0), ("a", "out", 1.0), ("b", "out", 1.0)])
    percolation = Percolation.of(ModelGraph.from_networkx(digraph))
    found = percolation.after(torch.tensor([True, True, True, True]))
    shares = np.array([1, 0.425, 0.425, 0.85 * 0.85])
    shares /= shares.sum()
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert found.credit == 1
    labels = list(digraph)
    without = torch.tensor([label != "a" for label in labels])
    assert percolation.after(without).credit == pytest.approx(1 - shares[1], rel=1e-5)


def test_an_input_reaches_the_outputs_that_owe_it_an_even_share() -> None:
    """Of two outputs, x owes three quarters to a and the rest to b; y a half to each, as long as m is there."""
    digraph: nx.DiGraph[Any] = nx.DiGraph()
    digraph.add_weighted_edges_from(
        [("a", "x", 3.0), ("b", "x", 1.0), ("a", "m", 1.0), ("m", "y", 1.0), ("b", "y", 1.0)]
    )
    percolation = Percolation.of(ModelGraph.from_networkx(digraph))
    labels = list(digraph)
    assert percolation.after(torch.ones(len(labels), dtype=torch.bool)).reach == pytest.approx(3 / 4)
    assert percolation.after(torch.tensor([label != "m" for label in labels])).reach == pytest.approx(2 / 4)
    assert percolation.after(torch.tensor([label != "x" for label in labels])).reach == pytest.approx(2 / 4)


def test_a_graph_without_its_inputs_has_no_paths() -> None:
    digraph: nx.DiGraph[Any] = nx.path_graph(3, nx.DiGraph)
    nx.set_edge_attributes(digraph, 1.0, "weight")
    found = Percolation.of(ModelGraph.from_networkx(digraph)).after(torch.tensor([False, True, True]))
    assert (found.path_mass, found.reach, found.min_cut) == (0, 0, 0)


@pytest.fixture(scope="module")
def model() -> Model:
    return families.decoder("llama")


@pytest.fixture(scope="module")
def percolation(model: Model) -> Percolation:
    return Percolation.of(export(model))


def test_a_mask_that_keeps_everything_leaves_everything(model: Model, percolation: Percolation) -> None:
    found = percolation.after(Mask.full(model.units))
    for name in ("path_mass", "credit", "min_cut"):
        assert getattr(found, name) == pytest.approx(1, abs=1e-5)
    assert found.facts().keys() == set(QUANTITIES)


def masks(model: Model) -> dict[float, Mask]:
    """Nested masks of neurons."""
    found = {}
    for sparsity in (0.25, 0.5, 0.75):
        keep = dict(Mask.full(model.units).keep)
        for group in model.units.of_kind("neuron"):
            keep[group.name] = torch.arange(group.size) >= sparsity * group.size
        found[sparsity] = Mask(keep, model=model.identity)
    return found


def test_the_more_goes_the_less_is_left(model: Model, percolation: Percolation) -> None:
    rows = list(curve(percolation, masks(model)).values())
    assert len(rows) == 3
    for name in ("path_mass", "credit", "min_cut", "largest"):
        values = [getattr(row, name) for row in rows]
        assert 1 >= values[0] >= values[1] >= values[2] >= 0
    assert rows[0].path_mass > rows[2].path_mass


def test_path_mass_is_that_of_the_graph_exported_from_the_zeroed_model(model: Model, percolation: Percolation) -> None:
    """Zeroing a neuron's weights in the model leaves the same paths."""
    mask = masks(model)[0.5]
    keep = mask.keep["neuron.1"]
    parameters = {name: model.parameters[name].clone() for name in model.parameters}
    for layer in range(2):
        gone = ~mask.keep[f"neuron.{layer}"]
        for module in ("gate_proj", "up_proj"):
            parameters[f"model.layers.{layer}.mlp.{module}.weight"][gone] = 0
        parameters[f"model.layers.{layer}.mlp.down_proj.weight"][:, gone] = 0
    assert not keep.all()
    zeroed = Model.from_parameters(model.config, parameters)
    found = percolation.after(mask)
    other = Percolation.of(export(zeroed))
    assert found.path_mass == pytest.approx(np.exp(other.paths - percolation.paths), rel=1e-4)
    assert found.min_cut == pytest.approx(other.cut / percolation.cut, rel=1e-4)


def test_signed_weights_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        Percolation.of(export(model, weight="signed"))

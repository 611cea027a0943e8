"""Disagreements: places, order, and what the graph says."""

from dataclasses import replace

import pytest
import torch

from graphprune import Model, ModelGraph, Scores, export
from graphprune.centrality import path_mass
from graphprune.centrality.units import per_unit
from graphprune.comparison.disagreement import UnitFacts, disagreements
from graphprune.core.errors import InputError
from tests import families


@pytest.fixture(scope="module")
def model() -> Model:
    return families.decoder("llama")


@pytest.fixture(scope="module")
def graph(model: Model) -> ModelGraph:
    return export(model)


def scores(**values: list[float]) -> Scores:
    return Scores({name.replace("_", "."): torch.tensor(value) for name, value in values.items()}, "a")


def test_places_are_among_the_units_of_a_layer_or_of_a_kind() -> None:
    a = scores(neuron_0=[1.0, 2, 3], neuron_1=[10.0, 20, 30])
    b = scores(neuron_0=[3.0, 2, 1], neuron_1=[10.0, 20, 30])
    found = disagreements(a, b)
    assert [(each.unit, each.a, each.b) for each in found[:2]] == [("neuron.0.0", 0, 1), ("neuron.0.2", 1, 0)]
    assert {each.difference for each in found[2:]} == {0}
    within = disagreements(a, b, within="kind")
    assert [(each.unit, each.a, each.b) for each in within[:2]] == [("neuron.0.0", 0, 0.4), ("neuron.0.2", 0.4, 0)]


def test_ties_share_a_place() -> None:
    a, b = scores(neuron_0=[1.0, 1, 1]), scores(neuron_0=[0.0, 1, 2])
    assert [(each.unit, each.a, each.b) for each in disagreements(a, b, top=1)] == [("neuron.0.0", 0.5, 0)]


def test_there_are_as_many_as_were_asked_for() -> None:
    a = scores(neuron_0=[1.0, 2, 3], head_0=[1.0, 2])
    assert len(disagreements(a, a, top=2)) == 2
    assert len(disagreements(a, a)) == 5
    assert {each.group for each in disagreements(a, a, kinds=["head"])} == {"head.0"}
    with pytest.raises(InputError, match="at least 1 unit"):
        disagreements(a, a, top=0)
    with pytest.raises(InputError, match=r"incomplete: neuron\.1 missing"):
        disagreements(a, scores(neuron_0=[1.0, 2, 3], head_0=[1.0, 2], neuron_1=[1.0]))


def test_the_graph_says_what_it_knows_of_a_unit(model: Model, graph: ModelGraph) -> None:
    facts = UnitFacts.of(graph)
    flat = {group.name: torch.arange(float(group.size)) for group in model.units.of_kind("head", "neuron")}
    a = Scores(flat, "a")
    b = replace(a, values={**flat, "neuron.1": flat["neuron.1"].flip(0)})
    (first, *_) = disagreements(a, b, facts=facts)
    assert first.unit == "neuron.1.0"
    assert first.facts["path_mass"] == pytest.approx(float(per_unit(graph, path_mass(graph))["neuron.1"][0]))
    down = model.parameters["model.layers.1.mlp.down_proj.weight"][:, 0]
    assert first.facts["out_strength"] == pytest.approx(float(down.abs().sum()), rel=1e-5)
    assert isinstance(first.facts["community"], int)
    assert first.row()["difference"] == -1


def test_graphs_that_know_no_units_are_refused(model: Model, graph: ModelGraph) -> None:
    for other, message in (
        (graph.quotient("block"), "nothing of heads and neurons"),
        (export(model, weight="signed"), "without a sign"),
    ):
        with pytest.raises(InputError, match=message):
            UnitFacts.of(other)

"""Scores that take solving the model: second-order errors against elimination by hand, and what SparseLLM leaves."""

from typing import Any

import pytest
import torch

from graphprune import Model, prune
from graphprune.core.errors import InputError
from graphprune.pruning import Evidence
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import compensated
from graphprune.solvers.scores import EliminationSurgeon, SecondOrder, Surviving, of_units
from graphprune.solvers.sequential import Journal
from tests.families import MODEL_TYPES, decoder, perceptron, token_ids
from tests.solvers.test_blocks import read_by

DAMPING = 0.01


def evidence(model: Model) -> Evidence:
    return Evidence.of_text(model, token_ids(12, 16), dtype=torch.float32)


def hessian_at(model: Model, name: str) -> torch.Tensor:
    """Of what a layer of the dense model reads."""
    network: Any = model.module(dtype=torch.float32)
    read = read_by(network, token_ids(12, 16), name).flatten(0, 1)
    hessian = Hessian.empty(read.shape[1])
    hessian.add(read)
    return hessian.damped(DAMPING)


@pytest.mark.parametrize("kind", ["head", "neuron"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_score_is_the_layers_error_without_the_unit_and_all_that_score_less(kind: str, layer: int) -> None:
    model = decoder("llama")
    scores = evidence(model).solved_scores(SecondOrder(), DAMPING)
    group = model.units[f"{kind}.{layer}"]
    (reader,) = group.outgoing
    W, H = model.parameters[reader.parameter].double(), hessian_at(model, reader.parameter.removesuffix(".weight"))
    values = scores.values[group.name]
    shared = {"head": 0, "neuron": 2}[kind]  # of the three neurons that go together, the last has the error of all
    for unit in values.argsort()[shared:-1]:
        keep = (values > values[unit]).repeat_interleave(group.width)
        change = compensated(W, H, keep) - W
        error = float(((change @ H) * change).sum())
        assert float(values[unit]) == pytest.approx(error, rel=2e-3)


def test_the_whole_layers_error_is_the_last_units_score() -> None:
    model = decoder("llama")
    values = evidence(model).solved_scores(SecondOrder(), DAMPING).values["neuron.0"]
    W = model.parameters["model.layers.0.mlp.down_proj.weight"].double()
    H = hessian_at(model, "model.layers.0.mlp.down_proj")
    assert float(values.max()) == pytest.approx(float(((W @ H) * W).sum()), rel=2e-3)


def test_credit_makes_layers_comparable_and_changes_scores() -> None:
    model = decoder("llama")
    plain, weighed = (evidence(model).solved_scores(SecondOrder(credit)) for credit in (False, True))
    assert weighed.options["credit"] is True
    assert not torch.allclose(plain.values["neuron.0"], weighed.values["neuron.0"])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("scorer", [SecondOrder(), Surviving(0.5)])
def test_every_family_has_a_score_for_every_head_and_neuron(model_type: str, scorer: Any) -> None:
    model = decoder(model_type)
    scores = evidence(model).solved_scores(scorer)
    assert scores.values.keys() == {group.name for group in model.units.of_kind("head", "neuron")}
    assert scores.method == scorer.name
    assert all(bool((values >= 0).all()) for values in scores.values.values())
    assert prune(model, scores, 0.3).mask.keep.keys() >= scores.values.keys()


@pytest.mark.parametrize("scorer", [SecondOrder(), Surviving(0.7)])
def test_a_perceptron_is_scored_as_well(scorer: Any) -> None:
    model = perceptron()
    X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    scores = Evidence.of_text(model, X).solved_scores(scorer)
    assert {name: len(values) for name, values in scores.values.items()} == {"neuron.0": 10, "neuron.1": 8}


def test_a_unit_that_writes_nothing_scores_nothing() -> None:
    model = decoder("llama")
    name = "model.layers.0.mlp.down_proj.weight"
    silent = model.parameters[name].clone()
    silent[:, 3] = 0
    without = Model.from_parameters(model.config, {**model.parameters, name: silent})
    for scorer in (SecondOrder(), Surviving(0.5)):
        values = evidence(without).solved_scores(scorer).values["neuron.0"]
        assert int(values.argmin()) == 3


def test_scoring_goes_on_where_it_was_stopped(tmp_path: Any) -> None:
    model = decoder("llama")
    whole = evidence(model).solved_scores(SecondOrder(), journal=Journal(tmp_path))
    (tmp_path / "scores" / "block-0001.safetensors").unlink()
    again = evidence(model).solved_scores(SecondOrder(), journal=Journal(tmp_path))
    assert all(torch.equal(again.values[name], values) for name, values in whole.values.items())


def test_units_that_nobody_noted_are_named() -> None:
    with pytest.raises(InputError, match=r"head\.0"):
        of_units({}, decoder("llama"))


def test_a_sparsity_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Surviving(1.0)


def test_eliminating_leaves_the_model_alone() -> None:
    surgeon = EliminationSurgeon(decoder("llama"), DAMPING)
    assert surgeon.sites(0) == ("attn", "neuron")
    assert surgeon.sites(7) == ()

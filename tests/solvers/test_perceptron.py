"""Perceptrons in the sequential engine: layer after layer behind what has been pruned, or all of them as one chain."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, prune
from graphprune.core.errors import InputError
from graphprune.core.mask import WEIGHT
from graphprune.methods import Cut, Recipe
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.obs import compensated
from graphprune.solvers.sequential import Journal, operate
from graphprune.solvers.sparsegpt import sparsegpt
from graphprune.solvers.units import Decided, UnitSurgeon
from tests.families import perceptron

DAMPING = 0.01
NEURONS = Cut(units="neuron")


def inputs(n: int = 300, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator) @ torch.randn(6, 6, generator=generator)


def evidence(model: Model, X: torch.Tensor) -> Evidence:
    return Evidence.of_text(model, X)


def hessian_of(X: torch.Tensor) -> torch.Tensor:
    hessian = Hessian.empty(X.shape[1])
    hessian.add(X)
    return hessian.damped(DAMPING)


def layer(model: Model, number: int, W: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
    """What a layer of the ReLU perceptron gives with these weights, its activation included."""
    given = X @ W.t() + model.parameters[f"layers.{number}.bias"]
    return given if number == 2 else given.relu()


def output_error(model: Model, cutting: Cutting, X: torch.Tensor) -> float:
    dense: Any = model.module()
    with torch.inference_mode():
        Y, read = dense(X), X
        for number in range(3):
            read = layer(model, number, cutting.model.parameters[f"layers.{number}.weight"], read)
    return float((Y - read).square().sum() / (Y - model.parameters["layers.2.bias"]).square().sum())


def test_single_weights_are_solved_behind_the_pruned_layers() -> None:
    model, X = perceptron(), inputs()
    cutting = apply(Recipe.of("sparsegpt"), 0.5, evidence(model, X))
    read = X
    for number in range(3):
        name = f"layers.{number}.weight"
        W, keep = model.parameters[name], cutting.mask.keep[f"{WEIGHT}{name}"]
        solved = sparsegpt(W, hessian_of(read), n_removed=int((~keep).sum()))
        assert torch.equal(solved.keep, keep)
        torch.testing.assert_close(cutting.model.parameters[name], solved.weights, rtol=1e-4, atol=1e-5)
        read = layer(model, number, cutting.model.parameters[name], read)
    gone = sum(int((~keep).sum()) for keep in cutting.mask.weights.values())
    assert gone == round(0.5 * sum(keep.numel() for keep in cutting.mask.weights.values()))


def test_units_are_made_up_for_by_the_layer_that_reads_them() -> None:
    model, X = perceptron(), inputs()
    keep = {"neuron.0": torch.arange(10) % 3 != 0, "neuron.1": torch.arange(8) % 4 != 0}
    operated = operate(model, X, UnitSurgeon(model, Decided(keep), "obs", DAMPING))
    read = layer(model, 0, model.parameters["layers.0.weight"], X)
    for number in (1, 2):
        W = model.parameters[f"layers.{number}.weight"]
        expected = compensated(W, hessian_of(read), keep[f"neuron.{number - 1}"])
        torch.testing.assert_close(operated.parameters[f"layers.{number}.weight"], expected, rtol=1e-4, atol=1e-5)
        read = layer(model, number, expected, read)
    assert operated.keep.keys() == keep.keys()
    assert operated.tokens == len(X)


@pytest.mark.parametrize("method", ["slimgpt", "activation", "wanda", "random"])
@pytest.mark.parametrize("compensation", ["none", "obs"])
def test_methods_for_units_prune_a_perceptron(method: str, compensation: Any) -> None:
    model, X = perceptron(), inputs()
    pruned = prune(model, method, 0.25, units="neuron", calibration=X, compensation=compensation)
    assert sum(int((~pruned.mask.keep[f"neuron.{i}"]).sum()) for i in range(2)) == round(0.25 * 18)
    assert pruned.rung == "excised"
    assert pruned.operated is not None
    assert pruned.model.module()(X).shape == (300, 4)


def test_repair_helps_a_perceptron() -> None:
    model, X = perceptron(), inputs()

    def error(compensation: Any) -> float:
        pruned = prune(model, "random", 0.4, units="neuron", calibration=X, compensation=compensation)
        return float((pruned.model.module()(X) - model.module()(X)).detach().square().sum())

    assert error("obs") < 0.7 * error("none")


@pytest.mark.parametrize("seed", range(4))
def test_a_chain_solved_as_a_whole_is_never_worse_than_layer_by_layer(seed: int) -> None:
    model, X = perceptron((6, 24, 20, 4), seed=seed), inputs(seed=seed)
    local, whole = (apply(Recipe.of(method), 0.6, evidence(model, X)) for method in ("sparsegpt", "sparsellm"))
    assert output_error(model, whole, X) < 0.8 * output_error(model, local, X)
    assert whole.operated is not None
    assert whole.operated.errors["mlp_in.0"] == pytest.approx(output_error(model, whole, X), rel=1e-2)
    assert {name for name in whole.operated.notes if name.startswith("neuron")} == {"neuron.0", "neuron.1"}
    counts = [sum(int(k.sum()) for k in cutting.mask.weights.values()) for cutting in (local, whole)]
    assert counts[0] == counts[1]


def test_a_neuron_whose_weights_all_go_does_no_harm() -> None:
    model = perceptron((6, 24, 20, 4))
    dead = {**model.parameters, "layers.0.bias": model.parameters["layers.0.bias"].clone()}
    dead["layers.0.bias"][:5] = -1e3  # never above zero
    silent = Model.from_parameters(model.config, dead)
    cutting = apply(Recipe.of("sparsellm"), 0.9, evidence(silent, inputs()))
    assert all(bool(torch.isfinite(cutting.model.parameters[name]).all()) for name in silent.parameters)


def test_gradient_steps_move_a_whole_perceptron() -> None:
    model, X = perceptron((6, 24, 20, 4)), inputs()
    local = apply(Recipe.of("sparsegpt"), 0.6, evidence(model, X))
    moved = apply(Recipe.of("sparsegpt", compensation="reconstruct", joint=JointOptions(iterations=20)), 0.6,
                  evidence(model, X))  # fmt: skip
    assert output_error(model, moved, X) < output_error(model, local, X)
    assert all(torch.equal(moved.mask.keep[name], keep) for name, keep in local.mask.keep.items())


@pytest.mark.parametrize("method", ["sparsegpt", "sparsellm", "slimgpt"])
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, method: str) -> None:
    model, X = perceptron((6, 10, 9, 8, 4)), inputs()
    recipe = Recipe.of(method, cut=NEURONS if method == "slimgpt" else None)
    whole = apply(recipe, 0.3, evidence(model, X), journal=Journal(tmp_path / "whole"))
    part = Journal(tmp_path / "part")
    apply(recipe, 0.3, evidence(model, X), journal=part)
    for block in (1, 2):
        (tmp_path / "part" / f"block-{block:04d}.safetensors").unlink()
    again = apply(recipe, 0.3, evidence(model, X), journal=Journal(tmp_path / "part"))
    for name in model.parameters:
        assert torch.equal(again.model.parameters[name], whole.model.parameters[name])


@pytest.mark.parametrize("compensation", ["sparsellm", "reconstruct"])
def test_units_of_a_perceptron_are_not_solved_as_a_whole(compensation: Any) -> None:
    with pytest.raises(InputError, match="not for its units"):
        prune(perceptron(), "slimgpt", 0.3, units="neuron", calibration=inputs(), compensation=compensation)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="takes"):
        apply(Recipe.of("sparsegpt"), 0.3, evidence(perceptron(), torch.randn(10, 5)))

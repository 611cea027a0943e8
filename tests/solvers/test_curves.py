"""Error curves against direct evaluation, and credit against what noise does to the prediction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, pruning
from graphprune.calibration.sensitivity import sensitivities
from graphprune.calibration.text import windows
from graphprune.core.errors import InputError
from graphprune.masks.items import HeadMode, removable
from graphprune.methods import Recipe
from graphprune.pruning import Evidence, allocated, curves_for, kinds_of
from graphprune.solvers.curves import CurveSurgeon, error_curves, priced
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import compensated
from graphprune.solvers.sequential import Seen
from graphprune.solvers.units import KIND_AT, ByElimination
from tests.families import decoder, perceptron, token_ids

TEXTS = Path(__file__).parents[2] / "graphprune" / "models" / "tiny"
DAMPING = 0.01


def seen(model: Model, site: str, seed: int = 0) -> Seen:
    """A site of the first block with correlated inputs."""
    group = model.units[f"{KIND_AT[site]}.0"]
    (reader,) = group.outgoing
    generator = torch.Generator().manual_seed(seed)
    columns = group.size * group.width
    X = torch.randn(200, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    hessian = Hessian.empty(columns)
    hessian.add(X)
    return Seen(0, site, hessian, {reader.parameter: model.parameters[reader.parameter].float()})


def refitted_error(W: torch.Tensor, hessian: torch.Tensor, keep: torch.Tensor, credit: torch.Tensor) -> float:
    """Half of the credit-weighted error of the best refit of some columns."""
    change = compensated(W.double(), hessian, keep) - W.double()
    return float((credit.double() * ((change @ hessian) * change).sum(dim=1)).sum() / 2)


@pytest.mark.parametrize("credited", [False, True])
def test_a_curve_is_the_error_of_the_best_refit_without_the_first_pieces(credited: bool) -> None:
    model = decoder("llama")
    given = seen(model, "neuron")
    group = model.units["neuron.0"]
    (W,) = given.weights.values()
    credit = torch.rand(len(W), generator=torch.Generator().manual_seed(1)) if credited else torch.ones(len(W))
    chooser = ByElimination(model, {}, group_start=1, group_floor=1)
    change = CurveSurgeon(chooser, DAMPING, {group.name: credit} if credited else None)(given)
    assert not change.parameters
    assert not change.keep
    curve = change.notes[group.name].double()
    hessian = given.hessian.damped(DAMPING)
    order, _ = chooser.greedy(group, W * credit.sqrt()[:, None], hessian).remove([1] * len(curve))
    for n in (1, 2, 7, len(curve)):
        keep = torch.ones(group.size, dtype=torch.bool)
        keep[order[:n]] = False
        assert float(curve[:n].sum()) == pytest.approx(refitted_error(W, hessian, keep, credit), rel=1e-5)
    alone = [refitted_error(W, hessian, torch.arange(group.size) != unit, credit) for unit in range(group.size)]
    assert float(curve[0]) == pytest.approx(min(alone), rel=1e-5)


def test_a_curve_takes_the_steps_of_the_pruning_and_shares_each_steps_cost() -> None:
    model = decoder("llama")
    given = seen(model, "neuron")
    group = model.units["neuron.0"]
    (W,) = given.weights.values()
    chooser = ByElimination(model, {}, group_start=8, group_floor=4)
    curve = CurveSurgeon(chooser, DAMPING)(given).notes[group.name].double()
    order, errors = chooser.greedy(group, W, given.hessian.damped(DAMPING)).remove([8, 4, 4])
    assert len(order) == 16
    for step in (slice(0, 8), slice(8, 12), slice(12, 16)):
        costs = torch.full((step.stop - step.start,), float(errors[step].sum()) / (step.stop - step.start) / 2)
        torch.testing.assert_close(curve[step], costs.double())


@pytest.mark.parametrize("head_mode", ["group", "balanced"])
def test_a_curve_of_heads_has_a_cost_for_every_piece_but_the_last(head_mode: HeadMode) -> None:
    model = decoder("llama", num_attention_heads=6, num_key_value_heads=2, hidden_size=24, head_dim=4)
    given = seen(model, "attn")
    chooser = ByElimination(model, {}, head_mode, "exact")
    curve = CurveSurgeon(chooser, DAMPING)(given).notes["head.0"].double()
    assert len(curve) == {"group": 2, "balanced": 3}[head_mode] - 1
    group = model.units["head.0"]
    (W,) = given.weights.values()
    hessian = given.hessian.damped(DAMPING)

    def without(*heads: int) -> float:
        keep = torch.ones(group.size, dtype=torch.bool)
        keep[list(heads)] = False
        return refitted_error(W, hessian, keep.repeat_interleave(group.width), torch.ones(len(W)))

    if head_mode == "group":
        assert float(curve[0]) == pytest.approx(min(without(0, 1, 2), without(3, 4, 5)), rel=1e-5)
    else:
        first = min(range(3), key=without), min(range(3, 6), key=without)
        assert float(curve[0]) == pytest.approx(without(*first), rel=1e-5)


def test_measuring_leaves_the_model_and_its_hidden_states_as_they_are() -> None:
    model = decoder("gemma3_text")
    rows = token_ids(6, 12)
    surgeon = CurveSurgeon(ByElimination(model, {}), DAMPING)
    curves = error_curves(model, rows, surgeon, dtype=torch.float32)
    assert curves.keys() == {group.name for group in model.units.of_kind("head", "neuron")}
    alone = {}
    network: Any = model.module(dtype=torch.float32)
    for group in model.units.of_kind("neuron"):
        (reader,) = group.outgoing
        read: list[torch.Tensor] = []
        module = network.get_submodule(reader.parameter.removesuffix(".weight"))
        module.register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        alone[group.name] = (reader.parameter, read)
    with torch.inference_mode():
        network(input_ids=rows)
    for name, (parameter, read) in alone.items():
        hessian = Hessian.empty(read[0].shape[-1])
        hessian.add(read[0])
        expected = surgeon(Seen(int(name[-1]), "neuron", hessian, {parameter: model.parameters[parameter]}))
        torch.testing.assert_close(curves[name], expected.notes[name], rtol=1e-3, atol=1e-9)


def test_prices_rise_and_no_layer_has_more_pieces_than_it_may_lose() -> None:
    model = decoder("llama")
    pieces = removable(None, model.units, ("neuron",))
    size = pieces[0].size
    curves = {part.group: torch.tensor([3.0, 1.0, 5.0, *range(10, 10 + size - 4)]) for part in pieces}
    for part in priced(pieces, curves, 0.5):
        assert len(part) == len(part.members) == round(size / 2)
        assert part.scores[:4].tolist() == [3.0, 3.0, 5.0, 10.0]


def test_curves_are_kept_in_a_folder_and_serve_another_sparsity_but_no_other_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder("llama")
    recipe = Recipe.of("graphslim", compensation="obs")
    kinds = kinds_of(recipe.cut, model.units.kinds)

    def evidence(seed: int) -> Evidence:
        rows = token_ids(6, 32, seed=seed)
        return replace(Evidence.of_text(model, rows, n_samples=6, seq_len=32), folder=tmp_path)

    made = curves_for(recipe, evidence(0))
    monkeypatch.setattr(pruning, "error_curves", None)  # not to be asked again
    again = evidence(0)
    a_fifth, two_fifths = (allocated(recipe, sparsity, again, kinds) for sparsity in (0.2, 0.4))
    assert sum(a_fifth.values()) < sum(two_fifths.values())
    found = curves_for(recipe, again)
    assert found.keys() == made.keys()
    assert all(torch.equal(found[group], made[group]) for group in made)
    with pytest.raises(TypeError):
        curves_for(recipe, evidence(1))


def test_credit_is_what_noise_on_a_layers_output_does_to_the_prediction(tiny: Model) -> None:
    """The Kullback-Leibler divergence that small noise causes is half its power times the credit, summed."""
    text = (TEXTS / "calibration.txt").read_text(encoding="utf-8")
    rows = windows(tiny.tokenizer, text, 64)[:24]
    credit = sensitivities(tiny, rows, dtype=torch.float32)
    network: Any = tiny.module(dtype=torch.float32)
    with torch.inference_mode():
        dense = network(input_ids=rows).logits.log_softmax(dim=-1)
    generator = torch.Generator().manual_seed(0)
    for name, part in (("head.1", "self_attn.o_proj"), ("neuron.4", "mlp.down_proj")):
        module = network.model.layers[int(name[-1])].get_submodule(part)
        scale = 0.02 / float(credit[name].sum().sqrt())
        handle = module.register_forward_hook(
            lambda _, __, out, scale=scale: out + scale * torch.randn(out.shape, generator=generator)
        )
        divergences = []
        with torch.inference_mode():
            for _ in range(3):
                noisy = network(input_ids=rows).logits.log_softmax(dim=-1)
                divergences.append(float((dense.exp() * (dense - noisy)).sum(dim=-1).mean()))
        handle.remove()
        found = sum(divergences) / len(divergences)
        assert found == pytest.approx(scale**2 * float(credit[name].sum()) / 2, rel=0.15)


def test_credit_does_not_depend_on_what_it_is_not_made_of(tiny: Model) -> None:
    rows = token_ids(4, 16)
    once, again, other = (sensitivities(tiny, rows, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)
    assert once.keys() == {group.name for group in tiny.units.of_kind("head", "neuron")}


def test_credit_needs_a_language_model_and_a_text(tiny: Model) -> None:
    with pytest.raises(InputError, match="perceptron"):
        sensitivities(perceptron((6, 4, 2)), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="no calibration text"):
        sensitivities(tiny, torch.zeros(0, 4, dtype=torch.long))

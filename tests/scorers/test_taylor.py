"""Taylor scores against autograd on the Hugging Face model, unit by unit and weight by weight."""

from functools import cache
from typing import Any

import pytest
import torch

from graphprune import Model, Scores, score
from graphprune.calibration.gradient import gradients
from graphprune.core.errors import InputError
from graphprune.scorers.inputs import WeightInputs
from graphprune.scorers.taylor import Taylor
from tests import families

D_HEAD, N_HEADS, D_MLP = 8, 4, 24
ROWS = families.token_ids(6, 12)


@cache
def measured(name: str) -> tuple[Model, dict[str, torch.Tensor]]:
    model = families.decoder(name)
    return model, gradients(model, ROWS)


@cache
def changes(name: str) -> dict[str, torch.Tensor]:
    """``w dL/dw`` of every parameter by Hugging Face's loss, in float64."""
    network: Any = families.causal_lm(name)
    network(input_ids=ROWS, labels=ROWS).loss.backward()
    return {key: (p.detach() * p.grad).double() for key, p in network.named_parameters() if p.grad is not None}


def scored(name: str, form: str) -> Scores:
    model, known = measured(name)
    return score(model, "taylor", gradients=known, form=form)


def reduced(parts: list[torch.Tensor], form: str) -> float:
    flat = torch.cat([part.reshape(-1) for part in parts])
    return float(flat.abs().sum() if form == "element" else flat.sum().abs())


@pytest.mark.parametrize("form", ["element", "unit"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3_text"])  # qwen2 has biases in its attention
def test_a_score_is_the_change_of_the_loss_by_what_a_unit_owns(name: str, form: str) -> None:
    found, c = scored(name, form), changes(name)
    for layer in range(2):
        home = f"model.layers.{layer}"
        neurons, heads = [], []
        for j in range(D_MLP):
            rows = [c[f"{home}.mlp.gate_proj.weight"][j], c[f"{home}.mlp.up_proj.weight"][j]]
            neurons.append(reduced([*rows, c[f"{home}.mlp.down_proj.weight"][:, j]], form))
        for h in range(N_HEADS):
            part = slice(h * D_HEAD, (h + 1) * D_HEAD)
            parts = [c[f"{home}.self_attn.q_proj.weight"][part], c[f"{home}.self_attn.o_proj.weight"][:, part]]
            if name == "qwen2":
                parts.append(c[f"{home}.self_attn.q_proj.bias"][part])
            heads.append(reduced(parts, form))
        for group, expected in ((f"neuron.{layer}", neurons), (f"head.{layer}", heads)):
            torch.testing.assert_close(found.values[group], torch.tensor(expected), rtol=1e-3, atol=1e-6)


def test_changes_that_cancel_count_for_less_in_a_unit() -> None:
    by_element, by_unit = scored("llama", "element").values, scored("llama", "unit").values
    assert all(bool((by_unit[name] < values).all()) for name, values in by_element.items())


def test_a_small_cut_changes_the_loss_by_the_units_score() -> None:
    network: Any = families.causal_lm("llama").double()
    by_unit, share = scored("llama", "unit").values["neuron.1"], 0.02

    def loss() -> float:
        with torch.no_grad():
            return float(network(input_ids=ROWS, labels=ROWS).loss)

    for j in by_unit.topk(3).indices.tolist():
        mlp = network.model.layers[1].mlp
        parts = [mlp.gate_proj.weight.data[j], mlp.up_proj.weight.data[j], mlp.down_proj.weight.data[:, j]]
        values = []
        for factor in (1 + share, (1 - share) / (1 + share), 1 / (1 - share)):  # up, down, and back
            for part in parts:
                part.mul_(factor)
            values.append(loss())
        assert abs(values[0] - values[1]) / (2 * share) == pytest.approx(float(by_unit[j]), rel=0.02, abs=2e-5)


def test_a_weights_score_is_its_change_of_the_loss() -> None:
    model, known = measured("llama")
    name = "model.layers.0.self_attn.q_proj.weight"
    seen = WeightInputs(name, gradient=known[name])
    for form in ("element", "unit"):
        found = Taylor(form).of_weights(model.parameters[name], seen)
        torch.testing.assert_close(found.double(), changes("llama")[name].abs(), rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="needs gradients"):
        Taylor().of_weights(model.parameters[name], WeightInputs(name))


def test_gradients_of_another_model_or_of_too_little_are_refused() -> None:
    model, known = measured("llama")
    wider = families.decoder("llama", intermediate_size=32)
    for wrong in (gradients(wider, ROWS), {name: known[name] for name in known if "up_proj" not in name}, {}):
        with pytest.raises(InputError, match="the gradients belong to another model"):
            score(model, "taylor", gradients=wrong)


def test_the_record_of_a_score_depends_on_the_gradients() -> None:
    model, known = measured("llama")
    others = gradients(model, families.token_ids(6, 12, seed=1))
    assert score(model, "taylor", gradients=known).inputs == score(model, "taylor", gradients=dict(known)).inputs
    assert score(model, "taylor", gradients=known).inputs != score(model, "taylor", gradients=others).inputs

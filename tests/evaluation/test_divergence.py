"""Divergence from the dense model: by hand, against PyTorch, and the same however it is computed."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Mask, Model, evaluate, load_model
from graphprune.core.errors import InputError
from graphprune.evaluation.divergence import FinalStates, alongside, divergence, kl_divergence
from graphprune.evaluation.masked import standing_in
from tests import families
from tests.cli import runner


def test_divergence_by_hand() -> None:
    """From (1/2, 1/2) to (1/4, 3/4) at the first of two places; the last place doesn't count."""
    dense = torch.zeros(1, 2, 2)
    pruned = torch.tensor([[[0.0, math.log(3)], [5.0, -5.0]]])
    wanted = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(kl_divergence(dense, pruned)) == pytest.approx(wanted)
    assert float(kl_divergence(pruned, dense)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_divergence_is_that_of_pytorch_and_zero_from_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 5, 11, generator=generator)
    wanted = torch.nn.functional.kl_div(
        q[:, :-1].log_softmax(-1), p[:, :-1].log_softmax(-1), log_target=True, reduction="sum"
    )
    assert float(kl_divergence(p, q)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(kl_divergence(p, p)) == 0


def half(model: Model) -> Mask:
    keep = dict(Mask.full(model.units).keep)
    for group in model.units.of_kind("neuron"):
        keep[group.name] = torch.arange(group.size) % 2 == 0
    return Mask(keep, model=model.identity)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt"])
def test_logits_made_of_final_states_are_the_dense_ones(name: str) -> None:
    model, rows = families.decoder(name), families.token_ids(5, 12)
    network: Any = model.module(dtype=torch.float32)
    states = FinalStates(network, rows)
    with torch.inference_mode():
        torch.testing.assert_close(states(rows[2:4], 2), network(input_ids=rows[2:4]).logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_does_not_matter_how_the_dense_logits_are_come_by(name: str) -> None:
    model, rows = families.decoder(name), families.token_ids(5, 12)
    network = model.module(dtype=torch.float32)
    dense = alongside(deepcopy(network))  # the modules of a model in memory share its parameters
    remembered = FinalStates(network, rows)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with standing_in(network, model, half(model)):
        found = [
            divergence(network, dense, rows, batch_size=2), divergence(network, remembered, rows, batch_size=3),
            divergence(network, remembered, rows),
        ]  # fmt: skip
    assert found[0].kl > 0
    for other in found[1:]:
        assert other.kl == pytest.approx(found[0].kl, rel=1e-4)
        assert other.perplexity == pytest.approx(found[0].perplexity, rel=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert divergence(network, dense, rows).kl == 0
    assert found[0].perplexity != pytest.approx(evaluate(model, rows).perplexity)


def test_a_report_has_the_divergence_if_it_is_asked_for() -> None:
    model, rows = families.decoder("llama"), families.token_ids(5, 12)
    assert "kl" not in evaluate(model, rows).facts()
    found = evaluate(families.decoder("llama", seed=1), rows, against=model)
    assert found.kl is not None
    assert found.kl > 0
    assert found.perplexity == pytest.approx(evaluate(families.decoder("llama", seed=1), rows).perplexity, rel=1e-6)
    assert evaluate(model, rows, against=model).facts()["kl"] == 0


def test_models_that_predict_other_things_are_refused() -> None:
    model, rows = families.decoder("llama"), families.token_ids(2, 12)
    with pytest.raises(InputError, match="of one vocabulary"):
        evaluate(model, rows, against=load_model("tiny"))
    with pytest.raises(InputError, match="a perceptron makes none"):
        evaluate(model, rows, against=families.perceptron())


def test_from_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli = runner.cli(capsys)
    arguments = ("evaluate", "tiny", "--text", runner.EVALUATION, "--seq-len", 64, "--max-windows", 2, "--json")
    assert cli(*arguments, "--against", "tiny").json["kl"] == 0
    assert "kl" not in cli(*arguments).json
    cli(*arguments, "--against", tmp_path / "nowhere").refused("is neither a folder")

"""Training what pruning left: what was zero stays zero, a killed run goes on where it was, and loss falls."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from graphprune import Model, prune, score
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.recovery import Recovery, _kept_to, _last_checkpoint, adapted_by, installed, recovered, targets
from graphprune.surgery.cut import zeroed
from tests.cli.runner import CALIBRATION, EVALUATION, Cli
from tests.cli.runner import cli as running
from tests.families import causal_lm, decoder, perceptron, token_ids

ROWS = token_ids(12, 10)
QUICK = Recovery(steps=4, batch_size=3, learning_rate=1e-2, save_every=2, warmup=0)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return running(capsys)


def hollow(model_type: str) -> Model:
    """A model with units set to zero, in memory."""
    model = decoder(model_type, seed=5)
    mask = prune(model, score(model, "magnitude"), 0.4).mask
    return Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask))


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network.eval()(input_ids=ROWS).logits
    return result


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3"])
def test_what_was_zero_stays_zero_and_all_else_in_the_linear_layers_changes(model_type: str, tmp_path: Path) -> None:
    model = hollow(model_type)
    before = {name: model.parameters[name].clone() for name in model.shapes}
    found = recovered(model, ROWS, QUICK, tmp_path)
    assert (found.steps, found.stopped) == (4, False)
    assert [step for step, _ in found.curve] == [1, 2, 3, 4]
    for name, dense in before.items():
        changed = found.model.parameters[name]
        assert torch.equal(model.parameters[name], dense)
        assert changed.dtype == dense.dtype
        if name.endswith("_proj.weight"):
            assert torch.equal(changed == 0, dense == 0)
            rows = (dense != 0).any(dim=1)
            assert bool((changed != dense)[rows].any(dim=1).all())
        else:
            assert torch.equal(changed, dense)
    assert any(bool((value == 0).any()) for name, value in before.items() if name.endswith("_proj.weight"))


def test_loss_falls_on_what_is_read_again_and_again(tmp_path: Path) -> None:
    found = recovered(hollow("llama"), ROWS[:3], Recovery(steps=25, batch_size=3, learning_rate=2e-2), tmp_path)
    assert found.curve[-1][1] < 0.9 * found.curve[0][1]


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_training_computes_with_what_is_merged(model_type: str) -> None:
    """Low-rank changes put together by hand, zeros kept, in a stock network."""
    peft, stock, network = installed(), causal_lm(model_type, seed=2), causal_lm(model_type, seed=2)
    weights = dict(stock.named_parameters())
    modules = list(targets(decoder(model_type, seed=2)))
    is_transposed = model_type == "gpt2"
    settings = peft.LoraConfig(r=3, lora_alpha=6.0, target_modules=modules, fan_in_fan_out=is_transposed)
    generator = torch.Generator().manual_seed(0)
    keep = {name: torch.rand(weights[f"{name}.weight"].shape, generator=generator) > 0.5 for name in modules}
    adapted = adapted_by(settings, network)
    for name in modules:
        layer = adapted.base_model.model.get_submodule(name)
        A, B = (getattr(layer, f"lora_{which}")["default"].weight.data for which in "AB")
        for matrix in (A, B):
            matrix.copy_(torch.randn(matrix.shape, generator=generator) / 10)
        change = 2.0 * B @ A
        weights[f"{name}.weight"].data += keep[name] * (change.T if is_transposed else change)
        _kept_to(layer, keep[name])
    torch.testing.assert_close(logits(adapted), logits(stock), rtol=1e-4, atol=1e-5)


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hollow("llama")
    expected = recovered(model, ROWS, QUICK, tmp_path / "whole")
    step, taken = Trainer.training_step, list[int]()

    def killed_at_the_fourth(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        recovered(model, ROWS, QUICK, tmp_path / "killed")
    (tmp_path / "killed" / "checkpoint-3").mkdir()  # a checkpoint that was being written
    assert _last_checkpoint(tmp_path / "killed") == str(tmp_path / "killed" / "checkpoint-2")
    assert not (tmp_path / "killed" / "checkpoint-3").exists()
    found = recovered(model, ROWS, QUICK, tmp_path / "killed")
    assert len(taken) == 4 + 2  # the third step is taken again, and the fourth
    assert dict(found.curve) == pytest.approx(dict(expected.curve))
    for name in model.shapes:
        torch.testing.assert_close(found.model.parameters[name], expected.model.parameters[name])


def test_training_stops_when_time_is_up(tmp_path: Path) -> None:
    options = Recovery(steps=50, batch_size=3, minutes=1e-9)
    found = recovered(hollow("llama"), ROWS, options, tmp_path)
    assert (found.steps, found.stopped) == (1, True)


def test_random_generators_are_put_back(tmp_path: Path) -> None:
    model = hollow("llama")
    before = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002 - the checks of types draw from `random`
    recovered(model, ROWS, Recovery(steps=1, batch_size=2), tmp_path)
    after = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])


def test_other_seeds_begin_elsewhere(tmp_path: Path) -> None:
    curves = []
    for seed in (0, 1, 0):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        options = Recovery(steps=2, batch_size=2, learning_rate=1e-2, seed=seed)
        curves.append(recovered(hollow("llama"), ROWS, options, tmp_path / "work").curve)
    assert curves[0] == curves[2] != curves[1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"steps": 0}, "steps is at least 1"),
        ({"rank": 0}, "rank is at least 1"),
        ({"learning_rate": 0.0}, "learning rate is above 0"),
        ({"minutes": float("nan")}, "minutes is above 0"),
        ({"seed": -1}, "at least 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Recovery(**options)


def test_perceptrons_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is a perceptron"):
        targets(perceptron())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"PEFT is not installed; `pip install graphprune\[recover\]` installs it"):
        recovered(hollow("llama"), ROWS, QUICK, tmp_path)


def test_a_checkpoint_is_recovered_in_its_shape_and_found_again(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pruned = cli("prune", "tiny", "--method", "magnitude", "--sparsity", 0.5, "-o", run, "--json").json
    recover = (
        "recover", pruned["checkpoint"], "--text", CALIBRATION, "--test", EVALUATION, "-o", run, "--seq-len", 32,
        "--max-windows", 8, "--steps", 12, "--batch-size", 4, "--learning-rate", 0.003, "--json",
    )  # fmt: skip
    found = cli(*recover).json
    assert found["perplexity_after"] < found["perplexity_before"]
    assert (found["rung"], found["steps"], len(found["curve"])) == (pruned["rung"], 12, 12)
    assert found["checkpoint_params"] == pruned["checkpoint_params"]
    small, trained = Model.from_folder(Path(pruned["checkpoint"])), Model.from_folder(Path(found["checkpoint"]))
    assert trained.config == small.config
    for name in small.shapes:
        zero = small.parameters[name] == 0
        assert bool((trained.parameters[name][zero] == 0).all())
    said = cli("evaluate", found["checkpoint"], "--text", EVALUATION, "--seq-len", 32, "--max-windows", 8, "--json")
    assert said.json["perplexity"] == pytest.approx(found["perplexity_after"])
    assert json.loads(Path(found["report"]).read_text())["curve"] == found["curve"]
    assert not list((run / "blocks").glob("*"))
    assert cli(*recover).json["found"] is True
    assert Mask.load(Path(pruned["mask"])).keep


def test_what_is_wrong_is_said_in_one_sentence(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("recover", "tiny", "--text", tmp_path / "none", "-o", run).refused("is not there")
    cli("recover", "tiny", "--text", CALIBRATION, "-o", run, "--rank", 0).refused("rank is at least 1")
    cli("recover", "tiny", "--text", CALIBRATION, "-o", run, "--max-windows", 0).refused("--max-windows", "at least 1")
    assert not run.exists()

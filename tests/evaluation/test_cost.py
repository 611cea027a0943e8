"""What a model takes, counted and measured."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from graphprune.core.errors import InputError
from graphprune.evaluation import speed
from graphprune.evaluation.cost import Cost, bound
from graphprune.evaluation.memory import peak_memory
from graphprune.evaluation.speed import DECODE, PREFILL, Spread, Workload, measure
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.steps.costing import cost_step, tables
from graphprune.surgery.checkpoint import save_pruned
from tests.families import MODEL_TYPES, decoder, perceptron, token_ids
from tests.surgery.test_cut import scattered
from tests.surgery.test_ragged import without

QUICK = Workload((1, 2), prompt=8, new_tokens=2, repeats=2)


def saved(model: Model, folder: Path, rung: str, *gone: str) -> Model:
    return load_model(save_pruned(model, without(model, *gone), folder / rung, rung=rung).folder)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("rung", ["masked", "ragged"])
def test_flops_of_a_decoding_step_are_those_that_torch_counts(model_type: str, rung: str, tmp_path: Path) -> None:
    """But for the angles of rotations, a product of two numbers each."""
    model = saved(decoder(model_type), tmp_path, rung, "head.1", "neuron.0")
    network: Any = AutoModelForCausalLM.from_pretrained(str(model.folder), attn_implementation="eager").eval()
    with torch.no_grad():
        cache = network(token_ids(3, 11), use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            network(token_ids(3, 1), past_key_values=cache, use_cache=True)
    expected = 3 * Cost.of(model).flops(12.0).total
    assert 0 <= counter.get_total_flops() - expected <= 3 * 2 * 8


def test_cost_of_a_llama_by_hand() -> None:
    """Two layers of width 16, four heads and two key/value heads of 8, 24 neurons, 64 tokens; output not tied."""
    cost = Cost.of(decoder("llama"))
    flops = cost.flops(10.0)
    assert flops.attention_projections == 2 * 2 * 16 * (32 + 16 + 16 + 32)
    assert flops.attention == 2 * 4 * 32 * 10
    assert flops.mlp == 2 * 2 * 3 * 16 * 24
    assert flops.output == 2 * 64 * 16
    assert flops.total == sum(flops.facts()[name] for name in ("attention_projections", "attention", "mlp", "output"))
    assert cost.keys_and_values == 2 * 2 * 2 * 8
    assert cost.weights_read == cost.params - 64 * 16
    assert cost.step(3, 10.0, 2) == (2 * (cost.weights_read + 3 * 10 * 64), 3 * flops.total)


def test_a_tied_embedding_is_read_as_the_output() -> None:
    tied, untied = (Cost.of(decoder("llama", tie_word_embeddings=tie)) for tie in (True, False))
    assert tied.weights_read == untied.weights_read == tied.params
    assert untied.params == tied.params + 64 * 16


def test_the_bound_is_that_of_what_holds_the_dense_model_up(tmp_path: Path) -> None:
    dense = decoder("llama")
    small = Cost.of(saved(dense, tmp_path, "ragged", "neuron.0", "neuron.1"))
    cost = Cost.of(dense)
    by_bytes, by_flops = (x / y for x, y in zip(cost.step(4, 10.0, 4), small.step(4, 10.0, 4), strict=True))
    assert by_bytes != by_flops
    assert bound(cost, small, 4, 10.0, 4) == max(by_bytes, by_flops) > 1
    assert bound(cost, cost, 4, 10.0, 4) == 1


class Clocked:
    """A network that takes as many seconds a token as it is told, on a clock of the test's."""

    config = SimpleNamespace(vocab_size=7)

    def __init__(self, name: str, seconds: float, log: list[str], clock: list[float]) -> None:
        self.name, self.seconds, self.log, self.clock = name, seconds, log, clock

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool, **_: Any) -> Any:
        assert use_cache
        self.clock[0] += self.seconds * input_ids.shape[1]
        self.log.append(f"{self.name}{input_ids.shape[1]}")
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 7), past_key_values=None)


def timed(seconds: Sequence[float], workload: Workload, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[str]]:
    log, clock = list[str](), [0.0]
    monkeypatch.setattr(speed, "_now", lambda *_: clock[0])
    networks = [Clocked("abc"[index], each, log, clock) for index, each in enumerate(seconds)]
    return measure(networks, workload), log


def test_models_take_turns_and_every_other_turn_in_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    _, log = timed([1.0, 1.0, 1.0], Workload((1,), prompt=5, new_tokens=1, repeats=3), monkeypatch)
    prompts = [entry[0] for entry in log if entry.endswith("5")]
    assert "".join(prompts) == "abc" + "abc" + "cba" + "abc"  # the first run of each isn't counted


def test_rates_and_ratios_are_of_all_tokens_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = timed([1.0, 0.5], Workload((1, 4), prompt=6, new_tokens=3, repeats=4), monkeypatch)
    table = {(entry.model, entry.batch_size, entry.phase): entry for entry in found}
    assert len(table) == len(found) == 8
    for batch in (1, 4):
        for phase in (PREFILL, DECODE):
            assert table[0, batch, phase].tokens_per_second == Spread(*[float(batch)] * 3)
            assert table[1, batch, phase].tokens_per_second == Spread(*[2.0 * batch] * 3)
            assert table[1, batch, phase].ratio == Spread(2.0, 2.0, 2.0)


def test_a_cpu_clock_stands_still_while_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    on = torch.zeros(1)
    wall, cpu = speed._now(on, "wall"), speed._now(on, "cpu")
    time.sleep(0.2)
    passed = (speed._now(on, "wall") - wall, speed._now(on, "cpu") - cpu)
    assert passed[0] > 0.19
    assert passed[1] < 0.1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(InputError, match="OMP_NUM_THREADS=1"):
        Workload(clock="cpu")


def test_a_spread_is_a_median_between_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)


def test_the_report_sets_dense_and_pruned_side_by_side(tmp_path: Path) -> None:
    dense = decoder("qwen2")
    models = [dense, saved(dense, tmp_path, "padded", "neuron.0"), saved(dense, tmp_path, "ragged", "neuron.0")]
    report = cost_step(models, QUICK, memory=False)
    sizes = [row["params"] for row in report["models"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] != sizes[2]
    assert report["models"][1]["checkpoint_bytes"] > report["models"][2]["checkpoint_bytes"]
    assert len(report["speed"]) == 3 * 2 * 2
    assert all(row["ratio"]["median"] == row["bound"] == 1 for row in report["speed"] if row["model"] == dense.name)
    assert all(row["bound"] > 1 for row in report["speed"] if row["model"] != dense.name)
    assert all(row["tokens_per_second"]["low"] <= row["tokens_per_second"]["median"] for row in report["speed"])
    assert [len(table) for table in tables(report)] == [4, 13]


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(tiny: Model) -> None:
    assert tiny.folder is not None
    peak, before = peak_memory(tiny.folder, batch_size=1, prompt=8, new_tokens=1, dtype=torch.float32)
    assert peak - before > 4 * tiny.n_parameters
    assert before > 50e6


def test_what_cannot_be_timed_is_refused() -> None:
    for wrong in ({"batch_sizes": (1, 0)}, {"batch_sizes": ()}, {"prompt": 0}, {"new_tokens": 0}, {"repeats": 0}):
        with pytest.raises(InputError, match="is at least 1, not 0"):
            Workload(**wrong)
    with pytest.raises(InputError, match="says nothing of meta"):
        cost_step([decoder("llama")], replace(QUICK, clock="cpu"), device="meta", memory=False)
    with pytest.raises(InputError, match="is a perceptron"):
        cost_step([perceptron()], QUICK, memory=False)
    with pytest.raises(InputError, match="reads 64 tokens at a time, and 70 are asked for"):
        cost_step([decoder("gpt2")], Workload((1,), prompt=60, new_tokens=10), memory=False)


def test_a_scattered_mask_keeps_the_two_halves_of_a_ratio_apart(tmp_path: Path) -> None:
    """Attention and MLP shrink by different shares; each is counted where it is."""
    dense = decoder("llama")
    mask = scattered(dense)
    small = Cost.of(load_model(save_pruned(dense, mask, tmp_path / "small", rung="ragged").folder)).flops(1.0)
    neurons = sum(int(mask.keep[f"neuron.{layer}"].sum()) for layer in range(2))
    assert small.mlp == 2 * 3 * 16 * neurons
    assert small.attention == 4 * 8 * sum(int(mask.keep[f"head.{layer}"].sum()) for layer in range(2))

"""Perplexity against Hugging Face's own loss, and what pruning does to the shipped model."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from graphprune import Model, Scores, calibrate, evaluate, prune, score
from graphprune.calibration.text import read_text, sampled, spread, windows
from graphprune.core.errors import InputError
from graphprune.evaluation.evaluate import accuracy
from graphprune.evaluation.masked import perplexity_of_masks
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Cut
from graphprune.pruning import cut
from tests import families
from tests.cli.runner import CALIBRATION


class Uniform:
    """A language model that knows nothing."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, self.vocabulary))


@pytest.mark.parametrize("vocabulary", [2, 64, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_uniform_logits_have_the_perplexity_of_the_vocabulary(vocabulary: int, batch_size: int) -> None:
    rows = torch.randint(vocabulary, (7, 9), generator=torch.Generator().manual_seed(0))
    found = perplexity(Uniform(vocabulary), rows, batch_size=batch_size)
    assert found == pytest.approx(vocabulary, rel=1e-5)


def hugging_face(network: Any, rows: torch.Tensor) -> float:
    with torch.no_grad():
        losses = [float(network(input_ids=row[None], labels=row[None]).loss) for row in rows]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("name", families.MODEL_TYPES)
def test_perplexity_is_the_exponential_of_hugging_faces_loss(name: str) -> None:
    rows = families.token_ids(5, 12)
    found = evaluate(families.decoder(name), rows)
    assert found.perplexity == pytest.approx(hugging_face(families.causal_lm(name), rows), rel=1e-5)
    assert found.perplexity != pytest.approx(families.VOCABULARY, rel=1e-3)


def test_perplexity_of_the_shipped_model_is_that_of_stock_transformers(tiny: Model) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(str(tiny.folder)) / "evaluation.txt"
    ids = AutoTokenizer.from_pretrained(str(tiny.folder))(path.read_text())["input_ids"]
    rows = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    network = AutoModelForCausalLM.from_pretrained(str(tiny.folder), dtype=torch.float32)
    chosen = rows[[i * len(rows) // 6 for i in range(6)]]
    report = evaluate(tiny, path, seq_len=128, max_windows=6)
    assert report.perplexity == pytest.approx(hugging_face(network, chosen), rel=1e-5)
    assert (report.windows, report.tokens, report.seq_len, report.dtype) == (6, 768, 128, "float32")


def test_the_size_of_a_batch_does_not_matter() -> None:
    model, rows = families.decoder("llama"), families.token_ids(7, 12)
    one = evaluate(model, rows).perplexity
    for batch_size in (2, 7, 100):
        assert evaluate(model, rows, batch_size=batch_size).perplexity == pytest.approx(one, rel=1e-5)


def test_nothing_carries_over_from_one_window_to_the_next() -> None:
    model, rows = families.decoder("llama"), families.token_ids(4, 12)
    there, back = evaluate(model, rows).perplexity, evaluate(model, rows.flip(0)).perplexity
    assert back == pytest.approx(there, rel=1e-6)


def test_what_calibration_has_read_is_left_out(tiny: Model) -> None:
    rows = windows(tiny.tokenizer, read_text(CALIBRATION), 64)
    read = {tuple(row) for row in sampled(rows, 16, 3).tolist()}
    unseen = torch.stack([row for row in rows if tuple(row.tolist()) not in read])
    report = evaluate(tiny, CALIBRATION, seq_len=64, leave_out=(16, 3))
    assert report.windows == len(rows) - 16
    assert report.perplexity == pytest.approx(perplexity(tiny.module(dtype=torch.float32), unseen), rel=1e-5)
    few = evaluate(tiny, CALIBRATION, seq_len=64, leave_out=(16, 3), max_windows=2)
    assert few.windows == 2
    with pytest.raises(InputError, match="too short"):
        evaluate(tiny, CALIBRATION, seq_len=64, leave_out=(len(rows), 3))


def test_counts_parameters_once_and_zeros_not_at_all(tiny: Model) -> None:
    network: Any = families.causal_lm("llama", tie_word_embeddings=True)
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight[:, :5] = 0
    report = evaluate(Model.from_module(network), families.token_ids(1, 8))
    assert report.params == sum(parameter.numel() for parameter in network.parameters())
    assert report.nonzero_params == report.params - 5 * 16
    assert report.checkpoint_bytes == 4 * report.params
    stored = evaluate(tiny, torch.zeros(1, 4, dtype=torch.long))
    assert stored.checkpoint_bytes == (Path(str(tiny.folder)) / "model.safetensors").stat().st_size


def test_a_checkpoint_in_bfloat16_is_evaluated_in_bfloat16() -> None:
    network = families.causal_lm("llama").to(torch.bfloat16)
    rows = families.token_ids(2, 8)
    assert evaluate(Model.from_module(network), rows).dtype == "bfloat16"
    assert evaluate(Model.from_module(network), rows, dtype=torch.float32).dtype == "float32"


def test_accuracy_counts_the_largest_output(tmp_path: Path) -> None:
    model, path = families.perceptron(), tmp_path / "examples.safetensors"
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = families.perceptron_module()(inputs).argmax(dim=1)
    labels = torch.where(torch.arange(40) < 10, (right + 1) % 4, right)
    assert accuracy(model.module(), inputs, labels) == 0.75
    save_file({"inputs": inputs, "labels": labels}, path)
    report = evaluate(model, path)
    assert (report.accuracy, report.perplexity, report.windows) == (0.75, None, 40)
    assert "perplexity" not in report.facts()


def test_a_perceptron_is_not_evaluated_on_text() -> None:
    with pytest.raises(InputError, match="safetensors"):
        evaluate(families.perceptron(), "some text")


# The shipped model has learnt something


@cache
def neurons(tiny_folder: str) -> tuple[Model, Scores, torch.Tensor, float]:
    """The shipped model, the activation of its neurons, a few windows of its evaluation text, and its perplexity."""
    model = Model.from_folder(Path(tiny_folder))
    stats = calibrate(model, Path(tiny_folder) / "calibration.txt", n_samples=8, seq_len=128)
    rows = spread(windows(model.tokenizer, read_text(Path(tiny_folder) / "evaluation.txt"), 128), 8)
    dense = evaluate(model, rows).perplexity
    assert dense is not None
    return model, score(model, "activation", stats=stats), rows, dense


def test_the_shipped_model_predicts_far_better_than_chance(tiny: Model) -> None:
    *_, dense = neurons(str(tiny.folder))
    assert dense < 2048 / 50


def test_pruning_the_right_tenth_of_the_neurons_hardly_hurts(tiny: Model) -> None:
    model, scores, rows, dense = neurons(str(tiny.folder))
    pruned = evaluate(prune(model, scores, 0.1, units="neuron").model, rows).perplexity
    assert pruned is not None
    assert 1.0 < pruned / dense < 1.1


def test_pruning_the_wrong_half_of_the_neurons_ruins_it(tiny: Model) -> None:
    model, scores, rows, dense = neurons(str(tiny.folder))
    upside_down = replace(scores, values={name: -values for name, values in scores.values.items()})
    wrong = evaluate(prune(model, upside_down, 0.5, units="neuron").model, rows).perplexity
    right = evaluate(prune(model, scores, 0.5, units="neuron").model, rows).perplexity
    assert wrong is not None
    assert right is not None
    assert wrong / dense > 10
    assert right < wrong / 2


def test_the_quality_of_many_masks_is_that_of_their_checkpoints(tiny: Model) -> None:
    model, scores, rows, dense = neurons(str(tiny.folder))
    masks = [cut(model, scores, sparsity, Cut(units="neuron")) for sparsity in (0.0, 0.3, 0.1)]
    found = list(perplexity_of_masks(model, masks, rows))
    expected = [evaluate(prune(model, scores, s, units="neuron").model, rows).perplexity for s in (0.3, 0.1)]
    assert found == pytest.approx([dense, *expected], rel=1e-4)


@pytest.mark.parametrize("name", families.UNGATED)
def test_masks_of_classes_that_store_their_parameters_otherwise_are_tried_in_place(name: str) -> None:
    model, rows = families.decoder(name, seed=5), families.token_ids(6, 16)
    scores = score(model, "wanda", stats=calibrate(model, rows))
    found = list(perplexity_of_masks(model, [cut(model, scores, sparsity) for sparsity in (0.5, 0.0, 0.25)], rows))
    expected = [evaluate(prune(model, scores, sparsity).model, rows).perplexity for sparsity in (0.5, 0.25)]
    assert found == pytest.approx([expected[0], evaluate(model, rows).perplexity, expected[1]], rel=1e-5)
    assert len({round(value or 0.0, 3) for value in found}) == 3

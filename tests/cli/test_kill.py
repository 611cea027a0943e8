"""Real processes, killed at any moment: what is left is whole, and the same command finishes with the same result."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graphprune.core.graph_store import load_graph
from graphprune.core.io import load_tensors, save_tensors
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.stats import CalibrationStats
from graphprune.models.load import load_model
from tests.cli.runner import CALIBRATED

PRUNE = ("prune", "tiny", "--method", "mlprank", "--sparsity", "0.3", *CALIBRATED, "--json")
SLIMGPT = ("prune", "tiny", "--method", "slimgpt", "--sparsity", "0.3", *CALIBRATED, "--seq-len", "128", "--json")
EXPORT = ("export", "tiny", "--weight", "activation", *CALIBRATED, "--json")
MOMENTS = 8


class Zygote:
    """Starts commands as processes of their own; see tests.cli.zygote."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.zygote", str(scratch / "warm-up")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def run(self, *arguments: object, after: float | None = None, by: signal.Signals = signal.SIGKILL) -> "Ended":
        """What a command did that was left alone, or sent a signal after a while."""
        out, err = self.scratch / "out", self.scratch / "err"
        command: dict[str, object] = {"arguments": [str(x) for x in arguments], "out": str(out), "err": str(err)}
        if after is not None:
            command |= {"after": after, "signal": int(by)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return Ended(answer["status"], answer["seconds"], out.read_text(), err.read_text())


@dataclass(frozen=True)
class Ended:
    """A process that has ended; a negative status is the signal that ended it."""

    status: int
    seconds: float
    out: str
    err: str


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    assert started.process.stdin is not None
    assert started.process.stdout is not None
    started.process.stdin.close()
    started.process.stdout.close()
    started.process.wait(timeout=30)


def check_whole(run: Path) -> None:
    """Everything that stands under its final name can be read and is complete."""
    model = load_model("tiny")
    if not run.is_dir():
        return
    for path in run.rglob("*"):
        if path.is_file() and not any(part.startswith(".tmp") for part in path.relative_to(run).parts):
            if path.suffix == ".json":
                assert isinstance(json.loads(path.read_text()), dict), path
            elif path.suffix == ".safetensors":
                load_file(path)
    for path in run.glob("stats/*.safetensors"):
        CalibrationStats.load(path)
    for path in run.glob("scores/*.safetensors"):
        Scores.load(path, model.units, model.identity)
    for path in run.glob("masks/*.safetensors"):
        Mask.load(path, model.units, model.identity)
    for folder in run.glob("models/[!.]*"):
        assert load_model(folder).module()(torch.zeros(1, 4, dtype=torch.long)).logits.isfinite().all()
    if (run / "graph" / "manifest.json").is_file():
        assert load_graph(run / "graph").n_edges > 0


def graph_weights(run: Path) -> list[torch.Tensor]:
    return [block.load().values for block in load_graph(run / "graph").blocks]


def finished_blocks(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.glob("blocks/*/block-*.safetensors")}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", [PRUNE, SLIMGPT], ids=["mlprank", "slimgpt"])
def test_prune_killed_at_any_moment_leaves_whole_files_and_finishes_the_same(
    zygote: Zygote, tmp_path: Path, command: tuple[str, ...]
) -> None:
    reference = tmp_path / "reference"
    whole = zygote.run(*command, "-o", reference)
    assert whole.status == 0, whole.err
    expected = json.loads(whole.out)
    weights = load_file(Path(expected["checkpoint"]) / "model.safetensors")
    killed = 0
    for moment in range(MOMENTS):
        run = tmp_path / f"run-{moment}"
        ended = zygote.run(*command, "-o", run, after=whole.seconds * (moment + 0.5) / MOMENTS)
        killed += ended.status == -signal.SIGKILL
        check_whole(run)
        again = zygote.run(*command, "-o", run)
        assert again.status == 0, again.err
        result = json.loads(again.out)
        assert not [path for path in run.rglob("*") if path.name.startswith(".tmp")]
        assert not finished_blocks(run)
        assert Path(result["mask"]).read_bytes() == Path(expected["mask"]).read_bytes()
        found = load_file(Path(result["checkpoint"]) / "model.safetensors")
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], values) for name, values in weights.items())
    assert killed >= MOMENTS // 2, "the signals came too late to prove anything"


@pytest.mark.timeout(120)
def test_blocks_that_were_finished_before_the_kill_are_not_done_again(zygote: Zygote, tmp_path: Path) -> None:
    whole = zygote.run(*SLIMGPT, "-o", tmp_path / "reference")
    expected = load_file(Path(json.loads(whole.out)["checkpoint"]) / "model.safetensors")
    for moment in range(2 * MOMENTS):
        run = tmp_path / f"run-{moment}"
        zygote.run(*SLIMGPT, "-o", run, after=whole.seconds * (moment + 0.5) / (2 * MOMENTS))
        left = finished_blocks(run)
        if 0 < len(left) < load_model("tiny").decoder.n_layers:
            break
    else:
        pytest.fail("no signal came between two blocks")
    check_whole(run)
    spoilt = min(left)  # a block that is done again would undo this
    tensors, metadata = load_tensors(spoilt)
    save_tensors(spoilt, {k: 2 * v if k.endswith("down_proj.weight") else v for k, v in tensors.items()}, metadata)
    again = zygote.run(*SLIMGPT, "-o", run)
    assert again.status == 0, again.err
    assert not finished_blocks(run)
    found = load_file(Path(json.loads(again.out)["checkpoint"]) / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(found[name], 2 * expected[name])


@pytest.mark.timeout(120)
def test_export_killed_at_any_moment_leaves_whole_files_and_finishes_the_same(zygote: Zygote, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    whole = zygote.run(*EXPORT, "-o", reference)
    assert whole.status == 0, whole.err
    weights = graph_weights(reference)
    n_files = len(list((reference / "graph").iterdir()))
    killed = 0
    for moment in range(MOMENTS):
        run = tmp_path / f"run-{moment}"
        ended = zygote.run(*EXPORT, "-o", run, after=whole.seconds * (moment + 0.5) / MOMENTS)
        killed += ended.status == -signal.SIGKILL
        check_whole(run)
        again = zygote.run(*EXPORT, "-o", run)
        assert again.status == 0, again.err
        found = graph_weights(run)
        assert len(found) == len(weights)
        assert all(torch.equal(a, b) for a, b in zip(found, weights, strict=True))
        assert not [path for path in run.rglob("*") if path.name.startswith(".tmp")]
        assert len(list((run / "graph").iterdir())) == n_files  # shards of the killed export are gone
    assert killed >= MOMENTS // 2, "the signals came too late to prove anything"


def test_a_checkpoint_that_is_replaced_when_killed_is_the_old_or_the_new(zygote: Zygote, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = (*PRUNE, "-o", run, "--name", "cut")
    second = (*PRUNE, "-o", run, "--name", "cut", "--sparsity", "0.5")
    whole = zygote.run(*first)
    assert whole.status == 0, whole.err
    old = load_file(run / "models" / "cut" / "model.safetensors")
    for moment in range(MOMENTS):
        zygote.run(*second, after=whole.seconds * (moment + 0.5) / MOMENTS)
        check_whole(run)
        assert (run / "models" / "cut" / "model.safetensors").is_file()
    assert zygote.run(*first).status == 0
    found = load_file(run / "models" / "cut" / "model.safetensors")
    assert all(torch.equal(found[name], values) for name, values in old.items())


@pytest.mark.parametrize("command", [PRUNE, SLIMGPT, EXPORT], ids=["mlprank", "slimgpt", "export"])
def test_ctrl_c_says_one_sentence_and_leaves_nothing_half_written(
    zygote: Zygote, tmp_path: Path, command: tuple[str, ...]
) -> None:
    whole = zygote.run(*command, "-o", tmp_path / "reference")
    interrupted = 0
    for moment in range(5):
        run = tmp_path / f"run-{moment}"
        after = whole.seconds * (moment + 0.5) / 5
        ended = zygote.run(*command, "-o", run, after=after, by=signal.SIGINT)
        if ended.status == 0:
            continue
        interrupted += 1
        assert ended.status == 1
        assert ended.err == "graphprune: interrupted; finished steps are kept\n"
        assert not ended.out
        check_whole(run)
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp")]
    assert interrupted >= 2, "the signals came too late to prove anything"


def test_a_reader_of_the_result_that_has_gone_is_no_error_of_ours(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m graphprune score tiny --scorer random -o '{tmp_path / 'run'}' | head -0"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert said.stderr == ""
    assert (run := tmp_path / "run" / "scores" / "random.safetensors").is_file(), run

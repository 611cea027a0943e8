"""Several processes, or a Ray cluster: the same pairs, and none lost when a worker is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model
from graphprune.calibration.text import read_text, windows
from graphprune.core.errors import GraphpruneError, InputError
from graphprune.methods import Recipe
from graphprune.prediction.architecture import Architecture, Space
from graphprune.prediction.executors import Executor, measured
from graphprune.prediction.measure import Bench, Job, prepared
from graphprune.prediction.pairs import Pair, PairStore
from graphprune.prediction.sampling import sampled
from graphprune.pruning import Evidence
from tests import families
from tests.cli.runner import CALIBRATION, EVALUATION

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install graphprune[ray]")
KILLED = "KILLED_ONCE"


def kill_the_first_worker(_: Any) -> float:
    """Ends the process that measures, once; a file says whether that has happened."""
    note = Path(os.environ[KILLED])
    if not note.exists():
        note.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return float(os.getpid())


@pytest.fixture(scope="module")
def rows(tiny: Model) -> torch.Tensor:
    return windows(tiny.tokenizer, read_text(EVALUATION), 64)[:4]


@pytest.fixture(scope="module")
def job(tiny: Model, rows: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Job:
    evidence = Evidence.of_text(tiny, CALIBRATION, n_samples=16, seq_len=64)
    scratch = tmp_path_factory.mktemp("statistics")
    return prepared(evidence, Recipe.of("wanda", compensation="obs"), {"text": rows}, scratch=scratch)


@pytest.fixture(scope="module")
def some(tiny: Model) -> tuple[Architecture, ...]:
    return sampled(Space.of(tiny), 6, sparsity=0.3)


@pytest.fixture(scope="module")
def alone(tiny: Model, job: Job, some: Sequence[Architecture]) -> list[Pair]:
    """What this process measures."""
    bench = Bench(job, tiny)
    return [bench.measure(architecture) for architecture in some]


def same(found: Sequence[Pair], expected: Sequence[Pair]) -> bool:
    return [pair.architecture for pair in found] == [pair.architecture for pair in expected] and all(
        ours.quality == pytest.approx(theirs.quality, rel=1e-5) for ours, theirs in zip(found, expected, strict=True)
    )


def test_processes_measure_what_one_does(
    tiny: Model, job: Job, some: Sequence[Architecture], alone: list[Pair], tmp_path: Path
) -> None:
    store = PairStore(tmp_path / "pairs.jsonl", job.origin)
    assert same(measured(Executor(workers=2), job, tiny, some, store), alone)
    assert len(store.pairs()) == len(some)


def test_a_process_that_is_killed_takes_no_finished_pair_with_it(
    tiny: Model, job: Job, some: Sequence[Architecture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence says so; the same command then goes on with those that are missing."""
    monkeypatch.setenv(KILLED, str(tmp_path / "note"))
    deadly = replace(job, judges={"process": kill_the_first_worker})
    store = PairStore(tmp_path / "pairs.jsonl", deadly.origin)
    with pytest.raises(GraphpruneError, match=r"a worker process was killed.*run the same again"):
        measured(Executor(workers=2), deadly, tiny, some, store)
    kept = store.pairs()
    assert len(kept) < len(some)
    finished = measured(Executor(workers=2), deadly, tiny, some, store)
    assert {pair.architecture.key: pair for pair in finished} == store.pairs()
    assert all(store.pairs()[key] == pair for key, pair in kept.items())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster on this machine, whose workers have this process's environment and find the tests."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install graphprune[ray]")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_measures_what_one_process_does(
    tiny: Model, job: Job, some: Sequence[Architecture], alone: list[Pair], tmp_path: Path, cluster: Any
) -> None:
    store = PairStore(tmp_path / "pairs.jsonl", job.origin)
    assert same(measured(Executor("ray", workers=2), job, tiny, some, store), alone)
    assert cluster.is_initialized(), "a cluster that was there before is left alone"


@pytest.fixture
def deadly_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KILLED, str(tmp_path / "note"))
    return tmp_path / "note"


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_measures_again_what_a_killed_worker_was_at(
    tiny: Model, job: Job, some: Sequence[Architecture], tmp_path: Path, deadly_note: Path, cluster: Any
) -> None:
    deadly = replace(job, judges={"process": kill_the_first_worker})
    store = PairStore(tmp_path / "pairs.jsonl", deadly.origin)
    found = measured(Executor("ray", workers=2), deadly, tiny, some, store)
    assert [pair.architecture for pair in found] == list(some)
    assert len(store.pairs()) == len(some)
    killed = float(deadly_note.read_text())
    assert all(pair.quality["process"] != killed for pair in found), "the killed worker finished nothing"
    assert cluster.is_initialized()


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_search_joins_a_cluster_by_its_address(tmp_path: Path, cluster: Any) -> None:
    """A process of its own, as a user's shell would start it, on a cluster that it hasn't started."""
    address = cluster.get_runtime_context().gcs_address
    command = (
        "search", "tiny", "--sparsity", "0.3", "--strategy", "random", "--evaluations", "11", "--pairs", "10",
        "--calibration", CALIBRATION, "--n-samples", "8", "--seq-len", "64", "--max-windows", "2",
        "--executor", "ray", "--address", address, "-o", tmp_path / "run", "--json",
    )  # fmt: skip
    whole = [sys.executable, "-m", "graphprune", *map(str, command)]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluations"] == 11
    assert cluster.is_initialized()


@needs_ray
def test_a_ray_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"no Ray cluster can be reached at 127\.0\.0\.1:9: .*refused"):
        Executor("ray", address="127.0.0.1:9")


# Bad input


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"kind": "cloud"}, "local or by ray, not 'cloud'"),
        ({"workers": 0}, "at least 1 worker is needed, not 0"),
        ({"address": "host:6379"}, "add --executor ray"),
        ({"memory": 1 << 30}, "add --executor ray"),
        pytest.param({"kind": "ray", "memory": 0}, "at least 1 byte, not 0", marks=needs_ray),
    ],
)
def test_an_executor_that_makes_no_sense_is_refused(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Executor(**choices)


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; `pip install graphprune\[ray\]`"):
        Executor("ray")


def test_a_model_in_memory_can_not_go_to_other_processes(job: Job, some: Sequence[Architecture]) -> None:
    model = families.decoder("llama")
    memory = replace(job, folder=None, model=model.identity)
    with pytest.raises(InputError, match=r"in memory.*use 1 worker"):
        list(Executor(workers=2).results(memory, model, some))

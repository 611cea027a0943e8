"""Candidates, or the cells of a study, on several cores or machines: processes of this machine, or a Ray cluster.

Ray schedules, retries what a lost worker was at, and limits memory; processes are the standard library's. Whatever
comes back is stored at once by the one process that asked, so a worker that dies takes no finished pair with it.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.progress import progress
from graphprune.models.model import Model
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.measure import Job
from graphprune.prediction.pairs import Pair, PairStore

KINDS = ("local", "ray")
RETRIES = 3
PATIENCE = 10.0
_benches: dict[str, Callable[[Any], Any]] = {}  # of this worker process


@runtime_checkable  # the shape checker asks
class Work(Protocol):
    """What is measured of items; small, and the same in every process."""

    @property
    def key(self) -> str:
        """The same for work that measures the same."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where other processes find the dense model; None if it is in memory alone."""
        ...

    def bench(self, model: Model | None = None) -> Callable[[Any], Any]:
        """What measures an item, with the model, which is loaded if it isn't given."""
        ...


@dataclass(frozen=True)
class Executor:
    """Where candidates, or cells of a study, are measured.

    Attributes:
        kind: `local` or `ray`.
        workers: processes; one measures in this process (under `ray` each worker takes one core of the cluster).
        address: of a Ray cluster; None starts one on this machine.
        memory: bytes that Ray reserves for a candidate, so that it doesn't start more than fit.
    """

    kind: str = "local"
    workers: int = 1
    address: str | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"candidates are measured local or by ray, not {self.kind!r}")
        if self.workers < 1:
            raise InputError(f"at least 1 worker is needed, not {self.workers}")
        if self.kind == "local" and (self.address is not None or self.memory is not None):
            raise InputError("an address and a memory limit are Ray's; add --executor ray")
        if self.memory is not None and self.memory < 1:
            raise InputError(f"the memory that a candidate needs is at least 1 byte, not {self.memory}")
        if self.kind == "ray":
            _ray()
        if self.address is not None:
            _knock(self.address)

    def results(self, work: Work, model: Model, items: Sequence[Any]) -> Iterator[Any]:
        """Measures items; each result comes as soon as it is there, in any order.

        Raises:
            GraphpruneError: a worker was lost for good.
        """
        if self.kind == "ray":
            return _by_ray(self, work, items)
        if self.workers == 1 or len(items) < 2:
            return map(work.bench(model), items)
        if work.folder is None:
            raise InputError(f"{model.name} is in memory: other processes can't load it; use 1 worker")
        return _by_processes(self.workers, work, items)


def measured(
    executor: Executor, job: Job, model: Model, architectures: Sequence[Architecture], store: PairStore
) -> list[Pair]:
    """The pairs of some architectures, in order; those that the store has are not measured again.

    Raises:
        FormatError: the store holds pairs of something else.
        GraphpruneError: a worker was lost for good; what was measured before is in the store.
    """
    known = store.pairs()
    missing = {made.key: made for made in architectures if made.key not in known}
    if missing:
        found: Iterator[Pair] = executor.results(job, model, tuple(missing.values()))
        for pair in progress(found, "measuring", total=len(missing), unit="candidate"):
            store.append(pair)
            known[pair.architecture.key] = pair
    return [known[made.key] for made in architectures]


def _by_processes(workers: int, work: Work, items: Sequence[Any]) -> Iterator[Any]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # a fork copies locks that torch's threads hold
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(work, threads)) as pool:
        try:
            for future in as_completed([pool.submit(_measure, work.key, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            raise GraphpruneError(
                "a worker process was killed, perhaps for memory; what was measured is kept: run the same again, "
                "with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(work: Work, threads: int) -> None:
    torch.set_num_threads(threads)
    _benches[work.key] = work.bench()


def _measure(key: str, item: Any) -> Any:
    return _benches[key](item)


def _ray() -> Any:
    """The `ray` module.

    Raises:
        InputError: it isn't installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; `pip install graphprune[ray]` installs it") from None
    return ray


def _by_ray(executor: Executor, work: Work, items: Sequence[Any]) -> Iterator[Any]:
    ray = _ray()
    if work.folder is None:
        raise InputError("the model is in memory: Ray's workers can't load it; save it as a checkpoint first")
    started = not ray.is_initialized()
    if started:
        _connect(ray, executor)
    try:
        shared = ray.put(work)
        limits = {} if executor.memory is None else {"memory": executor.memory}
        remote = ray.remote(_measure_by_ray).options(num_cpus=1, max_retries=RETRIES, **limits)
        waiting = [remote.remote(shared, item) for item in items]
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            yield _result(ray, ready)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, executor: Executor) -> None:
    """Joins a cluster, or starts one on this machine.

    Raises:
        InputError: there is none at the address.
    """
    where: dict[str, Any] = {"address": "local", "num_cpus": executor.workers}
    if executor.address is not None:
        where = {"address": executor.address}
    try:
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where_to = "on this machine" if executor.address is None else f"at {executor.address}"
        raise _unreachable(where_to, error) from error


def _knock(address: str) -> None:
    """Checks that somebody listens: Ray itself would ask for minutes, and then end the process.

    Raises:
        InputError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # a word of Ray's, such as `auto`
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(f"at {address}", error) from error


def _unreachable(where: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    return InputError(f"no Ray cluster can be reached {where}: {lines[0] if lines else type(error).__name__}")


def _measure_by_ray(work: Work, item: Any) -> Any:
    if work.key not in _benches:
        _benches.clear()  # a worker is used again for other work, whose models it needn't keep
        torch.set_num_threads(1)
        _benches[work.key] = work.bench()
    return _measure(work.key, item)


def _result(ray: Any, reference: Any) -> Any:
    """What has come of an item.

    Raises:
        GraphpruneError: its worker was lost more often than Ray retries, or it failed.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, GraphpruneError) else GraphpruneError(f"a worker failed: {cause}")) from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise GraphpruneError(
            f"a worker was lost {RETRIES + 1} times ({reason}); what was measured is kept: run the same again"
        ) from error

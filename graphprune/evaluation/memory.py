"""Peak memory of running a model, in a process of its own: memory that a process once had says nothing of the next."""

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from graphprune.core.errors import GraphpruneError
from graphprune.evaluation.speed import run
from graphprune.models.model import Model


def peak_memory(
    folder: Path, *, batch_size: int, prompt: int, new_tokens: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[int, int]:
    """Most bytes that loading a checkpoint, reading a prompt and decoding take; and what they were before loading.

    On a CPU resident memory of the process, with Python, torch and transformers in it; elsewhere what torch has
    allocated on the device.

    Raises:
        GraphpruneError: the process was killed, as it is where memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_peak, folder, batch_size, prompt, new_tokens, dtype, device).result()
    except BrokenProcessPool as error:
        raise GraphpruneError(f"measuring the memory of {folder} was killed; there may not be enough") from error


def _peak(
    folder: Path, batch_size: int, prompt: int, new_tokens: int, dtype: torch.dtype, device: str
) -> tuple[int, int]:
    from transformers import AutoModelForCausalLM  # noqa: F401 - what it takes isn't the model's

    before = _most(device)
    network = Model.from_folder(folder).module(dtype=dtype, device=device)
    ids = torch.zeros(batch_size, prompt, dtype=torch.long, device=device)
    run(network, ids, new_tokens)
    return _most(device), before


def _most(device: str) -> int:
    if torch.device(device).type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():  # what `getrusage` says on Linux begins with what the parent had
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

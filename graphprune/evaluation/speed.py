"""How fast decoders run, measured alternately, so that whatever else the machine does hits all of them alike."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int

from graphprune.core.errors import InputError
from graphprune.core.progress import progress

Clock = Literal["wall", "cpu"]
PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        batch_sizes: sequences at a time, one after the other.
        prompt: tokens of each that are read at once.
        new_tokens: tokens that are then decoded one by one, greedily, with a cache.
        repeats: how often; the models take turns, and every other time in reverse.
        seed: of the tokens of the prompt.
        clock: `wall`, or `cpu` for the time that this process was at work: what to go by on a machine that others use,
            with one thread.
    """

    batch_sizes: tuple[int, ...] = (1, 4)
    prompt: int = 128
    new_tokens: int = 32
    repeats: int = 5
    seed: int = 0
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        named = {"prompt": self.prompt, "new tokens": self.new_tokens, "repeats": self.repeats}
        named |= {"batch size": min(self.batch_sizes, default=0)}
        for name, value in named.items():
            if value < 1:
                raise InputError(f"{name} is at least 1, not {value}")
        if self.clock == "cpu" and torch.get_num_threads() > 1:
            raise InputError("several threads share a CPU clock, which then says nothing; set OMP_NUM_THREADS=1")

    @property
    def context(self) -> float:
        """How many tokens a decoded one sees on average, itself included."""
        return self.prompt + (self.new_tokens + 1) / 2


@dataclass(frozen=True)
class Spread:
    """The median of some values, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Speed:
    """How fast a model was in one phase.

    Attributes:
        model: which of the models.
        batch_size: sequences at a time.
        phase: `prefill` or `decode`.
        tokens_per_second: of all sequences together.
        ratio: to the first model, turn by turn.
    """

    model: int
    batch_size: int
    phase: str
    tokens_per_second: Spread
    ratio: Spread


def measure(networks: Sequence[Any], workload: Workload, *, device: str = "cpu") -> list[Speed]:
    """The speed of every network at every batch size, in turns.

    Args:
        networks: causal language models on the device, in evaluation mode.
        workload: what they do.
        device: where they are.
    """
    vocabulary = min(int(network.config.vocab_size) for network in networks)
    result = []
    for batch_size in workload.batch_sizes:
        ids = torch.randint(
            vocabulary, (batch_size, workload.prompt), generator=torch.Generator().manual_seed(workload.seed)
        ).to(device)
        for network in networks:  # the first run of a shape allocates and chooses kernels
            run(network, ids, min(workload.new_tokens, 2), workload.clock)
        seconds: list[list[tuple[float, float]]] = [[] for _ in networks]
        for turn in progress(range(workload.repeats), f"timing batches of {batch_size}", unit="turn"):
            order = range(len(networks))
            for index in order if turn % 2 == 0 else reversed(order):
                seconds[index].append(run(networks[index], ids, workload.new_tokens, workload.clock))
        for phase, tokens in ((PREFILL, ids.numel()), (DECODE, batch_size * workload.new_tokens)):
            part = 0 if phase == PREFILL else 1
            for index, times in enumerate(seconds):
                rates = Spread.of([tokens / turn[part] for turn in times])
                ratio = Spread.of([first[part] / own[part] for first, own in zip(seconds[0], times, strict=True)])
                result.append(Speed(index, batch_size, phase, rates, ratio))
    return result


def run(
    network: Any, ids: Int[torch.Tensor, "batch prompt"], new_tokens: int, clock: Clock = "wall"
) -> tuple[float, float]:
    """Seconds that reading a prompt takes, and seconds of decoding so many tokens after it."""
    with torch.inference_mode():
        start = _now(ids, clock)
        said = network(input_ids=ids, use_cache=True, logits_to_keep=1)
        read = _now(ids, clock)
        for _ in range(new_tokens):
            following = said.logits[:, -1:].argmax(dim=-1)
            said = network(input_ids=following, past_key_values=said.past_key_values, use_cache=True)
        return read - start, _now(ids, clock) - read


def _now(on: torch.Tensor, clock: Clock) -> float:
    """The time at which all work queued on a tensor's device is done."""
    if on.device.type != "cpu":
        torch.accelerator.synchronize(on.device)
    return time.process_time() if clock == "cpu" else time.perf_counter()

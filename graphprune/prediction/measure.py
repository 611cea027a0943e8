"""What an architecture costs: the model is really pruned, and really read with.

By default every candidate is scored and repaired with statistics of the dense model, measured once for all of them, so
that no candidate needs a pass through the blocks; any method of `graphprune prune` can be the inner one instead, at one
pass each. Candidates are judged on text that the statistics have not seen.

Math: after a part of the windows the mean difference to a reference ``d_w = l_w(candidate) - l_w(reference)`` has the
standard error ``s``. If ``mean d - 2 s`` is above a margin the candidate is hopeless and the rest is not read: its loss
is estimated as the reference's over all windows plus ``mean d`` (a control variate).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import exp, inf, isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Int

from graphprune.core.errors import InputError
from graphprune.core.io import digest, load_tensors, save_tensors
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON
from graphprune.evaluation.perplexity import LOGITS, negative_log_likelihood
from graphprune.masks.items import removable
from graphprune.masks.select import select
from graphprune.methods import OBS, Recipe
from graphprune.models.model import Model, build_causal_lm
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.pairs import Origin, Pair
from graphprune.pruning import Evidence, apply, kinds_of, warn_of_few_tokens
from graphprune.scorers import make_scorer
from graphprune.scorers.inputs import Scorer
from graphprune.solvers.blocks import Site
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.obs import compensated
from graphprune.solvers.sequential import Change, Overlaid, Seen, operate
from graphprune.solvers.units import KIND_AT
from graphprune.surgery.cut import Plan

Rows = Int[torch.Tensor, "_windows _seq_len"]
Judge = Callable[[Any], float]
PERPLEXITY, ACCURACY = "perplexity.", "accuracy."
PROBE = 0.25
LARGEST = 700.0  # the exponential of a larger loss is no float


@dataclass(frozen=True)
class Stop:
    """When a candidate is hopeless.

    Attributes:
        margin: by how many nats a token it is worse than the reference.
        reference: nats a token of every window of every text, of the reference.
        probe: the share of the windows after which it is decided.
    """

    margin: float
    reference: Mapping[str, tuple[float, ...]]
    probe: float = PROBE

    def __post_init__(self) -> None:
        if not 0 < self.probe < 1:
            raise InputError(f"the probe is a share of the windows, between 0 and 1, not {self.probe:g}")
        if not self.margin >= 0:
            raise InputError(f"the margin of hopeless candidates is at least 0 nats, not {self.margin:g}")

    def windows(self, name: str) -> int:
        """How many windows of a text are read before it is decided; a standard error needs two."""
        return max(2, round(self.probe * len(self.reference[name])))

    def is_hopeless(self, name: str, losses: list[float]) -> bool:
        differences = [a - b for a, b in zip(losses, self.reference[name], strict=False)]
        error: float = stdev(differences) / len(differences) ** 0.5
        return fmean(differences) - 2 * error > self.margin

    def estimated(self, name: str, losses: list[float]) -> float:
        """The loss over all windows of a text, from some of them."""
        seen = self.reference[name][: len(losses)]
        return fmean(self.reference[name]) + fmean(losses) - fmean(seen)


@dataclass(frozen=True)
class Job:
    """All that a measurement depends on but the architecture; small, and the same in every process.

    Attributes:
        model: hash of the dense model.
        recipe: how candidates are pruned; its allocation is replaced.
        calibration: windows for statistics.
        texts: windows to judge on, by name.
        scores: of the dense model, for candidates that need no pass; None to go through the blocks each time.
        hessians: a file of what the dense model's layers read, if there is repair and no pass.
        folder: the dense model, for other processes.
        judges: what else is measured of a pruned network, by name (`accuracy.NAME`: higher = better, else lower);
            functions that other processes can import; a `key` tells apart those that measure something else.
        stop: when a candidate is hopeless; None reads all windows of all of them.
        dtype, device: of the forward passes.
    """

    model: str
    recipe: Recipe
    calibration: Rows
    texts: Mapping[str, Rows]
    scores: Scores | None = None
    hessians: Path | None = None
    folder: Path | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)
    stop: Stop | None = None
    dtype: torch.dtype | None = None
    device: str = "cpu"

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of what is measured."""
        return (*(f"{PERPLEXITY}{name}" for name in self.texts), *self.judges)

    @property
    def key(self) -> str:
        """The same for jobs that measure the same."""
        return digest([vars(self.origin), None if self.stop is None else vars(self.stop)])

    def bench(self, model: Model | None = None) -> "Callable[[Architecture], Pair]":
        """What measures an architecture, with the dense model, which is loaded if it isn't given."""
        return Bench(self, model).measure

    @cached_property
    def origin(self) -> Origin:
        """What pairs are told apart by. When hopeless ones are stopped is not part of it: each pair says so."""
        recipe = {name: value for name, value in vars(self.recipe).items() if name != "cut"}
        recipe["cut"] = {name: value for name, value in vars(self.recipe.cut).items() if name != "allocation"}
        method = [recipe, self.calibration.tolist(), self.scores is None, str(self.dtype)]
        judges = [[name, getattr(judge, "key", None)] for name, judge in sorted(self.judges.items())]
        text = [{name: rows.tolist() for name, rows in self.texts.items()}, judges]
        return Origin(self.model, digest(method), digest(text))


def needs_no_pass(recipe: Recipe) -> bool:
    """Whether candidates can be pruned with statistics of the dense model alone."""
    return recipe.scorer != OBS and not recipe.of_weights and recipe.compensation in {"none", OBS}


def prepared(
    evidence: Evidence,
    recipe: Recipe,
    texts: Mapping[str, Rows],
    *,
    scratch: Path | None = None,
    sequential: bool = False,
    judges: Mapping[str, Judge] | None = None,
) -> Job:
    """A job whose statistics have been measured.

    Args:
        evidence: the dense model and its calibration windows.
        recipe: how candidates are pruned.
        texts: windows to judge on, by name, other than those of the statistics.
        scratch: a folder where statistics may lie that are larger than a job; needed if there is repair and no pass.
        sequential: every candidate gets a pass through its blocks, and statistics behind pruned ones.
        judges: what else to measure of a pruned network.

    Raises:
        InputError: single weights would go, or a text has fewer than two windows.
    """
    recipe.check(0.0)
    if recipe.of_weights:
        raise InputError("architectures are counts of heads and neurons; single weights have none")
    if not texts:
        raise InputError("candidates are judged on at least one text")
    model = evidence.model
    model.decoder  # noqa: B018 - says what a perceptron can't do
    for name, rows in texts.items():
        model.check_tokens(rows)
        if len(rows) < 2:
            raise InputError(f"the text {name} has {len(rows)} windows to judge on; at least 2 are needed")
    scores, hessians = None, None
    if needs_no_pass(recipe) and not sequential:
        scores = evidence.scores(make_scorer(recipe.scorer, **recipe.options))
        if recipe.compensation == OBS:
            warn_of_few_tokens(evidence, recipe.damping)
            if scratch is None:
                raise InputError("candidates that are repaired without a pass need a folder for their statistics")
            hessians = scratch / f"hessians-{digest([model.identity, evidence.rows.tolist()])}.safetensors"
            if not hessians.is_file():
                save_hessians(hessians, dense_hessians(evidence))
    return Job(
        model.identity, recipe, evidence.rows, texts, scores, hessians, model.folder, judges or {},
        dtype=evidence.dtype, device=evidence.device,
    )  # fmt: skip


@dataclass(frozen=True)
class _Onlooker:
    """A surgeon that keeps what it sees and changes nothing."""

    seen: dict[str, Hessian] = field(default_factory=dict)

    def sites(self, layer: int) -> tuple[Site, ...]:  # noqa: ARG002 - a surgeon may treat layers differently
        return tuple(KIND_AT)

    def __call__(self, seen: Seen) -> Change:
        self.seen[f"{KIND_AT[seen.site]}.{seen.layer}"] = seen.hessian
        return Change({}, {}, 0.0)


def dense_hessians(evidence: Evidence) -> dict[str, Hessian]:
    """What the layers that read heads and neurons read in the dense model, by group.

    Cost: one pass, and ``columns^2`` numbers a layer in memory.
    """
    onlooker = _Onlooker()
    operate(
        evidence.model, evidence.rows, onlooker, dtype=evidence.dtype, device=evidence.device,
        what="statistics of the dense model",
    )  # fmt: skip
    return onlooker.seen


def save_hessians(path: Path, hessians: Mapping[str, Hessian]) -> None:
    tensors = {f"lower/{group}": hessian.lower for group, hessian in hessians.items()}
    tensors |= {f"sums/{group}": hessian.sums for group, hessian in hessians.items()}
    save_tensors(path, tensors, {"tokens": str(next(iter(hessians.values())).tokens)})


def load_hessians(path: Path) -> dict[str, Hessian]:
    """Those of a file, memory-mapped: processes on one machine share them.

    Raises:
        FormatError: the file is damaged.
    """
    tensors, metadata = load_tensors(path)
    groups = [name.removeprefix("lower/") for name in tensors if name.startswith("lower/")]
    tokens = int(metadata["tokens"])
    return {group: Hessian(tensors[f"lower/{group}"], tensors[f"sums/{group}"], tokens) for group in groups}


class Bench:
    """A model that is pruned again and again: loaded once, put back after every candidate."""

    def __init__(self, job: Job, model: Model | None = None) -> None:
        """A bench for a job.

        Raises:
            InputError: the model is in the memory of another process, or not the job's.
        """
        if model is None:
            if job.folder is None:
                raise InputError("the model is in memory: other processes can't load it; save it as a checkpoint first")
            model = Model.from_folder(job.folder)
        if model.identity != job.model:
            raise InputError(f"{model.name} is not the model that the statistics are of")
        self.job, self.model = job, model

    @cached_property
    def _network(self) -> Any:
        return self.model.module(dtype=self.job.dtype, device=self.job.device)

    @cached_property
    def _hessians(self) -> dict[str, Hessian]:
        return {} if self.job.hessians is None else load_hessians(self.job.hessians)

    @cached_property
    def _evidence(self) -> Evidence:
        """Scores of the dense model are made once."""
        found = Evidence.of_text(self.model, self.job.calibration, dtype=self.job.dtype, device=self.job.device)
        made: dict[Scorer, Scores] = {}
        return replace(found, scored=lambda scorer: made.get(scorer) or made.setdefault(scorer, found.scores(scorer)))

    def _mask(self, scores: Scores, architecture: Architecture) -> Mask:
        choice, units = self.job.recipe.cut, self.model.units
        pieces = removable(scores, units, kinds_of(choice, scores.kinds), head_mode=choice.heads, floor=choice.floor)
        return select(pieces, architecture.remove, units)

    def pruned(self, architecture: Architecture) -> tuple[Mask, Model]:
        """What stays of an architecture, and the dense model with the parameters that are repaired."""
        if self.job.scores is None:
            cutting = apply(self.job.recipe, 0.0, self._evidence, remove=architecture.remove)
            return cutting.mask, cutting.model
        mask = self._mask(self.job.scores, architecture)
        repaired = {} if self.job.recipe.compensation == "none" else self._repaired(mask)
        return mask, replace(self.model, parameters=Overlaid(self.model.parameters, repaired))

    def _repaired(self, mask: Mask) -> dict[str, torch.Tensor]:
        """The layers that read what goes, refitted to what the dense model's gave."""
        repaired: dict[str, torch.Tensor] = {}
        for group in self.model.units.of_kind(HEAD, NEURON):
            keep = mask.keep[group.name]
            if bool(keep.all()):
                continue
            (reader,) = group.outgoing
            W = self.model.parameters[reader.parameter].to(self.job.device)
            columns = keep.repeat_interleave(reader.width).to(W.device)
            hessian = self._hessians[group.name].damped(self.job.recipe.damping).to(W.device)
            repaired[reader.parameter] = compensated(W.float(), hessian, columns)
        return repaired

    def measure(self, architecture: Architecture) -> Pair:
        """Prunes, judges, and puts the model back."""
        start = time.perf_counter()
        with self._standing_in(*self.pruned(architecture)) as network:
            quality, losses, stopped = self._judged(network)
        if not all(map(isfinite, quality.values())):
            quality, losses = {}, {}
        seconds = round(time.perf_counter() - start, 3)
        return Pair(architecture, quality, {name: tuple(found) for name, found in losses.items()}, stopped, seconds)

    @contextmanager
    def _standing_in(self, mask: Mask, changed: Model) -> Iterator[Any]:
        """A network with the parameters of a pruned model, zeros where units are gone."""
        plan = Plan.of(mask, changed.units)
        if changed.config != self.model.config:  # biases were added, which the dense network has no place for
            parameters = {name: plan.zeroed(name, changed.parameters[name]) for name in changed.parameters}
            dtype = self.job.dtype or self.model.preferred_dtype()
            yield build_causal_lm(changed.config, parameters, None, dtype).to(self.job.device).eval()
            return
        network, touched = self._network, plan.touched | _replaced(changed)
        parameters = dict(network.named_parameters())
        places = {name: self.model.naming.parameter(name) for name in touched}
        # a model in memory may share its tensors with the network, so these are kept
        dense = {name: place.read(parameters[stock].detach()).clone() for name, (stock, place) in places.items()}
        try:
            with torch.no_grad():
                for name, (stock, place) in places.items():
                    place.write(parameters[stock], plan.zeroed(name, changed.parameters[name]))
            yield network
        finally:
            with torch.no_grad():
                for name, (stock, place) in places.items():
                    place.write(parameters[stock], dense[name])

    def _judged(self, network: Any) -> tuple[dict[str, float], dict[str, list[float]], bool]:
        """Quality by name, losses by text, and whether it was stopped early."""
        stop, texts = self.job.stop, self.job.texts
        losses: dict[str, list[float]] = {name: [] for name in texts}
        if stop is not None:
            for name, rows in texts.items():
                losses[name] += self._losses(network, rows[: stop.windows(name)])
            first = next(iter(texts))
            if stop.is_hopeless(first, losses[first]):
                loss = {name: stop.estimated(name, found) for name, found in losses.items()}
                return self._quality(loss, network), losses, True
        for name, rows in texts.items():
            losses[name] += self._losses(network, rows[len(losses[name]) :])
        return self._quality({name: fmean(found) for name, found in losses.items()}, network), losses, False

    def _quality(self, loss: Mapping[str, float], network: Any) -> dict[str, float]:
        quality = {f"{PERPLEXITY}{name}": exp(value) if value < LARGEST else inf for name, value in loss.items()}
        return quality | {name: float(judge(network)) for name, judge in self.job.judges.items()}

    def _losses(self, network: Any, rows: Rows) -> list[float]:
        """Nats a token of every window."""
        if not len(rows):  # all of a short text were read before it was decided whether to stop
            return []
        size = max(1, LOGITS // (rows.shape[1] * int(network.config.vocab_size)))
        found: list[float] = []
        with torch.inference_mode():
            for batch in torch.split(rows, size) if len(rows) else ():
                ids = batch.to(self.job.device)
                logits = network(input_ids=ids, use_cache=False).logits
                for i in range(len(ids)):
                    loss = negative_log_likelihood(logits[i : i + 1], ids[i : i + 1])
                    found.append(float(loss.double()) / (rows.shape[1] - 1))
        return found


def _replaced(model: Model) -> frozenset[str]:
    """The parameters that a pruned model doesn't share with the dense one."""
    return frozenset(model.parameters.above) if isinstance(model.parameters, Overlaid) else frozenset()

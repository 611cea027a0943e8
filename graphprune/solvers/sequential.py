"""One block after the other: each is measured with the inputs that the pruned blocks before it give.

For every block: enter it; at every site that is operated on, in order of computation, sum the Hessian of what is read
there through everything that has been changed so far, let the surgeon change the layers that read it; send the hidden
states through the changed block; leave it (SparseGPT and SlimGPT, section 3.3 of the latter).

One block's parameters, one site's Hessian, the hidden states and what the block's two projections read are all that is
in memory. What has been done to a block is written down before the next one is entered: `Journal`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped

from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import load_tensors, opened_tensors, save_tensors
from graphprune.core.progress import progress
from graphprune.models.architecture import Perceptron
from graphprune.models.data import check_inputs
from graphprune.models.devices import alone
from graphprune.models.model import Model
from graphprune.models.perceptron import ACTIVATIONS
from graphprune.models.streamed import StreamedDecoder
from graphprune.solvers.blocks import MLP_INPUT, NEURON, Blocks, Site, readers
from graphprune.solvers.hessian import Hessian

Tensors = Mapping[str, Shaped[torch.Tensor, "..."]]


@dataclass(frozen=True)
class Seen:
    """What a surgeon is shown at a site.

    Attributes:
        layer: which block.
        site: which of `SITES`.
        hessian: of what is read there.
        weights: of the layers that read it, by parameter name, as they are stored.
        inputs: gives what is read at this site, or at one before it in the block, batch by batch: as the block is now.
    """

    layer: int
    site: Site
    hessian: Hessian
    weights: Mapping[str, torch.Tensor]
    inputs: Callable[[Site], Iterator[torch.Tensor]] = field(default=lambda _: iter(()))


@dataclass(frozen=True)
class Change:
    """What a surgeon does at a site.

    Attributes:
        parameters: new values, by parameter name; what isn't named stays.
        keep: what stays, by unit group or as ``weight.PARAMETER`` (see `Mask`).
        error: the relative squared error ``|WX - W'X|^2 / |WX|^2`` of what is computed there.
        notes: what else there is to say of the site.
    """

    parameters: Mapping[str, torch.Tensor]
    keep: Mapping[str, torch.Tensor]
    error: float
    notes: Mapping[str, torch.Tensor] = field(default_factory=dict)


@runtime_checkable  # the shape checker asks
class Surgeon(Protocol):
    """Decides what goes and what makes up for it."""

    def sites(self, layer: int) -> tuple[Site, ...]:
        """Where it operates in a block."""
        ...

    def __call__(self, seen: Seen) -> Change: ...


@dataclass
class Journal:
    """What has been done, block by block: in a folder, so that a killed run goes on where it was, or in memory.

    Attributes:
        folder: where; None keeps it in memory.
    """

    folder: Path | None = None
    _memory: dict[int, tuple[dict[str, torch.Tensor], dict[str, float]]] = field(default_factory=dict)

    def __contains__(self, layer: int) -> bool:
        return layer in self._memory if self.folder is None else self._path(layer).is_file()

    def _path(self, layer: int) -> Path:
        if self.folder is None:
            raise ValueError("this journal is kept in memory")
        return self.folder / f"block-{layer:04d}.safetensors"

    def write(self, layer: int, changes: Mapping[Site, Change]) -> None:
        """Notes a finished block."""
        tensors: dict[str, torch.Tensor] = {}
        for change in changes.values():
            tensors |= {f"parameter.{name}": value.cpu().contiguous() for name, value in change.parameters.items()}
            tensors |= {f"keep.{name}": value.cpu().contiguous() for name, value in change.keep.items()}
            tensors |= {f"note.{name}": value.cpu().contiguous() for name, value in change.notes.items()}
        errors = {site: change.error for site, change in changes.items()}
        if self.folder is None:
            self._memory[layer] = (tensors, errors)
        else:
            save_tensors(self._path(layer), tensors, {f"error.{site}": repr(error) for site, error in errors.items()})

    def read(self, layer: int) -> "Operated":
        """A finished block.

        Raises:
            FormatError: the file is damaged.
        """
        if self.folder is None:
            tensors, errors = self._memory[layer]
        else:
            tensors, metadata = load_tensors(self._path(layer))
            try:
                errors = {k.removeprefix("error."): float(v) for k, v in metadata.items() if k.startswith("error.")}
            except ValueError as error:
                raise FormatError(f"{self._path(layer)} has damaged metadata: {error}") from error
        parts = {part: _named(f"{part}.", tensors) for part in ("parameter", "keep", "note")}
        errors = {f"{site}.{layer}": error for site, error in errors.items()}
        return Operated(parts["parameter"], parts["keep"], errors, parts["note"])

    def parameter(self, layer: int, name: str) -> torch.Tensor:
        """One parameter of a finished block."""
        if self.folder is None:
            return self._memory[layer][0][f"parameter.{name}"]
        with opened_tensors(self._path(layer)) as file:
            tensor: torch.Tensor = file.get_tensor(f"parameter.{name}")
        return tensor


def _named(prefix: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Operated:
    """What a run through all blocks did.

    Attributes:
        parameters: those that changed.
        keep: what stays, of every unit group or matrix that was operated on.
        errors: relative squared error by site and block (``neuron.3``).
        notes: what else the surgeon said.
        tokens: how many each Hessian was summed over.
        seconds: of the `forward` passes, the `statistics` and the `solver`.
    """

    parameters: Mapping[str, torch.Tensor]
    keep: Mapping[str, torch.Tensor]
    errors: Mapping[str, float]
    notes: Mapping[str, torch.Tensor]
    tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


class _Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = {"forward": 0.0, "statistics": 0.0, "solver": 0.0}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start


def operate(
    model: Model,
    rows: Shaped[torch.Tensor, "windows seq_len"],
    surgeon: Surgeon,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    journal: Journal | None = None,
    what: str = "pruning",
) -> Operated:
    """Takes a surgeon through all blocks of a decoder.

    Args:
        model: a decoder, or a perceptron; it stays as it is.
        rows: calibration windows, all of their tokens real; of a perceptron, inputs.
        surgeon: what is done.
        dtype: of the forward passes; the checkpoint's own by default. Hessians are summed in float32.
        device: of all of it; `auto` spreads the blocks as `models.devices` says.
        journal: what has been done already, and where to note the rest. A block that is in it is sent through as it
            was left, so the result is bitwise that of a run that wasn't stopped.
        what: the name on the progress bar.

    Cost: one forward pass through the blocks, ``columns^2`` operations a token and site, and the surgeon's work.

    Raises:
        InputError: there is no text, or an activation is not finite.
    """
    if isinstance(model.architecture, Perceptron):
        return _operate_on_perceptron(model, model.architecture, rows, surgeon, device, journal or Journal(), what)
    decoder = model.decoder
    model.check_tokens(rows)
    if rows.numel() == 0:
        raise InputError("there is no calibration text")
    journal, watch = journal or Journal(), _Stopwatch()
    with watch.on("forward"):
        network = StreamedDecoder(model, dtype=dtype, device=device)
        blocks = Blocks.before_all(network, rows)
    for layer in progress(range(decoder.n_layers), what, unit="block"):
        with network.entered(f"layers.{layer}") as block:
            if layer in journal:
                _put(network, block, decoder.block(layer), journal.read(layer).parameters)
            else:
                journal.write(layer, _operate_on(blocks, layer, block, surgeon, watch))
            if layer < decoder.n_layers - 1:
                with watch.on("forward"):
                    blocks.advance(layer, block)
    return _together(journal, decoder.n_layers, rows.numel(), watch.seconds)


def _operate_on(blocks: Blocks, layer: int, block: Any, surgeon: Surgeon, watch: _Stopwatch) -> dict[Site, Change]:
    network, changes = blocks.network, dict[Site, Change]()
    parameters, decoder = network.model.parameters, network.model.decoder
    for site in surgeon.sites(layer):
        hessian: Hessian | None = None
        inputs = iter(blocks.inputs(layer, block, site))
        while True:
            with watch.on("forward"):
                batch = next(inputs, None)
            if batch is None:
                break
            with watch.on("statistics"):
                hessian = hessian or Hessian.empty(batch.shape[-1], device=batch.device)
                hessian.add(batch)
        if hessian is None:
            raise AssertionError("there are windows")
        with watch.on("solver"):
            names = readers(decoder, layer, site)
            weights = {name: parameters[name].to(network.devices.of_block(layer)) for name in names}
            seen = Seen(layer, site, hessian, weights, partial(blocks.inputs, layer, block))
            changes[site] = surgeon(seen)
            _put(network, block, decoder.block(layer), changes[site].parameters)
            blocks.changed(changes[site].parameters)
    return changes


def _operate_on_perceptron(
    model: Model,
    perceptron: Perceptron,
    inputs: Float[torch.Tensor, "examples features"],
    surgeon: Surgeon,
    device: str,
    journal: Journal,
    what: str,
) -> Operated:
    """The same for a perceptron; its block ``l`` ends with the layer that reads hidden neurons ``l``."""
    check_inputs(perceptron, inputs)
    device = alone(device)
    weights = {name: value.to(device) for name, value in model.parameters.items()}
    watch, read = _Stopwatch(), inputs.to(device).float()
    n_blocks = max(perceptron.n_layers - 1, 1)

    def through(layer: int, x: torch.Tensor) -> torch.Tensor:
        given = torch.nn.functional.linear(
            x, weights[perceptron.parameter(layer)].float(), weights.get(perceptron.parameter(layer, "bias"))
        )
        result: torch.Tensor = ACTIVATIONS[perceptron.activations[layer]]()(given)
        return result

    for block in progress(range(n_blocks), what, unit="layer"):
        changes = dict[Site, Change]()
        for site in (MLP_INPUT, NEURON):
            names = readers(perceptron, block, site)
            if not names:
                continue
            layer = 0 if site == MLP_INPUT else block + 1
            if layer:
                with watch.on("forward"):
                    read = through(layer - 1, read)
            if block not in journal and site in surgeon.sites(block):
                with watch.on("statistics"):
                    hessian = Hessian.empty(read.shape[1], device=read.device)
                    hessian.add(read)
                with watch.on("solver"):
                    now = {name: weights[name] for name in names}
                    changes[site] = surgeon(Seen(block, site, hessian, now, partial(_once, read)))
            done = journal.read(block).parameters if block in journal else {}
            weights |= {n: v.to(device) for n, v in (changes[site].parameters if site in changes else done).items()}
        if block not in journal:
            journal.write(block, changes)
    return _together(journal, n_blocks, len(inputs), watch.seconds)


def _once(read: torch.Tensor, _: Site) -> Iterator[torch.Tensor]:
    yield read


def _put(network: StreamedDecoder, block: Any, prefix: str, parameters: Tensors) -> None:
    for name, value in parameters.items():
        network.put(block, name.removeprefix(prefix), value)


def _together(journal: Journal, n_layers: int, tokens: int, seconds: Mapping[str, float]) -> Operated:
    keep, notes, errors, layers = (
        dict[str, torch.Tensor](),
        dict[str, torch.Tensor](),
        dict[str, float](),
        dict[str, int](),
    )
    for layer in range(n_layers):
        block = journal.read(layer)
        keep |= block.keep
        notes |= block.notes
        errors |= block.errors
        layers |= dict.fromkeys(block.parameters, layer)
    return Operated(Noted(journal, layers), keep, errors, notes, tokens, seconds)


@dataclass(frozen=True)
class Noted(Mapping[str, torch.Tensor]):
    """The parameters in a journal, each read when it is needed.

    Attributes:
        journal: of all blocks.
        layers: by parameter name, the block that it is in.
    """

    journal: Journal
    layers: Mapping[str, int]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.journal.parameter(self.layers[name], name)

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


class Overlaid(Mapping[str, torch.Tensor]):
    """A model's parameters, some of them replaced; the others are read when they are needed."""

    def __init__(self, below: Mapping[str, torch.Tensor], above: Mapping[str, torch.Tensor]) -> None:
        self.below, self.above = below, above

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all of them, without reading those that aren't replaced if the others know theirs."""
        known = getattr(self.below, "shapes", None)
        below = {name: tuple(tensor.shape) for name, tensor in self.below.items()} if known is None else known
        return {**below, **{name: tuple(self.above[name].shape) for name in self.above.keys() - below.keys()}}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.above:
            return self.below[name]
        found = self.above[name]
        return found.to(self.below[name].dtype) if name in self.below else found

    def __contains__(self, name: object) -> bool:
        return name in self.above or name in self.below

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.below, *self.above]))

    def __len__(self) -> int:
        return len(self.below.keys() | self.above.keys())

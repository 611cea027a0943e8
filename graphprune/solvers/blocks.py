"""The hidden states of some windows on their way through a decoder, block after block and site after site.

A block is entered, measured and changed in the order in which it computes: what the attention reads, what its output
projection reads, what the MLP reads, what the down projection reads. What the two projections read is kept, so that
after a change nothing before it is computed again: measuring and pruning a block costs one forward pass of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int

from graphprune.core.errors import InputError
from graphprune.models.architecture import Architecture, Decoder, Perceptron
from graphprune.models.streamed import StreamedDecoder

Site = str
ATTENTION_INPUT, ATTENTION, MLP_INPUT, NEURON = "attn_in", "attn", "mlp_in", "neuron"
SITES: dict[Site, tuple[str, ...]] = {
    ATTENTION_INPUT: ("q_proj", "k_proj", "v_proj"),
    ATTENTION: ("o_proj",),
    MLP_INPUT: ("gate_proj", "up_proj"),
    NEURON: ("down_proj",),
}
"""Where a block is measured, in order of computation, and the linear layers that read there; some have no gate."""
BATCH_TOKENS = 4096
KEPT_BYTES = 4 << 30


def readers(architecture: Architecture, layer: int, site: Site) -> list[str]:
    """The weights that read at a site of a block, by parameter name.

    A perceptron's block ``l`` is its hidden neurons ``l`` and the layer that reads them; the first layer belongs to
    block 0, too.
    """
    if isinstance(architecture, Perceptron):
        number = {MLP_INPUT: 0 if layer == 0 else None, NEURON: layer + 1}.get(site)
        there = number is not None and number < architecture.n_layers
        return [architecture.parameter(number, "weight")] if there and number is not None else []
    return [architecture.parameter(layer, f"{module}.weight") for module in reading(architecture, site)]


def reading(decoder: Decoder, site: Site) -> tuple[str, ...]:
    """The linear layers that read at a site in a decoder."""
    return tuple(module for module in SITES[site] if module != "gate_proj" or decoder.family.gated)


class _Stop(Exception):  # noqa: N818 - it stops a forward pass, nothing is wrong
    """A forward pass has got where it had to."""


@dataclass
class Blocks:
    """Hidden states before a block, and the block itself while it is entered.

    Attributes:
        network: whose blocks are entered one by one.
        hidden: what enters the next block.
        settings: per block, the other arguments of its forward pass: positions, masks.
        kept: what the projections of the entered block read, per site, one tensor a batch of windows.
    """

    network: StreamedDecoder
    hidden: Float[torch.Tensor, "windows seq_len d_model"]
    settings: list[Mapping[str, Any]]
    kept: dict[Site, list[torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def before_all(cls, network: StreamedDecoder, rows: Int[torch.Tensor, "windows seq_len"]) -> "Blocks":
        """What enters the first block."""
        return cls(network, *network.settings(rows))

    @property
    def _batches(self) -> list[slice]:
        windows, seq_len, _ = self.hidden.shape
        size = max(1, BATCH_TOKENS // seq_len)
        return [slice(start, start + size) for start in range(0, windows, size)]

    def name(self, layer: int, module: str) -> str:
        """A module of a block by its name within the block."""
        decoder = self.network.model.decoder
        return decoder.parameter(layer, module).removeprefix(decoder.block(layer))

    def _module(self, layer: int, block: Any, module: str) -> Any:
        """The stock module of a block that a module is, or is a part of."""
        return block.get_submodule(self.network.naming.within(self.name(layer, module)).module)

    def inputs(self, layer: int, block: Any, site: Site) -> Iterator[Float[torch.Tensor, "batch seq_len columns"]]:
        """What is read at a site, batch by batch, computed from what is known; the block runs no further than that."""
        if site in self.kept:
            yield from self.kept[site]
            return
        keep: dict[Site, list[torch.Tensor]] = {ATTENTION: [], NEURON: []}
        for index, _ in enumerate(self._batches):
            seen: list[torch.Tensor] = []
            with self._hooked(layer, block, site, keep, seen), suppress(_Stop):
                self._run(layer, block, index, site)
            yield seen[0]
        for name, tensors in keep.items():
            if tensors and sum(x.numel() * x.element_size() for x in tensors) <= KEPT_BYTES:
                self.kept[name] = tensors

    @contextmanager
    def _hooked(
        self, layer: int, block: Any, site: Site, keep: dict[Site, list[torch.Tensor]], seen: list[torch.Tensor]
    ) -> Iterator[None]:
        """Keeps what the projections read on the way to a site, and stops there."""

        def keeping(name: Site) -> Callable[..., None]:
            def hook(_: Any, args: tuple[torch.Tensor, ...]) -> None:
                if name not in self.kept and name in keep:
                    keep[name].append(args[0])
                if name == site:
                    seen.append(args[0])
                    raise _Stop

            return hook

        with ExitStack() as stack:
            for name in dict.fromkeys([ATTENTION, NEURON, site]):
                module = self._module(layer, block, reading(self.network.model.decoder, name)[0])
                stack.callback(module.register_forward_pre_hook(keeping(name)).remove)
            yield

    def changed(self, parameters: Iterable[str]) -> None:
        """Forgets what comes behind parameters that have changed."""
        names = {parameter.split(".")[-2] for parameter in parameters}
        first = min((place for place, site in enumerate(SITES) if names.intersection(SITES[site])), default=len(SITES))
        for site in list(SITES)[first + 1 :]:
            self.kept.pop(site, None)

    def _run(self, layer: int, block: Any, index: int, until: Site | None = None) -> torch.Tensor:
        """A block's output for one batch.

        Sub-blocks whose projection's input is kept begin there, unless what is asked for comes before.
        """
        order = list(SITES)
        last = len(order) if until is None else order.index(until)

        def attention(*_: Any, **__: Any) -> tuple[torch.Tensor, None]:
            return self._module(layer, block, "o_proj")(self.kept[ATTENTION][index]), None

        def mlp(*_: Any, **__: Any) -> torch.Tensor:
            result: torch.Tensor = self._module(layer, block, "down_proj")(self.kept[NEURON][index])
            return result

        def neurons(*_: Any, **__: Any) -> torch.Tensor:
            return self.kept[NEURON][index]

        def unchanged(x: torch.Tensor) -> torch.Tensor:
            return x

        shorts: list[tuple[Site, str, Callable[..., Any]]] = [(ATTENTION, "self_attn", attention)]
        if self.network.model.decoder.family.gated:
            shorts.append((NEURON, "mlp", mlp))
        else:  # it need not be a module of its own
            shorts += [(NEURON, "up_proj", neurons), (NEURON, "act_fn", unchanged)]
        with torch.inference_mode(), ExitStack() as stack:
            for site, part, short in shorts:
                if site in self.kept and order.index(site) < last:
                    module = self._module(layer, block, part)
                    module.forward = short
                    stack.callback(delattr, module, "forward")
            hidden = self.hidden[self._batches[index]].to(self.network.devices.of_block(layer))
            output = block(hidden, **self.settings[layer])
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def advance(self, layer: int, block: Any) -> None:
        """Sends the hidden states through a block, as it is now.

        Raises:
            InputError: one comes out NaN or infinite.
        """
        with torch.inference_mode():
            for index, batch in enumerate(self._batches):
                self.hidden[batch] = self._run(layer, block, index)
        self.kept.clear()
        if not bool(torch.isfinite(self.hidden.sum(dtype=torch.float64))):
            raise InputError(f"the activations after block {layer} are NaN or infinite; try --dtype float32")

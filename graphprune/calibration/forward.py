"""Statistics of a forward pass: hooks on the linear layers add up activations and their squares, site by site."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import nn

from graphprune.calibration.text import read_text, sampled, windows
from graphprune.core.errors import InputError, ModelError
from graphprune.core.io import digest
from graphprune.core.progress import progress
from graphprune.core.stats import CalibrationStats, is_summed
from graphprune.models.architecture import Decoder, Perceptron
from graphprune.models.data import check_inputs, read_examples
from graphprune.models.devices import alone
from graphprune.models.model import Model
from graphprune.models.naming import Naming, Place
from graphprune.models.streamed import StreamedDecoder


def calibrate(
    model: Model,
    text: str | Path | torch.Tensor,
    *,
    n_samples: int = 32,
    seq_len: int = 512,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> CalibrationStats:
    """What every channel of a model carries on some text: sums a site (see `CalibrationStats`).

    Args:
        model: a decoder or a perceptron.
        text: a text, the path of a UTF-8 file, or token ids (windows, seq_len). For a perceptron, inputs
            (examples, features), or the path of a safetensors file with `inputs`.
        n_samples: windows drawn from the text without replacement; of a perceptron's examples all are used.
        seq_len: tokens a window.
        seed: of the draw.
        dtype: of the forward pass; sums are kept in float64.
        device: of the forward pass.

    Cost: one forward pass without the output embedding, with one block and the hidden states in memory.

    Raises:
        InputError: the text is missing, empty, too short or not UTF-8.
    """
    if isinstance(model.architecture, Perceptron):
        inputs = calibration_rows(model, text)
        options = {"examples": len(inputs), "inputs": digest(inputs.tolist())}
        squares, sums = _perceptron_sums(model, inputs, dtype=dtype, device=device)
        return CalibrationStats(squares, len(inputs), model.identity, options, sums)
    rows = calibration_rows(model, text, n_samples=n_samples, seq_len=seq_len, seed=seed)
    squares, sums = _decoder_sums(model, rows, dtype=dtype, device=device)
    options = {"tokens": digest(rows.tolist()), "n_samples": len(rows), "seq_len": rows.shape[1], "seed": seed}
    return CalibrationStats(squares, rows.numel(), model.identity, options, sums)


def calibration_rows(
    model: Model, text: str | Path | torch.Tensor, *, n_samples: int = 32, seq_len: int = 512, seed: int = 0
) -> Shaped[torch.Tensor, "windows seq_len"]:
    """What a model is calibrated on: windows drawn from a text, or token ids as they are; a perceptron's inputs, all.

    Raises:
        InputError: the text is missing, empty, too short or not UTF-8.
        ModelError: a token is unknown to the model.
    """
    if isinstance(model.architecture, Perceptron):
        inputs = read_examples(text)["inputs"] if isinstance(text, Path) else text
        if not isinstance(inputs, torch.Tensor):
            raise InputError("a perceptron is calibrated on a safetensors file with `inputs`, not on text")
        check_inputs(model.architecture, inputs)
        return inputs
    if isinstance(text, torch.Tensor):
        rows = text
    else:
        content = read_text(text) if isinstance(text, Path) else text
        rows = sampled(windows(model.tokenizer, content, seq_len, needed=n_samples), n_samples, seed)
    model.check_tokens(rows)
    return rows


class _Accumulator:
    """Sums of squares by site, and plain sums where they are kept."""

    def __init__(self) -> None:
        self.squares: dict[str, torch.Tensor] = {}
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, site: str, size: int, x: Float[torch.Tensor, "..."]) -> None:
        """Adds activations of any shape whose last axes hold the site's ``size`` channels."""
        channels = x.detach().float().reshape(-1, size)
        _increase(self.squares, site, channels.square())
        if is_summed(site):
            _increase(self.sums, site, channels)

    def checked(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        for site, total in self.squares.items():  # finite squares have a finite sum
            if not bool(torch.isfinite(total).all()):
                raise ModelError(f"the model's activations at {site} are NaN or infinite; try --dtype float32")
        return _on_cpu(self.squares), _on_cpu(self.sums)


def _increase(totals: dict[str, torch.Tensor], site: str, values: Float[torch.Tensor, "tokens channels"]) -> None:
    total = values.sum(dim=0).double()
    totals[site] = totals[site] + total if site in totals else total


def _on_cpu(totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {site: total.cpu() for site, total in totals.items()}


@contextmanager
def hooked(
    network: nn.Module,
    naming: Naming,
    before: Mapping[str, Callable[..., None]],
    after: Mapping[str, Callable[..., None]],
) -> Iterator[None]:
    """Calls ``before[name](input)`` and ``after[name](output)`` whenever a part runs, by its canonical name."""

    def pre(call: Callable[..., None]) -> Callable[..., None]:
        return lambda _, args, kwargs: call(args[0] if args else kwargs["hidden_states"])

    def post(place: Place, call: Callable[..., None]) -> Callable[..., None]:
        return lambda _, __, output: call(place.output(output[0] if isinstance(output, tuple) else output))

    handles = []
    for name, call in before.items():
        module = network.get_submodule(naming.module(name).module)
        handles.append(module.register_forward_pre_hook(pre(call), with_kwargs=True))
    for name, call in after.items():
        place = naming.module(name)
        handles.append(network.get_submodule(place.module).register_forward_hook(post(place, call)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sites(decoder: Decoder) -> tuple[dict[str, str], dict[str, str]]:
    """Where a decoder is measured: the site by the part whose input it is, and by the part whose output."""
    family = decoder.family
    inputs = {"q_proj": "attn_in", "o_proj": "attn", "up_proj": "mlp_in", "down_proj": "neuron"}
    outputs = {"v_proj": "value", "o_proj": "attn_out", "down_proj": "mlp_out"}
    outputs |= {f"{part}_proj": part for part in decoder.mlp_parts}
    if family.head_norm or family.joint_norm:
        outputs |= {"q_proj": "query_raw", "k_proj": "key_raw", "q_norm": "query", "k_norm": "key"}
    else:
        outputs |= {"q_proj": "query", "k_proj": "key"}
    before: dict[str, str] = {"model.norm": f"resid.{2 * decoder.n_layers}"}
    after: dict[str, str] = {}
    for layer in range(decoder.n_layers):
        before |= {decoder.parameter(layer, name): f"{site}.{layer}" for name, site in inputs.items()}
        after |= {decoder.parameter(layer, name): f"{site}.{layer}" for name, site in outputs.items()}
        before[decoder.entrance(layer, family.attention_norm)] = f"resid.{2 * layer}"
        if not decoder.parallel:
            before[decoder.entrance(layer, family.mlp_norm, "mlp")] = f"resid.{2 * layer + 1}"
    return before, after


def site_sizes(model: Model) -> dict[str, int]:
    """How many channels a model has at every site."""
    if isinstance(model.architecture, Perceptron):
        sizes, last = model.architecture.sizes, model.architecture.n_layers - 1
        widths = {"input.0": sizes[0], f"output.{last}": sizes[-1]}
        widths |= {f"pre.{layer}": size for layer, size in enumerate(sizes[1:])}
        return widths | {f"neuron.{layer}": sizes[layer + 1] for layer in range(last)}
    d = model.architecture
    heads, kv = d.n_heads * d.d_head, d.n_kv_heads * d.d_head
    channels = {"query": heads, "query_raw": heads, "attn": heads, "key": kv, "key_raw": kv, "value": kv,
                "gate": d.d_mlp, "up": d.d_mlp, "neuron": d.d_mlp}  # fmt: skip
    before, after = sites(d)
    return {site: channels.get(site.split(".")[0], d.d_model) for site in [*before.values(), *after.values()]}


def _decoder_sums(
    model: Model, rows: torch.Tensor, *, dtype: torch.dtype | None, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    sums = _Accumulator()
    before, after = sites(model.decoder)
    sizes = site_sizes(model)
    inputs = {name: partial(sums.add, site, sizes[site]) for name, site in before.items()}
    outputs = {name: partial(sums.add, site, sizes[site]) for name, site in after.items()}
    watch(StreamedDecoder(model, dtype=dtype, device=device), rows, inputs, outputs, "calibrating")
    return sums.checked()


def watch(
    network: StreamedDecoder,
    rows: Shaped[torch.Tensor, "windows seq_len"],
    before: Mapping[str, Callable[..., None]],
    after: Mapping[str, Callable[..., None]],
    what: str,
) -> None:
    """Sends windows through a decoder, block after block and one by one, and calls what is given as `hooked` does.

    Args:
        network: the decoder.
        rows: the windows.
        before: what is shown the input of a part, by its canonical name: a block, a module of one, or ``model.norm``.
        after: what is shown the output of a module of a block.
        what: the name on the progress bar.
    """
    decoder = network.model.decoder
    hidden, settings = network.settings(rows)
    naming = replace(network.naming, body="")  # names within the body
    with torch.inference_mode():
        for layer in progress(range(decoder.n_layers), what, unit="block"):
            inside = decoder.block(layer)
            inputs, outputs = (_inside(inside, hooks) for hooks in (before, after))
            with network.entered(f"layers.{layer}") as block, hooked(network.body, naming, inputs, outputs):
                for window in hidden:
                    output = block(window[None].to(network.devices.of_block(layer)), **settings[layer])
                    window[:] = (output[0] if isinstance(output, tuple) else output)[0]
        for window in hidden if "model.norm" in before else ():
            before["model.norm"](window[None])


def _inside(block: str, hooks: Mapping[str, Callable[..., None]]) -> dict[str, Callable[..., None]]:
    """Those of a block, and of the parts in it."""
    return {name: call for name, call in hooks.items() if f"{name}.".startswith(block)}


def _perceptron_sums(
    model: Model, inputs: torch.Tensor, *, dtype: torch.dtype | None, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    device = alone(device)
    network: Any = model.module(dtype=dtype, device=device)
    sums = _Accumulator()
    x = inputs.to(device=device, dtype=dtype or torch.float32)
    last = len(network.layers) - 1
    with torch.inference_mode():
        sums.add("input.0", x.shape[-1], x)
        for layer, (linear, activation) in enumerate(zip(network.layers, network.activations, strict=True)):
            raw = linear(x)
            x = activation(raw)
            sums.add(f"pre.{layer}", raw.shape[-1], raw)
            sums.add(f"{'output' if layer == last else 'neuron'}.{layer}", x.shape[-1], x)
    return sums.checked()

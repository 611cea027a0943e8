"""One report of quality and size."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from graphprune.calibration.text import left_over, read_text, spread, windows
from graphprune.core.errors import InputError
from graphprune.evaluation.divergence import alongside, divergence
from graphprune.evaluation.perplexity import perplexity
from graphprune.models.architecture import Perceptron
from graphprune.models.checkpoint import Checkpoint
from graphprune.models.data import check_inputs, read_examples
from graphprune.models.devices import entrance
from graphprune.models.model import Model


@dataclass(frozen=True)
class EvalReport:
    """Quality and size of a model.

    Attributes:
        perplexity: over the windows, or None for a perceptron.
        accuracy: share of examples classified correctly, or None for a language model.
        windows: how many windows (or examples) were read.
        tokens: how many tokens were read, the first of each window included.
        seq_len: tokens a window.
        params: parameters, tied ones counted once.
        nonzero_params: those that aren't exactly zero.
        checkpoint_bytes: size of the weight files, or of the parameters in memory.
        dtype: of the forward pass.
        seconds: of the forward passes.
        kl: mean divergence from another model's predictions over all predicted tokens, in nats, if it was asked for.
    """

    perplexity: float | None
    accuracy: float | None
    windows: int
    tokens: int
    seq_len: int
    params: int
    nonzero_params: int
    checkpoint_bytes: int
    dtype: str
    seconds: float
    kl: float | None = None

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def evaluate(
    model: Model,
    text: str | Path | torch.Tensor,
    *,
    seq_len: int = 512,
    max_windows: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    against: Model | None = None,
    leave_out: tuple[int, int] | None = None,
) -> EvalReport:
    """Perplexity of a language model on a text (accuracy of a perceptron on examples), and its size.

    Args:
        model: what to evaluate.
        text: a text, the path of a UTF-8 file, or token ids (windows, seq_len); for a perceptron the path of a
            safetensors file with `inputs` and `labels`.
        seq_len: tokens a window; windows don't overlap.
        max_windows: at most this many, spread evenly over the text; all by default.
        batch_size: windows a forward pass; by default as many as keep the logits small.
        dtype: of the forward pass; the checkpoint's own by default (float32 for float16).
        device: of the forward pass; `auto` spreads the model over the accelerators.
        against: the dense model, to measure how far the predictions are from its own (`divergence`).
        leave_out: number and seed of the windows of this length that a calibration on the same text has read; they are
            no part of the report.

    Raises:
        InputError: the text is missing, empty, too short or not UTF-8, or ``against`` has another vocabulary.
    """
    import time

    dtype = dtype or model.preferred_dtype()
    if against is not None:
        _check_comparable(model, against)
    if isinstance(model.form, Perceptron):
        if not isinstance(text, Path):
            raise InputError("a perceptron is evaluated on a safetensors file with `inputs` and `labels`")
        if leave_out is not None:
            raise InputError("windows of a text are left out, and a perceptron reads none")
        examples = read_examples(text, labelled=True)
        check_inputs(model.form, examples["inputs"])
        start = time.perf_counter()
        quality = accuracy(model.module(dtype=torch.float32, device=device), examples["inputs"], examples["labels"])
        count = len(examples["inputs"])
        return _report(model, None, quality, (count, count, 1), "float32", time.perf_counter() - start)
    if isinstance(text, torch.Tensor):
        rows = text
    else:
        content = read_text(text) if isinstance(text, Path) else text
        rows = windows(model.tokenizer, content, seq_len, needed=1 + (leave_out[0] if leave_out else 0))
        rows = spread(left_over(rows, *leave_out) if leave_out else rows, max_windows)
    model.check_tokens(rows)
    network = model.module(dtype=dtype, device=device)
    place = str(entrance(network, device))
    start = time.perf_counter()
    shape, kl = (rows.shape[0], rows.numel(), rows.shape[1]), None
    if against is None:
        value = perplexity(network, rows, device=place, batch_size=batch_size)
    else:
        dense = alongside(against.module(dtype=dtype, device=device))
        found = divergence(network, dense, rows, device=place, batch_size=batch_size)
        value, kl = found.perplexity, found.kl
    seconds = time.perf_counter() - start
    return replace(_report(model, value, None, shape, str(dtype).removeprefix("torch."), seconds), kl=kl)


def _check_comparable(model: Model, dense: Model) -> None:
    """Checks that two models predict the same tokens.

    Raises:
        InputError: one is a perceptron, or their vocabularies have different sizes.
    """
    table = "model.embed_tokens.weight"
    if model.is_perceptron or dense.is_perceptron:
        raise InputError("divergence is between predictions of tokens; a perceptron makes none")
    if model.shapes[table][0] != dense.shapes[table][0]:
        raise InputError(
            f"{model.name} predicts {model.shapes[table][0]:,} tokens, {dense.name} {dense.shapes[table][0]:,}: "
            "divergence is between models of one vocabulary"
        )


def accuracy(network: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of examples whose largest output is their label."""
    with torch.inference_mode():
        device = next(network.parameters()).device
        outputs = network(inputs.to(device=device, dtype=torch.float32))
        return float((outputs.argmax(dim=1).cpu() == labels.cpu()).double().mean())


def _report(
    model: Model, ppl: float | None, acc: float | None, shape: tuple[int, int, int], dtype: str, seconds: float
) -> EvalReport:
    nonzero = sum(int(torch.count_nonzero(model.parameters[name])) for name in model.parameters)
    if isinstance(model.parameters, Checkpoint):
        n_bytes = model.parameters.n_bytes
    else:
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters.values())
    return EvalReport(ppl, acc, *shape, model.n_parameters, nonzero, n_bytes, dtype, round(seconds, 3))

"""Perplexity over non-overlapping windows."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int

from graphprune.core.progress import progress

LOGITS = 1 << 24


def negative_log_likelihood(
    logits: Float[torch.Tensor, "batch seq vocab"], ids: Int[torch.Tensor, "batch seq"]
) -> Float[torch.Tensor, ""]:
    """Sum over all predicted tokens of ``-log p(token | before)``, in nats; none for a window's first."""
    flat = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1), reduction="sum")


def perplexity(
    network: Any,
    rows: Int[torch.Tensor, "windows seq_len"],
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    what: str = "evaluating",
) -> float:
    """``exp`` of the mean negative log-likelihood of every predicted token.

    Equal to the exponential of the mean of Hugging Face's loss over the same windows.

    Args:
        network: a causal language model that returns `logits`.
        rows: token ids; nothing carries over from one window to the next.
        device: where the network lies.
        batch_size: windows a forward pass; the result doesn't depend on it. By default as many as keep the logits
            below `LOGITS` values.
        what: the name on the progress bar.
    """
    batch_size = batch_size or max(1, LOGITS // (rows.shape[1] * int(network.config.vocab_size)))
    total = torch.zeros((), dtype=torch.float64)
    batches: Iterable[torch.Tensor] = torch.split(rows, batch_size)
    with torch.inference_mode():
        for batch in progress(batches, what, total=-(-len(rows) // batch_size), unit="window"):
            ids = batch.to(device)
            total += negative_log_likelihood(network(input_ids=ids, use_cache=False).logits, ids).double().cpu()
    return float((total / (rows.shape[0] * (rows.shape[1] - 1))).exp())

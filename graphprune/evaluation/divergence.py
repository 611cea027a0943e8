"""How far a pruned model's predictions are from the dense model's, token by token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from graphprune.core.progress import progress
from graphprune.evaluation.perplexity import LOGITS, negative_log_likelihood

Logits = Float[torch.Tensor, "batch seq vocab"]
Reference = Callable[[Int[torch.Tensor, "batch seq"], int], torch.Tensor]
"""The dense logits of a batch of windows, given with the number of its first."""


@dataclass(frozen=True)
class Divergence:
    """Quality of a model, and how far it is from another.

    Attributes:
        perplexity: over the windows.
        kl: mean over predicted tokens of the Kullback-Leibler divergence from the dense model's prediction, in nats.
    """

    perplexity: float
    kl: float


def kl_divergence(dense: Logits, pruned: Logits) -> Float[torch.Tensor, ""]:
    """The sum over all predicted tokens of the divergence of the pruned prediction from the dense one, in nats.

    Math: ``sum_t sum_v p_tv (log p_tv - log q_tv)``, p dense, q pruned; nothing for a window's last place, whose next
    token isn't known, so that the tokens are those of the perplexity. A prediction of the same logits has exactly 0.
    """
    log_p = torch.log_softmax(dense[:, :-1].float(), dim=-1)
    log_q = torch.log_softmax(pruned[:, :-1].float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def divergence(
    network: Any,
    dense: Reference,
    rows: Int[torch.Tensor, "windows seq_len"],
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    what: str = "evaluating",
) -> Divergence:
    """Perplexity of a network on some windows, and its divergence from the dense one; in one pass.

    Args:
        network: a causal language model that returns `logits`.
        dense: gives the dense logits: `alongside` or `FinalStates`.
        rows: token ids; nothing carries over from one window to the next.
        device: where the network lies.
        batch_size: windows a forward pass; the result doesn't depend on it.
        what: the name on the progress bar.

    Cost: the logits of one batch of either network in memory.
    """
    size = batch_size or max(1, LOGITS // (rows.shape[1] * int(network.config.vocab_size)))
    loss, kl = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    with torch.inference_mode():
        for first in progress(range(0, len(rows), size), what, total=-(-len(rows) // size), unit="window"):
            ids = rows[first : first + size].to(device)
            logits = network(input_ids=ids, use_cache=False).logits
            loss += negative_log_likelihood(logits, ids).double().cpu()
            kl += kl_divergence(dense(ids, first), logits).double().cpu()
    tokens = rows.shape[0] * (rows.shape[1] - 1)
    return Divergence(float((loss / tokens).exp()), float(kl / tokens))


def alongside(network: Any) -> Reference:
    """The dense network, run beside the pruned one on every batch."""

    def logits(ids: Int[torch.Tensor, "batch seq"], _: int) -> torch.Tensor:
        found: torch.Tensor = network(input_ids=ids, use_cache=False).logits
        return found

    return logits


class FinalStates:
    """The dense network's last hidden states of all windows, and its output layer to make logits of them.

    For many pruned models on the same windows: the dense one is run once, and hidden states take ``d_model`` numbers a
    token where logits would take the vocabulary's size.
    """

    def __init__(self, network: Any, rows: Int[torch.Tensor, "windows seq_len"], *, device: str = "cpu") -> None:
        """Runs the dense network over all windows."""
        self._head: Any = network.get_output_embeddings()
        self._cap: float | None = getattr(network.config, "final_logit_softcapping", None)
        states: list[torch.Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].detach()))
        try:
            with torch.inference_mode():
                for row in progress(rows, "the dense model", total=len(rows), unit="window"):
                    network(input_ids=row[None].to(device), use_cache=False)
        finally:
            hook.remove()
        self._states = torch.cat(states)

    def __call__(self, ids: Int[torch.Tensor, "batch seq"], first: int) -> torch.Tensor:
        """The dense logits of the windows from number ``first`` on."""
        logits: torch.Tensor = self._head(self._states[first : first + len(ids)])
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

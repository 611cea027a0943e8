"""How much each attention and MLP turns the residual stream (ShortGPT, Men et al. 2024)."""

from functools import partial

import torch
from jaxtyping import Float, Shaped

from graphprune.calibration.forward import watch
from graphprune.core.errors import InputError, ModelError
from graphprune.core.scores import BLOCK
from graphprune.models.model import Model
from graphprune.models.streamed import StreamedDecoder


def influence(
    model: Model,
    rows: Shaped[torch.Tensor, "windows seq_len"],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> dict[str, Float[torch.Tensor, "1"]]:
    """Block influence, sub-block by sub-block: one score each, `block.L.attn` and `block.L.mlp`.

    Math: ``1 - mean_t cos(x_t, x_t + f(x)_t)`` over all tokens, with ``x`` the stream that a sub-block ``f`` finds. In
    a parallel block both find the same. The paper scores whole blocks; here either half can go alone.

    Cost: one forward pass without the output embedding, with one block and the hidden states in memory.

    Raises:
        InputError: the model is a perceptron, or its layers differ; or there is no text.
        ModelError: an activation is NaN or infinite.
    """
    decoder = model.decoder
    if not rows.numel():
        raise InputError("there is no calibration text to measure influence on")
    seen = _Stream(is_parallel=decoder.parallel)
    family = decoder.family
    before, after = {}, {}
    for layer in range(decoder.n_layers):
        before[decoder.block(layer).rstrip(".")] = seen.enter
        after[decoder.parameter(layer, family.attention_post_norm or "o_proj")] = partial(seen.add, f"{layer}.attn")
        after[decoder.parameter(layer, family.mlp_post_norm or "down_proj")] = partial(seen.add, f"{layer}.mlp")
    watch(StreamedDecoder(model, dtype=dtype, device=device), rows, before, after, "measuring influence")
    scores = {f"{BLOCK}.{name}": (total / rows.numel()).float().reshape(1).cpu() for name, total in seen.turned.items()}
    for name, score in scores.items():
        if not bool(torch.isfinite(score)):
            raise ModelError(f"the influence of {name} is NaN or infinite; try --dtype float32")
    return scores


class _Stream:
    """The stream inside a block, and how much it has been turned by now."""

    def __init__(self, *, is_parallel: bool) -> None:
        self.is_parallel = is_parallel
        self.turned: dict[str, torch.Tensor] = {}
        self._found = torch.empty(0)

    def enter(self, hidden: torch.Tensor) -> None:
        self._found = hidden.float()

    def add(self, name: str, written: torch.Tensor) -> None:
        x = self._found
        left = x + written.float().view_as(x)
        turned = (1 - torch.nn.functional.cosine_similarity(x, left, dim=-1)).double().sum()
        self.turned[name] = self.turned[name] + turned if name in self.turned else turned
        if not self.is_parallel:
            self._found = left

"""Credit as its recursion reads: one vector over the stream, dense squared matrices, last block first.

Nothing is shared with the package but the statistics. A normalisation is a gain and a division by the root mean
square of what it was given; where the output of a sub-block is normalised before it joins the stream, that is one more.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def credit(
    parameters: dict[str, Array],
    power: dict[str, Array],
    *,
    n_layers: int,
    n_heads: int,
    n_kv: int,
    offset: bool,
    post_norm: bool,
    pre_norm: bool = True,
    gated: bool = True,
    parallel: bool = False,
) -> dict[str, Array]:
    """The credit of every head and neuron.

    Args:
        parameters: by their names in the checkpoint.
        power: by site, the mean square of every channel.
        n_layers: how many blocks.
        n_heads: of the queries.
        n_kv: of the keys and values.
        offset: whether gains are stored as differences from one.
        post_norm: whether sub-blocks' outputs are normalised.
        pre_norm: whether what they read is.
        gated: whether the MLP has a gate.
        parallel: whether attention and MLP read and write the same places.
    """

    def gain(name: str) -> Array:
        return parameters[f"{name}.weight"] + offset

    def before(layer: int, norm: str, k: int) -> Array | float:
        """What power on each channel of the stream gives behind the normalisation, once squared weights are applied."""
        if not pre_norm:
            return 1.0
        result: Array = gain(f"model.layers.{layer}.{norm}") ** 2 / power[f"resid.{k}"].mean()
        return result

    def behind(layer: int, norm: str, output: str) -> Array | float:
        """What the normalisation of a sub-block's output makes of power on each of its channels."""
        return gain(f"model.layers.{layer}.{norm}") ** 2 / power[f"{output}.{layer}"].mean() if post_norm else 1.0

    embedding = parameters.get("lm_head.weight", parameters["model.embed_tokens.weight"])
    rho = gain("model.norm") ** 2 * (embedding**2).mean(axis=0) / power[f"resid.{2 * n_layers}"].mean()
    found = {}
    for layer in reversed(range(n_layers)):
        mlp, attention = f"model.layers.{layer}.mlp", f"model.layers.{layer}.self_attn"
        D, U = (parameters[f"{mlp}.{part}_proj.weight"] for part in ("down", "up"))
        neuron, up = power[f"neuron.{layer}"], power[f"up.{layer}"]
        s = (D**2).T @ (behind(layer, "post_feedforward_layernorm", "mlp_out") * rho)
        found[f"neuron.{layer}"] = neuron * s
        norm = "pre_feedforward_layernorm" if post_norm else "post_attention_layernorm"
        passed = np.divide(neuron, up, out=np.zeros_like(up), where=up > 0)  # by a gate, or by the activation
        through = s @ (U**2 * passed[:, None])
        if gated:
            through = through + s @ (parameters[f"{mlp}.gate_proj.weight"] ** 2 * up[:, None] / 2)
        behind_block, k = rho, 2 * layer if parallel else 2 * layer + 1
        rho = rho + before(layer, norm, k) * through

        W, V = parameters[f"{attention}.o_proj.weight"], parameters[f"{attention}.v_proj.weight"]
        written = behind_block if parallel else rho
        s = (W**2).T @ (behind(layer, "post_attention_layernorm", "attn_out") * written)
        found[f"head.{layer}"] = (power[f"attn.{layer}"] * s).reshape(n_heads, -1).sum(axis=1)
        shared = s.reshape(n_kv, n_heads // n_kv, -1).sum(axis=1).reshape(-1)  # query heads that share a value head
        rho = rho + before(layer, "input_layernorm", 2 * layer) * (shared @ V**2)
    return found

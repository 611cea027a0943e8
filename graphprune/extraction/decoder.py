"""The channel graph of a decoder.

Order of the nodes: ``resid.0``, then for every block l: ``query key value pattern attn``, ``resid.2l+1``,
``gate up neuron``, ``resid.2l+2``. Blocks of edges are as large as the order allows: one for all three attention
inputs, one for gate and up.

An MLP without a gate has no ``gate``: a neuron is the activation of its ``up`` alone, and the edge between them is its
only one. Where attention and MLP are parallel there is no ``resid.2l+1``: both read ``resid.2l``, and both write to
``resid.2l+2``, which one skip edge a channel reaches.

Biases, of linear layers and of normalisations, are no edges. Nor is the centring of a normalisation that subtracts the
mean of the stream: its gain is folded in as that of any other, and its scale is taken to be the stream's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float

from graphprune.core.block import Block
from graphprune.core.graph import MEASURED, Weight
from graphprune.core.nodes import NodeIndex, Span
from graphprune.core.stats import CalibrationStats
from graphprune.models.architecture import Decoder

_RAW = {"q_norm": "query_raw", "k_norm": "key_raw"}
Vector = Float[torch.Tensor, " channels"]


@dataclass(frozen=True)
class DecoderEdges:
    """Yields the edges of a decoder's channel graph, one list a decoder block."""

    decoder: Decoder
    parameters: Mapping[str, torch.Tensor]
    weight: Weight
    stats: CalibrationStats | None

    @cached_property
    def nodes(self) -> NodeIndex:
        return decoder_nodes(self.decoder)

    def parts(self) -> Iterator[list[Block]]:
        for layer in range(self.decoder.n_layers):
            yield [*self._attention(layer), *self._mlp(layer)]

    def _attention(self, layer: int) -> list[Block]:
        d = self.decoder
        before, after = self._run("resid", 2 * layer), self._run("resid", 2 * layer + (2 if d.parallel else 1))
        projections = self._run("query", layer, "value")
        query_key, value_pattern = self._run("query", layer, "key"), self._run("value", layer, "pattern")
        pattern, attn = self._run("pattern", layer), self._run("attn", layer)
        family = d.family
        weights = [
            self._rows(layer, "q_proj", "q_norm"),
            self._rows(layer, "k_proj", "k_norm"),
            self._rows(layer, "v_proj", None),
        ]
        inward = self._from_stream(torch.cat(weights), layer, family.attention_norm, "attn_in")
        outward = self._to_stream(layer, "o_proj", family.attention_post_norm, "attn", "attn_out")
        return [
            Block.full(before, projections, inward),
            self._sharing(query_key, pattern, layer),
            self._mixing(value_pattern, attn, layer),
            Block.full(attn, after, outward),
            *([] if d.parallel else [self._skip(before, after, 2 * layer)]),
        ]

    def _mlp(self, layer: int) -> list[Block]:
        family, parts = self.decoder.family, self.decoder.mlp_parts
        k = self.decoder.mlp_input(layer)
        before, after = self._run("resid", k), self._run("resid", 2 * layer + 2)
        inner, neuron = self._run(parts[0], layer, parts[-1]), self._run("neuron", layer)
        weights = torch.cat([self._rows(layer, f"{part}_proj", None) for part in parts])
        inward = self._from_stream(weights, layer, family.mlp_norm, "mlp_in")
        outward = self._to_stream(layer, "down_proj", family.mlp_post_norm, "neuron", "mlp_out")
        return [
            Block.full(before, inner, inward),
            self._activating(inner, neuron, layer),
            Block.full(neuron, after, outward),
            self._skip(before, after, k),
        ]

    def _run(self, kind: str, layer: int, last: str | None = None) -> tuple[int, int]:
        """The nodes from one kind of a layer up to another."""
        return self.nodes.range(kind, layer)[0], self.nodes.range(last or kind, layer)[1]

    def _raw(self, layer: int, part: str) -> torch.Tensor | None:
        name = self.decoder.parameter(layer, f"{part}.weight")
        return self.parameters[name].float() if name in self.parameters else None

    def _gain(self, layer: int, norm: str | None) -> Vector | None:
        gain = None if norm is None else self._raw(layer, norm)
        return None if gain is None else gain + self.decoder.family.gain_offset

    def _rows(self, layer: int, projection: str, head_norm: str | None) -> Float[torch.Tensor, "out in"]:
        """A projection with the gain of the normalisation of its output, a head's or that of all heads, if any."""
        matrix = self._raw(layer, projection)
        if matrix is None:
            raise KeyError(self.decoder.parameter(layer, f"{projection}.weight"))
        gain = self._gain(layer, head_norm)
        if gain is None or head_norm is None:
            return matrix
        heads = matrix.view(-1, len(gain), matrix.shape[1]) * gain[:, None]
        if self.weight == "activation":  # the normalisation divides by the root mean square of what it normalises
            raw = self._rms(f"{_RAW[head_norm]}.{layer}").view(-1, len(gain))
            heads = heads / raw.square().mean(dim=1).sqrt()[:, None, None]
        return heads.view_as(matrix)

    def _from_stream(
        self, matrix: Float[torch.Tensor, "out in"], layer: int, norm: str | None, site: str
    ) -> Float[torch.Tensor, "out in"]:
        """Edges that read the stream, through a normalisation where there is one.

        The matrix, a copy of the parameters, is overwritten.
        """
        if self.weight == "activation":
            return matrix.abs().mul_(self._rms(f"{site}.{layer}"))  # the input as measured, gain and bias included
        gain = self._gain(layer, norm)
        folded = matrix if gain is None else matrix.mul_(gain)
        if self.weight == "power" and norm is None:
            return folded.square_()
        if self.weight == "power":  # the normalisation divides by the root mean square of the stream
            k = self.decoder.mlp_input(layer) if site == "mlp_in" else 2 * layer
            return folded.square_().div_(self._power(f"resid.{k}").mean())
        return folded if self.weight == "signed" else folded.abs_()

    def _to_stream(
        self, layer: int, projection: str, norm: str | None, source: str, output: str
    ) -> Float[torch.Tensor, "out in"]:
        """Edges that write to the stream, through a normalisation where the family has one."""
        matrix, gain = self._rows(layer, projection, None), self._gain(layer, norm)
        if gain is not None:
            matrix = matrix * gain[:, None]
        if self.weight in MEASURED and gain is not None:  # it divides by the root mean square of the output
            matrix = matrix / self._power(f"{output}.{layer}").mean().sqrt()
        if self.weight == "power":
            return matrix.square()
        if self.weight == "activation":
            return matrix.abs() * self._rms(f"{source}.{layer}")
        return matrix if self.weight == "signed" else matrix.abs()

    def _rms(self, site: str) -> Vector:
        if self.stats is None:
            raise ValueError("edge weights by activation need calibration statistics")
        return self.stats.rms(site).float()

    def _power(self, site: str) -> Vector:
        return self._rms(site).square()

    def _product(self, site: str, size: int) -> Vector:
        """The weight of the edges into a product: how large the product is; 1 where nothing was measured."""
        return self._rms(site) if self.weight == "activation" else torch.ones(size)

    def _activating(self, inner: tuple[int, int], neuron: tuple[int, int], layer: int) -> Block:
        """Gate and up to their neuron, or up alone."""
        size, n_parts = self.decoder.d_mlp, len(self.decoder.mlp_parts)
        if self.weight == "power":
            weights = self._through_activation(layer)
        else:
            weights = self._product(f"neuron.{layer}", size).repeat_interleave(n_parts)
        crow, column = torch.arange(size + 1, dtype=torch.int32), torch.arange(size, dtype=torch.int32)
        col = torch.stack([column + part * size for part in range(n_parts)], dim=1).reshape(-1)
        return Block(inner, neuron, weights, crow * n_parts, col)

    def _through_activation(self, layer: int) -> Vector:
        """Power from up to its neuron, as measured; and from a gate, whose slope is taken to be a half in square."""
        up, neuron = self._power(f"up.{layer}"), self._power(f"neuron.{layer}")
        passed = torch.where(up > 0, neuron / up, 0.0)
        return torch.stack([up / 2, passed], dim=1).reshape(-1) if self.decoder.family.gated else passed

    def _skip(self, before: tuple[int, int], after: tuple[int, int], k: int) -> Block:
        size = self.decoder.d_model
        values = self._rms(f"resid.{k}") if self.weight == "activation" else torch.ones(size)
        return Block(
            before, after, values, torch.arange(size + 1, dtype=torch.int32), torch.arange(size, dtype=torch.int32)
        )

    def _sharing(self, query_key: tuple[int, int], pattern: tuple[int, int], layer: int) -> Block:
        """Query and key channels to the pattern of their head; a key head serves all query heads of its group."""
        d = self.decoder
        head, channel = torch.arange(d.n_heads)[:, None], torch.arange(d.d_head)[None, :]
        group = head // (d.n_heads // d.n_kv_heads)
        queries, keys = head * d.d_head + channel, d.n_heads * d.d_head + group * d.d_head + channel
        if self.weight == "power":  # who attends to whom is left as it is
            term = torch.zeros(d.n_heads, d.d_head)
        elif self.weight == "activation":  # a score is a sum over channels of query times key
            query, key = self._rms(f"query.{layer}"), self._rms(f"key.{layer}")
            term = query.view(d.n_heads, -1) * key.view(d.n_kv_heads, -1)[group[:, 0]]
        else:
            term = torch.ones(d.n_heads, d.d_head)
        col = torch.cat([queries, keys], dim=1).int().reshape(-1)
        crow = torch.arange(d.n_heads + 1, dtype=torch.int32) * 2 * d.d_head
        return Block(query_key, pattern, torch.cat([term, term], dim=1).reshape(-1), crow, col)

    def _mixing(self, value_pattern: tuple[int, int], attn: tuple[int, int], layer: int) -> Block:
        """Value channels and the pattern to the head's output channels."""
        d = self.decoder
        size = d.n_heads * d.d_head
        head = torch.arange(size) // d.d_head
        values = (head // (d.n_heads // d.n_kv_heads)) * d.d_head + torch.arange(size) % d.d_head
        patterns = d.n_kv_heads * d.d_head + head
        col = torch.stack([values, patterns], dim=1).int().reshape(-1)
        crow = torch.arange(size + 1, dtype=torch.int32) * 2
        weights = self._product(f"attn.{layer}", size).repeat_interleave(2)
        if self.weight == "power":
            weights[1::2] = 0.0
        return Block(value_pattern, attn, weights, crow, col)


def decoder_nodes(decoder: Decoder) -> NodeIndex:
    """The nodes of a decoder's channel graph, in topological order."""
    heads, kv = decoder.n_heads * decoder.d_head, decoder.n_kv_heads * decoder.d_head
    spans = [Span("resid", 0, decoder.d_model)]
    for layer in range(decoder.n_layers):
        sizes = {"query": heads, "key": kv, "value": kv, "pattern": decoder.n_heads, "attn": heads}
        spans += [Span(kind, layer, size) for kind, size in sizes.items()]
        spans += [] if decoder.parallel else [Span("resid", 2 * layer + 1, decoder.d_model)]
        spans += [Span(kind, layer, decoder.d_mlp) for kind in (*decoder.mlp_parts, "neuron")]
        spans.append(Span("resid", 2 * layer + 2, decoder.d_model))
    return NodeIndex(tuple(spans))

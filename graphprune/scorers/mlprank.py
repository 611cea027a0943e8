"""MLPRank and LLM-Rank (Hoffmann, Budhathoki, Kleindessner 2024, arXiv 2410.13299).

An MLP is a chain of layers; node = output channel, edge = |weight|. Importance flows forward from the inputs:

1. `chains` lays out the layers: for a decoder ``up, down`` of every block, alone (isolated) or one after the other
   (chained: the output of one block's MLP feeds the next block's); for a perceptron all of its layers.
2. `initial` is the input's activation norms, scaled to sum 1.
3. `weighted_pagerank` or `modified_pagerank` takes one step a layer; every step's result is scaled to sum 1.
4. The scores of a neuron are those of its channel after the step that computes it.

With gamma = 0 the weighted PageRank never looks at the graph: it is the activation norm. The default is 0.9.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float

from graphprune.core.errors import InputError
from graphprune.models.architecture import Decoder, Perceptron
from graphprune.scorers.inputs import ScoringInputs, UnitScores, check_options

Vector = Float[torch.Tensor, " _channels"]  # of any length: layers differ
Matrix = Float[torch.Tensor, "out in"]
Step = tuple[Callable[[], Matrix], Vector, str | None]


def scaled(x: Float[torch.Tensor, " channels"]) -> Float[torch.Tensor, " channels"]:
    """The vector scaled to sum 1; uniform if it is all zero."""
    total = x.sum()
    return x / total if float(total) > 0 else torch.full_like(x, 1 / len(x))


def weighted_pagerank(
    W: Matrix, r: Float[torch.Tensor, " in"], a: Float[torch.Tensor, " out"], *, gamma: float, theta: float
) -> Float[torch.Tensor, " out"]:
    """One layer of weighted PageRank.

    Math: ``gamma * M r + (1 - gamma) * a / sum(a)`` with ``M = theta |W| / colsum(|W|) + (1 - theta) 1[W != 0] /
    colsum(1[W != 0])``; a column is a source, a column of zeros sends nothing.

    Args:
        W: absolute weights of the layer.
        r: importance of the layer's inputs; scaled to sum 1 first.
        a: activation norms of the layer's outputs.
        gamma: share that flows along the graph; 0 ignores it.
        theta: share of the flow that follows edge strength, the rest degree.
    """
    r = scaled(r)
    strength, present = W.sum(dim=0), (W != 0).to(W.dtype)
    degree = present.sum(dim=0)
    by_strength = W @ torch.where(strength > 0, r / strength, 0.0)
    by_degree = present @ torch.where(degree > 0, r / degree, 0.0)
    return scaled(gamma * (theta * by_strength + (1 - theta) * by_degree) + (1 - gamma) * scaled(a))


def modified_pagerank(
    W: Matrix, r: Float[torch.Tensor, " in"], a: Float[torch.Tensor, " out"]
) -> Float[torch.Tensor, " out"]:
    """One layer of modified PageRank: ``(|W| r) * a``, elementwise, scaled to sum 1."""
    return scaled((W @ scaled(r)) * a)


@dataclass(frozen=True)
class MLPRank:
    """The published scores; activations are taken after the nonlinearity, as in the perceptron code.

    Attributes:
        rank: `wpr` (weighted PageRank) or `mpr` (modified PageRank).
        gamma: of `wpr`: share that flows along the graph. At 0 the graph is not used at all.
        theta: of `wpr`: strength against degree.
        blocks: `chained` (all blocks one deep MLP) or `isolated` (every block alone).
        mlp: of a gated MLP: `up` (only the up projection is seen, as published) or `gated` (edges |up| + |gate|, and
            the norm of the product as the neuron's activation). An MLP without a gate is `up`.
        activation: norms `post` or `pre` nonlinearity.
    """

    rank: Literal["wpr", "mpr"] = "wpr"
    gamma: float = 0.9
    theta: float = 0.5
    blocks: Literal["chained", "isolated"] = "chained"
    mlp: Literal["up", "gated"] = "up"
    activation: Literal["post", "pre"] = "post"
    name: ClassVar[str] = "mlprank"
    needs_stats: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if not (0 <= self.gamma <= 1 and 0 <= self.theta <= 1):
            raise ValueError(f"gamma and theta lie in [0, 1], not {self.gamma} and {self.theta}")

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        scores: UnitScores = {}
        for start, steps in self._chains(inputs):
            r = scaled(start)
            for matrix, a, name in steps:
                W = matrix().abs()
                if self.rank == "wpr":
                    r = weighted_pagerank(W, r, a, gamma=self.gamma, theta=self.theta)
                else:
                    r = modified_pagerank(W, r, a)
                if name is not None:
                    scores[name] = r
        return scores

    def _chains(self, inputs: ScoringInputs) -> Iterator[tuple[Vector, list[Step]]]:
        if isinstance(inputs.model.architecture, Perceptron):
            yield self._perceptron_chain(inputs, inputs.model.architecture)
            return
        decoder = inputs.model.architecture
        if self.mlp == "gated" and not decoder.family.gated:
            raise InputError(f"the MLPs of {inputs.model.name} have no gate; use mlp up")
        chains = [self._block_steps(inputs, decoder, layer) for layer in range(decoder.n_layers)]
        start = [inputs.measured.norm(f"mlp_in.{layer}") for layer in range(decoder.n_layers)]
        if self.blocks == "chained":
            yield start[0], [step for steps in chains for step in steps]
        else:
            yield from zip(start, chains, strict=True)

    def _block_steps(self, inputs: ScoringInputs, decoder: Decoder, layer: int) -> list[Step]:
        site = {"pre": "up", "post": "neuron"}[self.activation] if self.mlp == "up" else "neuron"
        neuron, out = inputs.measured.norm(f"{site}.{layer}"), inputs.measured.norm(f"mlp_out.{layer}")

        def weight(module: str) -> Matrix:
            return inputs.model.parameters[decoder.parameter(layer, f"{module}.weight")].double()

        def inward() -> Matrix:
            return weight("up_proj") if self.mlp == "up" else weight("up_proj").abs() + weight("gate_proj").abs()

        def outward() -> Matrix:
            return weight("down_proj")

        return [(inward, neuron, f"neuron.{layer}"), (outward, out, None)]

    def _perceptron_chain(self, inputs: ScoringInputs, perceptron: Perceptron) -> tuple[Vector, list[Step]]:
        stats, last = inputs.measured, perceptron.n_layers - 1

        def step(layer: int) -> Step:
            post = f"output.{layer}" if layer == last else f"neuron.{layer}"
            a = stats.norm(post if self.activation == "post" else f"pre.{layer}")
            name = None if layer == last else f"neuron.{layer}"

            def matrix() -> Matrix:
                return inputs.model.parameters[perceptron.parameter(layer)].double()

            return matrix, a, name

        return stats.norm("input.0"), [step(layer) for layer in range(perceptron.n_layers)]


@dataclass(frozen=True)
class LLMRank(MLPRank):
    """The same scores as published for language models: activations are raw outputs of the linear layers."""

    activation: Literal["post", "pre"] = "pre"
    name: ClassVar[str] = "llmrank"

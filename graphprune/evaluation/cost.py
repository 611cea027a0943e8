"""What running a decoder takes, counted from the shapes of its parameters: nothing is run.

Math, for one sequence and one token that sees ``c`` tokens, itself included (a multiplication and an addition are two):

    attention projections   2 sum |W|           query, key, value and output of every layer that has attention
    attention               4 sum H d_head c    scores and weighted values, H query heads
    MLP                     2 sum |W|           gate, up, down
    output embedding        2 V d_model

Normalisations, activations, softmax, rotations and the look-up of embeddings are left out: each is proportional to a
width, not to a product of two. Biases likewise.
"""

from dataclasses import asdict, dataclass

from graphprune.core.errors import InputError
from graphprune.models.architecture import Shapes
from graphprune.models.model import Model

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
WHY_NO_SPEED = (
    "a mask alone gives no speed, since a zero is stored, read and multiplied like any other number, and a padded "
    "checkpoint gains only what its widest layer has lost"
)
ASSUMES = (
    "of decode, the larger of the ratios of bytes read and of FLOPs a step, if both models move bytes and multiply at "
    "the same rates, a step takes the longer of the two and nothing else, and neither fits a cache better than the "
    "other; of prefill, the ratio of FLOPs; what a call costs by itself isn't in it, so a model that lacks whole "
    "sub-blocks may be faster still"
)


@dataclass(frozen=True)
class Flops:
    """Operations a token, by module; see the module's formulas."""

    attention_projections: int
    attention: int
    mlp: int
    output: int

    @property
    def total(self) -> int:
        return self.attention_projections + self.attention + self.mlp + self.output

    def facts(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True)
class Cost:
    """What a decoder takes, from the shapes of its parameters.

    Attributes:
        params: parameters, tied ones counted once.
        weights_read: parameters that a step reads: all but the look-up tables. A tied embedding is read, as the output.
        linear_flops: operations a token of attention projections, MLP and output.
        heads: query channels ``H d_head`` of all layers together.
        keys_and_values: numbers that a token leaves in the cache.
    """

    params: int
    weights_read: int
    linear_flops: tuple[int, int, int]
    heads: int
    keys_and_values: int

    @classmethod
    def of(cls, model: Model) -> "Cost":
        """The cost of a decoder, ragged or not.

        Raises:
            InputError: the model is a perceptron.
        """
        if model.is_perceptron:
            raise InputError(f"{model.name} is a perceptron; the cost of a step is that of a language model")
        shapes = model.shapes
        vocabulary, d_model = shapes[EMBEDDING]
        read = sum(_numel(shape) for name, shape in shapes.items() if "embed_" not in name)
        read += 0 if OUTPUT in shapes else vocabulary * d_model
        linear = (2 * _weights(shapes, ATTENTION), 2 * _weights(shapes, MLP), 2 * vocabulary * d_model)
        rows = {part: sum(_rows(shapes, f"{part}_proj")) for part in ("q", "k", "v")}
        return cls(model.n_parameters, read, linear, rows["q"], rows["k"] + rows["v"])

    def flops(self, context: float) -> Flops:
        """Operations of one token that sees ``context`` tokens, itself included."""
        projections, mlp, output = self.linear_flops
        return Flops(projections, round(4 * self.heads * context), mlp, output)

    def step(self, batch_size: int, context: float, item_bytes: int) -> tuple[float, float]:
        """Bytes read and operations of one decoding step of a batch.

        Args:
            batch_size: sequences, each with a cache of its own; weights are read once for all.
            context: tokens that each sees.
            item_bytes: of a number.
        """
        n_bytes = item_bytes * (self.weights_read + batch_size * context * self.keys_and_values)
        return n_bytes, float(batch_size * self.flops(context).total)


def bound(dense: Cost, pruned: Cost, batch_size: int, context: float, item_bytes: int) -> float:
    """How many times faster a decoding step can be, at most, under what `ASSUMES` says.

    Math: a step takes ``max(bytes / bandwidth, operations / rate)``, so the ratio of two is at most that of whichever
    holds the dense model up.
    """
    before, after = (cost.step(batch_size, context, item_bytes) for cost in (dense, pruned))
    return max(x / y for x, y in zip(before, after, strict=True))


def _weights(shapes: Shapes, modules: tuple[str, ...]) -> int:
    return sum(_numel(shape) for name, shape in shapes.items() if _module(name) in modules and len(shape) == 2)


def _rows(shapes: Shapes, module: str) -> list[int]:
    return [shape[0] for name, shape in shapes.items() if _module(name) == module and len(shape) == 2]


def _module(name: str) -> str:
    return name.split(".")[-2] if name.startswith("model.layers.") else ""


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total

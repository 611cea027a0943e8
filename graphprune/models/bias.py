"""A decoder with biases of zero, so that a removed unit's mean has a place to go to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from graphprune.core.errors import InputError
from graphprune.models.architecture import Shapes
from graphprune.models.model import Model

BIASED = (
    "llama",
    "smollm3",
)  # the `model_type`s with both flags below; others have biases already, or no place for them
_FLAGS = {"attention_bias": True, "mlp_bias": True}
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_READERS = ("o_proj", "down_proj")


@dataclass(frozen=True)
class ZeroBiases(Mapping[str, torch.Tensor]):
    """A decoder's parameters and biases of zero beside them; the parameters are read when they are needed.

    Attributes:
        below: the decoder's parameters.
        weights: by the name of every bias, the weight that it goes with.
        shapes: of all of them.
    """

    below: Mapping[str, torch.Tensor]
    weights: Mapping[str, str]
    shapes: Shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.weights:
            return self.below[name]
        return self.below[self.weights[name]].new_zeros(self.shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def biased(model: Model) -> Model:
    """The same decoder with an explicit bias of zero on every linear layer of its blocks that has none.

    Every output is the same to the last bit, so the identity stays: statistics, scores and masks of the one are those
    of the other. A unit owns its rows' biases as well, and so costs a few parameters more. The configuration says that
    there are biases, and the result is run from its parameters, not from the folder that it came from.

    Raises:
        InputError: the family's stock configuration has no biases where removed units are made up for.
    """
    decoder, shapes = model.decoder, model.shapes
    names = {part: [decoder.parameter(layer, f"{part}.bias") for layer in range(decoder.n_layers)] for part in _LINEAR}
    if all(name in shapes for part in _READERS for name in names[part]):
        return model
    if decoder.model_type not in BIASED:
        raise InputError(
            f"the stock configuration of {decoder.model_type} has no bias for o_proj and down_proj, so bias "
            "compensation can't be saved; use --compensation obs"
        )
    missing = [name for part in _LINEAR for name in names[part] if name not in shapes]
    weights = {name: name.removesuffix("bias") + "weight" for name in missing}
    every = {**shapes, **{name: (shapes[weight][0],) for name, weight in weights.items()}}
    parameters = ZeroBiases(model.parameters, weights, every)
    return replace(model, config={**model.config, **_FLAGS}, parameters=parameters)

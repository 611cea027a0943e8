"""How much a mask removes."""

from typing import Any

import torch

from graphprune.core.mask import Mask
from graphprune.core.units import HEAD, KV_HEAD
from graphprune.models.model import Model
from graphprune.surgery.cut import Plan


def removed(model: Model, mask: Mask, kinds: tuple[str, ...]) -> dict[str, Any]:
    """How much a mask removes: of the prunable parameters and of all.

    Prunable are the parameters of the kinds pruned; where single weights go, those of all linear layers (see
    `linear_weights`). ``sparsity`` and ``prunable_params_removed`` are the same fraction; ``params_removed`` is of the
    whole model, and so is the count ``n_params_removed``. ``weights_removed`` counts single weights, those of removed
    units among them, and is there only where the mask has any.
    """
    plan = Plan.of(mask, model.units)
    total = _numel(model, *model.shapes)
    count = gone = total - plan.n_parameters_left(model.shapes)
    if mask.weights:
        linears = linear_weights(model)
        prunable = _numel(model, *linears)
        gone = prunable - plan.n_parameters_left({name: model.shapes[name] for name in linears})
    elif model.is_perceptron:  # a weight between two hidden layers belongs to a neuron of each, and counts once
        prunable = _numel(model, *{own.parameter for group in model.units for own in group.owns})
    else:
        prunable = model.units.prunable_parameters(*kinds, *((KV_HEAD,) if HEAD in kinds else ()))
    units = {
        kind: sum(int((~mask.keep[g.name]).sum()) for g in model.units.of_kind(kind)) for kind in model.units.kinds
    }
    facts = {
        "sparsity": gone / max(prunable, 1),
        "prunable_params_removed": gone / max(prunable, 1),
        "params_removed": count / total,
        "n_params_removed": count,
        "n_prunable_params": prunable,
        "units_removed": units,
    }
    if mask.weights:
        facts["weights_removed"] = sum(int((~keep).sum()) for keep in mask.weights.values())
    return facts


def linear_weights(model: Model) -> tuple[str, ...]:
    """The matrices of the linear layers in the decoder blocks, or of all layers of a perceptron."""
    home = "" if model.is_perceptron else "model.layers."
    return tuple(name for name, shape in model.shapes.items() if name.startswith(home) and len(shape) == 2)


def _numel(model: Model, *names: str) -> int:
    return sum(torch.Size(model.shapes[name]).numel() for name in names)

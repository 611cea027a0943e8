"""What matters: one scorer a file, all of them in one table."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast

import torch

from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.io import digest
from graphprune.core.scores import Scores
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON
from graphprune.models.model import Model
from graphprune.scorers.activation import Activation
from graphprune.scorers.credit import Credit
from graphprune.scorers.flap import Flap
from graphprune.scorers.graphrank import GraphRank
from graphprune.scorers.inputs import Scorer, ScoringInputs, option_value
from graphprune.scorers.magnitude import Magnitude
from graphprune.scorers.mlprank import LLMRank, MLPRank
from graphprune.scorers.random import Random
from graphprune.scorers.taylor import Taylor
from graphprune.scorers.wanda import Wanda

SCORERS: dict[str, Callable[..., Scorer]] = {
    "random": Random,
    "magnitude": Magnitude,
    "activation": Activation,
    "wanda": Wanda,
    "mlprank": MLPRank,
    "llmrank": LLMRank,
    "graphrank": GraphRank,
    "taylor": Taylor,
    "flap": Flap,
    "credit": Credit,
}


def make_scorer(name: str, /, **options: Any) -> Scorer:
    """A scorer by name.

    Raises:
        InputError: the name or an option is unknown, or an option's value is out of range.
    """
    if name not in SCORERS:
        raise InputError(f"no scorer is named {name!r}; there are {', '.join(SCORERS)}")
    kind = SCORERS[name]
    known = {field.name for field in fields(kind)} if isinstance(kind, type) and is_dataclass(kind) else set()
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InputError(f"the scorer {name} has no option {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    try:
        return kind(**{option: option_value(cast("type", kind), option, value) for option, value in options.items()})
    except ValueError as error:
        raise InputError(f"the scorer {name}: {error}") from error


def score(
    model: Model,
    scorer: str | Scorer,
    *,
    stats: CalibrationStats | None = None,
    graph: ModelGraph | None = None,
    gradients: Mapping[str, torch.Tensor] | None = None,
    **options: Any,
) -> Scores:
    """How much each unit of a model matters; higher = keep.

    Args:
        model: the model.
        scorer: a name in `SCORERS`, or a scorer.
        stats: calibration statistics, for scorers that need them.
        graph: an exported channel graph, so that `graphrank` needn't make one.
        gradients: of the loss by parameter name (`calibration.gradient`), for scorers that need them.
        options: of the scorer, if it is given by name.

    Raises:
        InputError: an unknown scorer or option, or statistics or gradients that are missing or of another model.
    """
    chosen = make_scorer(scorer, **options) if isinstance(scorer, str) else scorer
    if chosen.needs_stats:
        if stats is None:
            raise InputError(f"the scorer {chosen.name} needs calibration; give --calibration FILE")
        if stats.model != model.identity:
            raise InputError("the calibration statistics belong to another model")
    if chosen.needs_gradients:
        _check_gradients(chosen.name, model, gradients)
    found = chosen(ScoringInputs(model, stats, graph, gradients))
    values = {name: value.to(torch.float32).cpu() for name, value in found.items()}
    settings = scorer_options(chosen)
    key = [stats_key(chosen, stats), *gradients_key(chosen, gradients)]
    inputs = digest([model.identity, chosen.name, settings, *key])
    return Scores(values, chosen.name, settings, model.identity, inputs)


def scorer_options(scorer: Scorer) -> dict[str, Any]:
    """A scorer's hyper-parameters, as JSON."""
    return asdict(scorer) if is_dataclass(scorer) and not isinstance(scorer, type) else {}


def stats_key(scorer: Scorer, stats: CalibrationStats | None) -> object:
    """What of the calibration a scorer's result depends on."""
    return dict(stats.options) if scorer.needs_stats and stats is not None else None


def gradients_key(scorer: Scorer, gradients: Mapping[str, torch.Tensor] | None) -> list[str]:
    """A hash of the gradients, of a scorer that looks at them."""
    if not scorer.needs_gradients or gradients is None:
        return []
    total = hashlib.sha256()
    for name in sorted(gradients):
        total.update(name.encode())
        total.update(gradients[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return [total.hexdigest()]


def _check_gradients(scorer: str, model: Model, gradients: Mapping[str, torch.Tensor] | None) -> None:
    """Checks that there is a gradient of every parameter that a head or a neuron owns.

    Raises:
        InputError: there is none, or one has another shape.
    """
    if model.is_perceptron:
        raise InputError(f"{scorer} needs a loss: {model.name} is a perceptron, and its calibration has no labels")
    if gradients is None:
        raise InputError(f"the scorer {scorer} needs calibration; give --calibration FILE")
    for name in {own.parameter for group in model.units.of_kind(HEAD, NEURON) for own in group.owns}:
        if name not in gradients or gradients[name].shape != model.shapes[name]:
            raise InputError(f"the gradients belong to another model: that of {name} is missing or has another shape")

"""Scores that take the text itself: second-order errors, what a global solution leaves, the influence of sub-blocks.

The first two stand on the same heads and neurons as every other scorer's, the last on attentions and MLPs as a whole;
higher = keep.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from graphprune.core.errors import InputError
from graphprune.core.units import HEAD, NEURON
from graphprune.models.model import Model
from graphprune.solvers.blocks import Site
from graphprune.solvers.curves import shared_out, weighed
from graphprune.solvers.obs import Greedy
from graphprune.solvers.sequential import Change, Seen
from graphprune.solvers.units import KIND_AT, ByElimination, columns_of


@dataclass(frozen=True)
class SecondOrder:
    """A unit's score is the squared error a token of its layer's output once it and all that go before it are gone.

    Units are eliminated one after the other, the others repaired in between (`obs`), in the dense model; every head on
    its own, neurons in the steps of SlimGPT, whose error is shared out in the order within a step.

    Attributes:
        credit: weigh an error in each channel by what the prediction feels of it (`calibration.sensitivity`): scores of
            different layers are then in nats and can be compared.
    """

    name: ClassVar[str] = "obs"
    credit: bool = False


@dataclass(frozen=True)
class Surviving:
    """A unit's score is the mean square of what it still writes when SparseLLM has pruned single weights.

    Attributes:
        sparsity: of the single weights.
    """

    name: ClassVar[str] = "sparsellm"
    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is between 0 and 1, not {self.sparsity:g}")


@dataclass(frozen=True)
class Influence:
    """A sub-block's score is how much it turns the stream (`calibration.influence`)."""

    name: ClassVar[str] = "influence"


SolvedScorer = SecondOrder | Surviving | Influence
SOLVED: dict[str, type[SolvedScorer]] = {"obs": SecondOrder, "sparsellm": Surviving, "influence": Influence}


@dataclass(frozen=True)
class EliminationSurgeon:
    """Eliminates all units of every group to see what it costs, and leaves the model as it is.

    Attributes:
        model: a decoder or a perceptron.
        damping: of the Hessians, as a share of their mean diagonal.
        credit: what an error of each row of the reader counts for, by group; None for all the same.
    """

    model: Model
    damping: float
    credit: Mapping[str, Float[torch.Tensor, " rows"]] | None = None

    def sites(self, layer: int) -> tuple[Site, ...]:
        return tuple(site for site, kind in KIND_AT.items() if f"{kind}.{layer}" in self.model.units)

    def __call__(self, seen: Seen) -> Change:
        group = self.model.units[f"{KIND_AT[seen.site]}.{seen.layer}"]
        W = weighed(group, seen, self.credit)
        columns = columns_of(group, torch.arange(group.size)[:, None]).to(W.device)
        greedy = Greedy(W, seen.hessian.damped(self.damping), columns, error="exact")
        steps = ByElimination(self.model, {}).steps(group, group.size)
        order, errors = greedy.remove(steps)
        scores = torch.empty(group.size, dtype=torch.float64)
        scores[order.cpu()] = shared_out(errors, steps).cumsum(dim=0)
        return Change({}, {}, 0.0, {group.name: scores})


def of_units(notes: Mapping[str, torch.Tensor], model: Model) -> dict[str, Float[torch.Tensor, " _units"]]:
    """What a surgeon noted of heads and neurons, as scores.

    Raises:
        InputError: it noted nothing of one.
    """
    groups = model.units.of_kind(HEAD, NEURON)
    if missing := [group.name for group in groups if group.name not in notes]:
        raise InputError(f"nothing is known of {missing[0]}: not all of the model was solved")
    return {group.name: notes[group.name].to(torch.float32) for group in groups}

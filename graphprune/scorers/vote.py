"""A vote of several scorers: what they say of the same units, as one score.

Scorers have different units of measurement, so that only their ranks are counted: 0 for the lowest unit, 1 for the
highest, the mean of their places for equal ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from graphprune.core.errors import InputError
from graphprune.core.io import digest
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON

Rule = Literal["rank", "borda", "intersection", "union"]
Per = Literal["layer", "kind"]
Ballots = Float[np.ndarray, "scorers units"]


def vote(several: Sequence[Scores], *, rule: Rule = "rank", per: Per = "layer") -> Scores:
    """The vote of several scorers; higher = keep.

    `rank` is the mean of the ranks. `borda` gives a unit a point for every unit that a scorer puts strictly below it:
    the same order as `rank` unless there are ties, from which nobody gains. `intersection` is the highest rank that any
    scorer gives: what goes first is what all of them would let go, so that the units below a threshold are those that
    every scorer has below it. `union` is the lowest rank: one scorer is enough.

    Args:
        several: scores of the same model.
        rule: of the vote.
        per: units are ranked within their `layer`, or among all of their `kind`, as scorers compare layers.

    Returns:
        Scores between 0 and 1 of the kinds that all scorers have scores of.

    Raises:
        InputError: there are fewer than two, they are of different models or have no kind in common, one says the same
            of all units, or the rule is unknown.
    """
    if rule not in get_args(Rule):
        raise InputError(f"a vote is by {', '.join(get_args(Rule))}, not {rule!r}")
    if per not in get_args(Per):
        raise InputError(f"units are ranked per layer or kind, not {per!r}")
    kinds = _kinds(several)
    groups = {name: len(row) for name, row in several[0].values.items() if name.split(".")[0] in kinds}
    _check(several, groups)
    values: dict[str, torch.Tensor] = {}
    for names in _electorates([*groups], per):
        ballots = np.stack([torch.cat([each.values[name] for name in names]).double().numpy() for each in several])
        decided = torch.from_numpy(_RULES[rule](ballots)).to(torch.float32)
        values |= dict(zip(names, decided.split_with_sizes([groups[name] for name in names]), strict=True))
    options = {"rule": rule, "per": per, "of": [{"method": s.method, "options": dict(s.options)} for s in several]}
    inputs = digest([options, [s.inputs for s in several]])
    return Scores({name: values[name].contiguous() for name in groups}, "vote", options, several[0].model, inputs)


def _kinds(several: Sequence[Scores]) -> set[str]:
    if len(several) < 2:
        raise InputError("a vote takes the scores of two scorers or more")
    kinds = {HEAD, NEURON}.intersection(*(scores.kinds for scores in several))
    if not kinds:
        raise InputError("a vote is on heads or neurons, and no kind of them is scored by all")
    return kinds


def _check(several: Sequence[Scores], groups: Mapping[str, int]) -> None:
    for scores in several:
        if scores.model != several[0].model:
            raise InputError(f"the scores of {scores.method} are of another model than those of {several[0].method}")
        for name, size in groups.items():
            if name not in scores.values or len(scores.values[name]) != size:
                raise InputError(f"the scores of {scores.method} lack {name}, or have another number of units there")
        everything = torch.cat([scores.values[name] for name in groups])
        if bool((everything == everything[0]).all()):
            raise InputError(f"the scores of {scores.method} are the same for all units, so it has no vote")


def _electorates(names: Sequence[str], per: Per) -> list[list[str]]:
    """The groups whose units are ranked together."""
    if per == "layer":
        return [[name] for name in names]
    kinds = dict.fromkeys(name.split(".")[0] for name in names)
    return [[name for name in names if name.split(".")[0] == kind] for kind in kinds]


def _ranks(ballots: Ballots) -> Ballots:
    n = ballots.shape[1]
    return (rankdata(ballots, axis=1) - 1) / (n - 1) if n > 1 else np.full(ballots.shape, 0.5)


def _mean(ballots: Ballots) -> Float[np.ndarray, " units"]:
    return np.asarray(_ranks(ballots).mean(axis=0))


def _borda(ballots: Ballots) -> Float[np.ndarray, " units"]:
    below = rankdata(ballots, method="min", axis=1) - 1.0
    return np.asarray(below.mean(axis=0) / max(ballots.shape[1] - 1, 1))


def _highest(ballots: Ballots) -> Float[np.ndarray, " units"]:
    return np.asarray(_ranks(ballots).max(axis=0))


def _lowest(ballots: Ballots) -> Float[np.ndarray, " units"]:
    return np.asarray(_ranks(ballots).min(axis=0))


_RULES: dict[Rule, Callable[[Ballots], Float[np.ndarray, " units"]]] = {
    "rank": _mean,
    "borda": _borda,
    "intersection": _highest,
    "union": _lowest,
}

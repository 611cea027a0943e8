"""Is a scorer what it says it is? One verdict a line, each with its number.

- `baseline`: does it rank as a baseline does, overall or within every unit group?
- `random`: does the model lose more by it than by chance?
- `seed` and `text`: how much of what it removes changes with the calibration?
- `depth`: does it say more about the block that a unit is in than about the unit?
- `switch`: do its options leave the network's weights out, where other options don't? The scorer is asked again about
  the network with the rows and columns of every weight matrix exchanged, all measurements as they were: a ranking that
  comes out the same never looked at an edge. LLM-Rank at gamma = 0 is such a one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata

from graphprune.comparison.ranks import removal_places, removed_counts, spearman
from graphprune.core.io import digest
from graphprune.core.scores import Scores
from graphprune.core.stats import CalibrationStats
from graphprune.core.units import HEAD, NEURON
from graphprune.masks.select import MOSTLY_DEPTH
from graphprune.models.model import Model
from graphprune.scorers import make_scorer
from graphprune.scorers.inputs import Scorer, ScoringInputs

SAME = 0.999
IDENTICAL = 1 - 1e-12  # all but rounding
FLIPS = 0.1
CHECKS = ("baseline", "random", "seed", "text", "depth", "switch")
PRE_ACTIVATION = "activation of up"

Values = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Verdict:
    """What one check found about one scorer.

    Attributes:
        scorer: its label.
        check: one of `CHECKS`.
        flagged: whether something is wrong; None where it couldn't be checked.
        number: what the verdict rests on.
        text: the verdict in a sentence.
    """

    scorer: str
    check: str
    flagged: bool | None
    number: float | None
    text: str


def equals_baseline(label: str, scores: Scores, baselines: Mapping[str, Values]) -> Verdict:
    """Whether a scorer ranks the units as a baseline does, or the other way round.

    The number is the Spearman correlation with the nearest baseline: over all units of a kind, or, where these agree
    better, the weakest of all unit groups (a scorer that scales every layer by itself still is the baseline there).
    """
    found = {name: _likeness(scores.values, values) for name, values in baselines.items() if name != scores.method}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        return Verdict(label, "baseline", None, None, "shares no units with a baseline, or gives all the same score")
    nearest = max(known, key=lambda name: abs(known[name]))
    value = known[nearest]
    how = "ranks the units in the same order as" if value > 0 else "ranks the units in the opposite order of"
    if abs(value) >= IDENTICAL:
        return Verdict(label, "baseline", True, value, f"{how} {nearest}")
    if abs(value) > SAME:
        return Verdict(label, "baseline", True, value, f"is {nearest} by another name: Spearman {value:.5f}")
    return Verdict(label, "baseline", False, value, f"is no baseline: nearest is {nearest}, Spearman {value:.3f}")


def _likeness(a: Values, b: Values) -> float | None:
    """The rank correlation over all units of the kind that agrees least, or within the group that agrees least."""
    shared = [name for name in a if name in b and len(a[name]) == len(b[name])]
    kinds = dict.fromkeys(name.split(".")[0] for name in shared)
    parts = [[name for name in shared if name.split(".")[0] == kind] for kind in kinds]
    pooled = [_correlation(*(torch.cat([values[name] for name in part]) for values in (a, b))) for part in parts]
    within = [_correlation(a[name], b[name]) for name in shared if len(a[name]) > 2]
    candidates = []
    for values in (pooled, within):
        known = [value for value in values if value is not None]
        if known and len({value > 0 for value in known}) == 1:
            candidates.append(min(known, key=abs))
        elif known:  # likeness in one kind and the reverse in another is none
            candidates.append(0.0)
    return max(candidates, key=abs, default=None)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float | None:
    value = spearman(np.stack([a.double().numpy(), b.double().numpy()]))[0, 1] if len(a) > 1 else np.nan
    return None if np.isnan(value) else float(value)


def loses_to_random(label: str, sparsity: float, quality: float | None, chance: float | None) -> Verdict:
    """Whether the model is worse pruned by a scorer than by chance.

    Args:
        label: the scorer.
        sparsity: at which both were measured, with the same allocation and compensation.
        quality: perplexity of the model pruned by the scorer; None if it wasn't measured.
        chance: of the model pruned at random.
    """
    if quality is None or chance is None:
        return Verdict(label, "random", None, None, "wasn't measured against random removal; give --text FILE")
    ratio = quality / chance
    verb = "loses to" if ratio >= 1 else "beats"
    text = f"{verb} random removal at {sparsity:.0%}: perplexity {quality:,.1f} against {chance:,.1f}"
    return Verdict(label, "random", ratio >= 1, ratio, text)


def flips(label: str, files: Sequence[Scores], sparsity: float, *, check: Literal["seed", "text"] = "seed") -> Verdict:
    """How much of what goes, the same share of every unit group, changes from one calibration to another.

    Args:
        label: the scorer.
        files: its scores, one a calibration; none for a scorer that looks at none.
        sparsity: the share of the units that goes.
        check: what the calibrations differ in.
    """
    if not files:
        return Verdict(label, check, False, None, "looks at no calibration")
    if len(files) < 2:
        return Verdict(label, check, None, None, f"is there for one calibration {check} only")
    changed = [_changed(a.values, b.values, sparsity) for a, b in combinations(files, 2)]
    share = sum(changed) / len(changed)
    text = f"{share:.1%} of what goes at {sparsity:.0%} changes from {check} to {check} ({len(files)} {check}s)"
    return Verdict(label, check, share > FLIPS, share, text)


def _changed(a: Values, b: Values, sparsity: float) -> float:
    """The share of what one ranking removes that the other keeps."""
    gone = kept = 0
    for name in a.keys() & b.keys():
        (count,) = removed_counts(len(a[name]), (sparsity,))
        places = removal_places(np.stack([a[name].double().numpy(), b[name].double().numpy()]))
        gone += int(count)
        kept += int(count) - int((places < count).all(axis=0).sum())
    return kept / gone if gone else 0.0


def mostly_depth(label: str, scores: Scores) -> Verdict:
    """The share of the variance of a scorer's ranks that lies between blocks, of heads or neurons, where it is larger.

    Math: ``eta^2 = sum_l n_l (mean_l - mean)^2 / sum_i (rank_i - mean)^2`` over the units of a kind, ties averaged.
    """
    shares: dict[str, float] = {}
    for kind in (HEAD, NEURON):
        groups = [values for name, values in scores.values.items() if name.split(".")[0] == kind]
        if len(groups) > 1 and max(map(len, groups)) > 1:
            shares[kind] = _between([values.double().numpy() for values in groups])
    if not shares:
        return Verdict(label, "depth", None, None, "scores no two blocks with several units")
    kind = max(shares, key=lambda name: shares[name])
    share = shares[kind]
    verb = "is mostly depth" if share > MOSTLY_DEPTH else "is not depth alone"
    text = f"{verb}: {share:.0%} of the variance of the ranks of its {kind}s lies between blocks"
    return Verdict(label, "depth", share > MOSTLY_DEPTH, share, text)


def _between(groups: list[Float[np.ndarray, " _units"]]) -> float:
    ranks = rankdata(np.concatenate(groups))
    parts = np.split(ranks, np.cumsum([len(group) for group in groups])[:-1])
    total = ((ranks - ranks.mean()) ** 2).sum()
    between = sum(len(part) * (part.mean() - ranks.mean()) ** 2 for part in parts)
    return float(between / total) if total > 0 else 0.0


class Exchanged(Mapping[str, torch.Tensor]):
    """Parameters whose matrices have their rows and columns exchanged at random, each the same at every reading.

    What is left is a network of the same sizes and the same weights with other edges.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], seed: int = 0) -> None:
        self._parameters, self._seed = parameters, seed

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        known: dict[str, tuple[int, ...]] | None = getattr(self._parameters, "shapes", None)
        return {name: tuple(tensor.shape) for name, tensor in self._parameters.items()} if known is None else known

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._parameters[name]
        if tensor.ndim != 2:
            return tensor
        generator = torch.Generator().manual_seed(int(digest([self._seed, name]), 16) >> 1)
        rows, columns = (torch.randperm(size, generator=generator) for size in tensor.shape)
        return tensor[rows][:, columns]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def switched_off(label: str, scorer: Scorer, inputs: ScoringInputs) -> Verdict:
    """Whether a scorer's options leave the network's weights out of its ranking, where other options don't.

    The number is the Spearman correlation of its scores with those after the exchange, within unit groups, averaged by
    their sizes.
    """
    ours = _edge_likeness(scorer, inputs)
    if ours < IDENTICAL:
        return Verdict(label, "switch", False, ours, f"looks at the edges: Spearman {ours:.3f} once they are exchanged")
    for option, value in alternatives(scorer):
        if _edge_likeness(with_option(scorer, option, value), inputs) < IDENTICAL:
            now = getattr(scorer, option)
            text = (
                f"is switched off: with {option}={now} no edge has a part in its ranking; with {option}={value} it has"
            )
            return Verdict(label, "switch", True, ours, text)
    return Verdict(label, "switch", False, ours, "looks at no edge, with any of its options")


def _edge_likeness(scorer: Scorer, inputs: ScoringInputs) -> float:
    """1 if the exchange of the edges leaves the order of the units in every group as it was."""
    exchanged = replace(inputs.model, parameters=Exchanged(inputs.model.parameters))
    before, after = scorer(inputs), scorer(replace(inputs, model=exchanged, graph=None))
    total, units = 0.0, 0
    for name, values in before.items():
        same = 1.0 if torch.equal(values, after[name]) else _correlation(values, after[name])
        if same is not None:
            total, units = total + same * len(values), units + len(values)
    return total / units if units else 1.0


def alternatives(scorer: Scorer) -> Iterator[tuple[str, Any]]:
    """Other values of a scorer's options, one option at a time: numbers first, then choices.

    A number takes the ends and the middle of [0, 1]. What the scorer refuses is left out.
    """
    options: tuple[Any, ...] = fields(scorer) if is_dataclass(scorer) else ()
    hints = get_type_hints(type(scorer))
    values = {option.name: _values(hints[option.name]) for option in options}
    for name in sorted(values, key=lambda name: hints[name] is not float):
        for value in values[name]:
            with suppress(ValueError):
                if value != getattr(scorer, name) and with_option(scorer, name, value):
                    yield name, value


def _values(hint: Any) -> Sequence[Any]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return (1.0, 0.5, 0.0) if hint is float else ()


def with_option(scorer: Scorer, option: str, value: Any) -> Scorer:
    """A scorer with one of its options changed.

    Raises:
        ValueError: it refuses the value.
    """
    dataclass: Any = scorer
    changed: Scorer = replace(dataclass, **{option: value})
    return changed


def baselines_of(model: Model, stats: CalibrationStats | None) -> dict[str, Values]:
    """What a scorer is held against: the weights' norms, chance, and, where there is calibration, activations.

    `activation of up` is the root mean square of a neuron before its nonlinearity.
    """
    inputs = ScoringInputs(model, stats)
    found: dict[str, Values] = {"magnitude": make_scorer("magnitude")(inputs)}
    found["magnitude, L2"] = make_scorer("magnitude", norm=2)(inputs)
    found["random"] = make_scorer("random")(inputs)
    if stats is not None:
        found["activation"] = make_scorer("activation")(inputs)
        sites = {group.name: f"up.{group.layer}" for group in model.units.of_kind(NEURON)}
        if not model.is_perceptron and all(site in stats.squares for site in sites.values()):
            found[PRE_ACTIVATION] = {name: stats.rms(site) for name, site in sites.items()}
    return found

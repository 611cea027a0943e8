"""Which scorers say the same: overall, per kind of unit, and per unit group.

1. `lined_up` checks that all scores are of the same units of one model.
2. `_pairwise` compares all score files with each other on one scope.
3. `_joined` averages over the calibration seeds of a scorer, and resamples them for intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from graphprune.comparison.ranks import (
    End,
    clustering,
    jaccard,
    kendall,
    persistence,
    rank_biased_overlap,
    spearman,
)
from graphprune.comparison.result import (
    CORRELATIONS,
    HIGH,
    LOW,
    OVERALL,
    STABILITY,
    STATISTICS,
    Comparison,
    Contender,
    Scope,
    Statistic,
)
from graphprune.core.errors import InputError
from graphprune.core.io import digest
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, NEURON

BUDGETS = tuple(round(0.05 * i, 2) for i in range(1, 20))
RESAMPLES, LEVEL = 1000, 0.95
SEED = "seed"

Several = Mapping[str, Sequence[Scores]]


def compare(
    scores: Mapping[str, Scores | Sequence[Scores]],
    *,
    kinds: Sequence[str] | None = None,
    p: float | None = None,
    budgets: Sequence[float] = BUDGETS,
    end: End = "removed",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    statistics: Sequence[Statistic] = STATISTICS,
) -> Comparison:
    """How much scorers agree on the units of one model.

    Statistics are taken over all units that are compared (`overall`), per kind, and per unit group (`neuron.3`). Scores
    are taken as they are: where a scorer's scores don't compare between layers, only the unit groups say something.

    Args:
        scores: by label; several scores of one label are one scorer's at several calibration seeds.
        kinds: of units to compare; heads and neurons, as far as all scorers have them, if not given.
        p: of the rank-biased overlap: the chance of reading on from one unit to the next. By default its mean depth is
            a tenth of the units.
        budgets: the fractions of the units that go at which sets are compared.
        end: whether what goes first is compared (`removed`), or what stays (`kept`), in overlaps.
        resamples: bootstrap samples of the calibration seeds.
        level: of the bootstrap intervals (percentiles). With a few seeds they are rough.
        seed: of the bootstrap.
        statistics: that are worked out; `spearman`, which also tells the clusters, always is.

    Cost: a rank correlation is ``n log n`` a pair of scorers; twelve scorers of 46,000 units take seven seconds, five
    of them for `kendall`.

    Raises:
        InputError: there are fewer than two scorers, scores are of different models or units, or an option is out of
            range.
    """
    ends = tuple(float(budget) for budget in budgets)
    _check_options(p, ends, end, resamples, level)
    chosen = _chosen(statistics)
    several: Several = {label: [each] if isinstance(each, Scores) else each for label, each in scores.items()}
    groups = lined_up(several, kinds)
    contenders = tuple(_contender(label, files) for label, files in several.items())
    files = [(i, file) for i, label in enumerate(several) for file in several[label]]
    values = {name: np.stack([file.values[name].double().numpy() for _, file in files]) for name in groups}
    owners = np.array([i for i, _ in files])
    scopes = _scopes(groups, values, owners, tuple(several))
    generator = np.random.default_rng(seed)
    weights = [_resampled(generator, resamples, contender.n_seeds) for contender in contenders]
    of_units: dict[tuple[str, ...], dict[str, dict[str, np.ndarray]]] = {}
    for scope in scopes:
        if scope.groups not in of_units:  # with one kind of units, overall is the same
            rows = np.concatenate([values[name] for name in scope.groups], axis=1)
            matrices = _pairwise(rows, chosen, p, ends, end)
            joined = {name: _joined(matrix, owners, weights, level) for name, matrix in matrices.items()}
            of_units[scope.groups] = joined
    tensors = _stacked(
        [of_units[scope.groups] for scope in scopes], with_seeds=any(contender.n_seeds > 1 for contender in contenders)
    )
    settings: dict[str, Any] = {"p": p, "end": end, "level": level, "resamples": resamples, "seed": seed}
    if chosen != STATISTICS:
        settings["statistics"] = list(chosen)
    known, merges = clustering(_defined(tensors["spearman"][0].numpy(), scopes[0], tuple(several)))
    made_of = [[asdict(contender) for contender in contenders], list(groups), list(ends), settings]
    return Comparison(
        contenders, scopes, ends, tensors, tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in merges),
        tuple(known), settings, files[0][1].model, digest(made_of), tuple(_notes(contenders, several, groups)),
    )  # fmt: skip


def _check_options(p: float | None, budgets: tuple[float, ...], end: str, resamples: int, level: float) -> None:
    if p is not None and not 0 < p < 1:
        raise InputError(f"p of the rank-biased overlap lies between 0 and 1, not {p:g}")
    if not budgets or not all(0 < budget < 1 for budget in budgets) or len(set(budgets)) < len(budgets):
        raise InputError(f"budgets are different fractions between 0 and 1, not {', '.join(map(str, budgets))}")
    if end not in {"removed", "kept"}:
        raise InputError(f"overlaps are of what is removed or kept, not of {end!r}")
    if resamples < 1:
        raise InputError(f"the bootstrap takes at least 1 sample, not {resamples}")
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies between 0 and 1, not {level:g}")


def _chosen(statistics: Sequence[Statistic]) -> tuple[Statistic, ...]:
    if unknown := next((name for name in statistics if name not in STATISTICS), None):
        raise InputError(f"no statistic is named {unknown!r}; there are {', '.join(STATISTICS)}")
    return tuple(name for name in STATISTICS if name in {*statistics, "spearman"})


def lined_up(several: Several, kinds: Sequence[str] | None = None) -> tuple[str, ...]:
    """The unit groups that all scores have, of some kinds.

    Raises:
        InputError: there are fewer than two scorers, one has no scores, they are of different models, or of different
            units; missing ones are named.
    """
    if len(several) < 2:
        raise InputError(f"a comparison takes at least two scorers, not {', '.join(several) or 'none'}")
    if empty := next((label for label, files in several.items() if not files), None):
        raise InputError(f"there are no scores of {empty}")
    files = [(label, file) for label, each in several.items() for file in each]
    first, reference = files[0]
    for label, file in files:
        if file.model and reference.model and file.model != reference.model:
            raise InputError(
                f"the scores of {first} and {label} are of different models "
                f"(checkpoints {reference.model[:12]} and {file.model[:12]})"
            )
    chosen = _shared_kinds(several, kinds)
    names = sorted({name for _, file in files for name in file.values if name.split(".")[0] in chosen}, key=_place)
    sizes = {
        name: next((label, len(file.values[name])) for label, file in files if name in file.values) for name in names
    }
    for label, file in files:
        missing = [name for name in names if name not in file.values]
        if missing:
            more = f" and {len(missing) - 1} more groups" if len(missing) > 1 else ""
            raise InputError(f"the scores of {label} are incomplete: {missing[0]}{more} missing")
        for name, (owner, size) in sizes.items():
            if len(file.values[name]) != size:
                raise InputError(f"{name} has {size:,} units in {owner}, {len(file.values[name]):,} in {label}")
    return tuple(names)


def _shared_kinds(several: Several, kinds: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds that are compared.

    Raises:
        InputError: a scorer hasn't one of those that were asked for, or all have none in common.
    """
    having = {label: [set(file.kinds) for file in files] for label, files in several.items()}
    for kind in kinds or ():
        if lacking := next((label for label, each in having.items() if not all(kind in has for has in each)), None):
            raise InputError(f"{lacking} scores no {kind}s; it scores {', '.join(several[lacking][0].kinds)}")
    shared = set.intersection(*(has for each in having.values() for has in each))
    if kinds:
        return tuple(dict.fromkeys(kinds))
    found = tuple(kind for kind in (HEAD, NEURON) if kind in shared) or tuple(sorted(shared))
    if not found:
        what = "; ".join(f"{label} scores {', '.join(files[0].kinds)}" for label, files in several.items())
        raise InputError(f"the scores have no units in common: {what}; rank graphs of the same level")
    return found


def _place(name: str) -> tuple[str, int, str]:
    kind, layer, *rest = name.split(".")
    return kind, int(layer), ".".join(rest)


def _contender(label: str, files: Sequence[Scores]) -> Contender:
    """A scorer, told from its scores.

    Raises:
        InputError: they are of different scorers, or have other options.
    """
    options = [{name: value for name, value in file.options.items() if name != SEED} for file in files]
    for file, each in zip(files, options, strict=True):
        if file.method != files[0].method or each != options[0]:
            raise InputError(f"the scores called {label} differ in more than a seed: one label is one scorer's")
    return Contender(label, files[0].method, dict(options[0]), tuple(file.inputs for file in files))


def _scopes(
    groups: tuple[str, ...], values: Mapping[str, np.ndarray], owners: np.ndarray, labels: tuple[str, ...]
) -> tuple[Scope, ...]:
    kinds = dict.fromkeys(name.split(".")[0] for name in groups)
    parts = {OVERALL: groups, **{kind: tuple(n for n in groups if n.split(".")[0] == kind) for kind in kinds}}
    parts |= {name: (name,) for name in groups if values[name].shape[1] > 1}
    scopes = []
    for name, members in parts.items():
        ends = [(values[group].min(axis=1), values[group].max(axis=1)) for group in members]
        flat = np.min([low for low, _ in ends], axis=0) == np.max([high for _, high in ends], axis=0)
        constant = tuple(label for i, label in enumerate(labels) if flat[owners == i].any())
        scopes.append(Scope(name, members, sum(values[group].shape[1] for group in members), constant))
    return tuple(scopes)


def _pairwise(
    rows: Float[np.ndarray, "files units"],
    statistics: Sequence[Statistic],
    p: float | None,
    budgets: tuple[float, ...],
    end: End,
) -> dict[str, Float[np.ndarray, "files files *budgets"]]:
    ways: dict[Statistic, Callable[[], np.ndarray]] = {
        "spearman": lambda: spearman(rows),
        "kendall": lambda: kendall(rows),
        "rbo": lambda: rank_biased_overlap(rows, p or persistence(rows.shape[1]), end=end),
        "jaccard": lambda: jaccard(rows, budgets, end=end),
    }
    return {name: ways[name]() for name in statistics}


def _resampled(generator: np.random.Generator, samples: int, seeds: int) -> Float[np.ndarray, "samples seeds"]:
    """What each seed weighs in each bootstrap sample."""
    return generator.multinomial(seeds, [1 / seeds] * seeds, size=samples) / seeds


def _joined(
    matrix: Float[np.ndarray, "files files *budgets"],
    owners: np.ndarray,
    weights: list[np.ndarray],
    level: float,
) -> dict[str, np.ndarray]:
    """Means over the seeds of each pair of scorers, the ends of their intervals, and the agreement between own seeds.

    Math: a bootstrap sample weighs the seeds of ``a`` by ``u`` and those of ``b`` by ``v``, drawn apart; its statistic
    is ``u^T M v``, with ``M`` the statistic of every pair of seeds.
    """
    n, rest = len(weights), matrix.shape[2:]
    mean, low, high = (np.ones((n, n, *rest)) for _ in range(3))
    stability = np.zeros((n, *rest))
    for i in range(n):
        own = matrix[np.ix_(owners == i, owners == i)]
        mean[i, i] = low[i, i] = high[i, i] = own[0, 0]
        if len(own) > 1:
            stability[i] = own[np.triu_indices(len(own), 1)].mean(axis=0)
        for j in range(i):
            pairs = matrix[np.ix_(owners == i, owners == j)]
            mean[i, j] = mean[j, i] = pairs.mean(axis=(0, 1))
            if min(pairs.shape[:2]) > 1:
                drawn = np.einsum("si,ij...,sj->s...", weights[i], pairs, weights[j])
                ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
                low[i, j], high[i, j] = low[j, i], high[j, i] = ends
    return {"": mean, LOW: low, HIGH: high, STABILITY: stability}


def _stacked(found: list[dict[str, dict[str, np.ndarray]]], *, with_seeds: bool) -> dict[str, torch.Tensor]:
    """One tensor a statistic, with zeros where none is defined."""
    tensors = {}
    for statistic in found[0]:
        for part in ("", LOW, HIGH, STABILITY) if with_seeds else ("",):
            arrays = np.stack([each[statistic][part] for each in found])
            name = f"{statistic}.{part}" if part else statistic
            tensors[name] = torch.from_numpy(np.nan_to_num(arrays) if statistic in CORRELATIONS else arrays)
    return tensors


def _defined(
    matrix: Float[np.ndarray, "scorers scorers"], scope: Scope, labels: tuple[str, ...]
) -> Float[np.ndarray, "scorers scorers"]:
    """The matrix with NaN for scorers without a correlation, as the clustering takes it."""
    flat = np.array([scope.why_undefined(label) is not None for label in labels])
    return np.where(flat[:, None] | flat[None, :], np.nan, matrix)


def _notes(contenders: tuple[Contender, ...], several: Several, groups: tuple[str, ...]) -> list[str]:
    notes = []
    single = [contender.label for contender in contenders if contender.n_seeds < 2]
    if single:
        who = "every scorer" if len(single) == len(contenders) else ", ".join(single)
        notes.append(f"one calibration seed of {who}: no intervals where it takes part")
    compared = {name.split(".")[0] for name in groups}
    for kind in (HEAD, NEURON):
        having = [label for label, files in several.items() if all(kind in file.kinds for file in files)]
        if kind not in compared and having:
            notes.append(f"{kind}s are not compared: of all scorers only {', '.join(having)} score them")
    return notes

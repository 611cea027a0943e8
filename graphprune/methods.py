"""A method is a point in scorer x allocation x compensation; a recipe is a method with all of its options."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from graphprune.allocation import ALLOCATIONS, Normalise, Target
from graphprune.allocation.schedule import GROWTHS
from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.masks.items import Budget, HeadMode
from graphprune.scorers import SCORERS, make_scorer
from graphprune.scorers.inputs import Scorer, WeightScorer, option_value
from graphprune.solvers.joint import JointMethod, JointOptions
from graphprune.solvers.obs import HeadError
from graphprune.solvers.scores import SOLVED, SolvedScorer
from graphprune.solvers.units import Compensation

Units = Literal["all", "neuron", "head"]
Statistics = Literal["pruned", "dense"]
COMPENSATIONS: tuple[Compensation, ...] = ("none", "obs", "bias", "sparsellm", "reconstruct")
OBS, INFLUENCE = "obs", "influence"
UNITS, UNSTRUCTURED = "units", "unstructured"
ALL_LAYERS, FIRST_HALF = "all", "first_half"
BY_GRAPH, BY_CURVES = "graph", "curves"
ALLOCATION_NAMES = (*ALLOCATIONS, BY_GRAPH, BY_CURVES)
SCORER_NAMES = (*SCORERS, *SOLVED)


@dataclass(frozen=True)
class Preset:
    """A named method: what decides, how it is spread over layers, how survivors make up for it, and of what."""

    scorer: str
    allocation: str = "uniform"
    compensation: Compensation = "none"
    pattern: str = UNITS
    normalise: Normalise = "layer"
    head_mode: HeadMode = "group"
    head_error: HeadError = "grouped"
    damping: float = 0.01
    depth: float = 0.0


PRESETS: dict[str, Preset] = {
    **{name: Preset(name) for name in SCORERS},
    "flap": Preset("flap", "global", "bias", normalise="standard"),
    "slimgpt": Preset(OBS, "log", "obs", head_mode="balanced", damping=0.001),
    "graphslim": Preset(OBS, BY_CURVES, "reconstruct", head_mode="balanced", head_error="exact", damping=0.001),
    "sparsegpt": Preset(OBS, "uniform", "obs", UNSTRUCTURED),
    "sparsellm": Preset(OBS, "uniform", "sparsellm", UNSTRUCTURED),
    INFLUENCE: Preset(INFLUENCE, depth=1.0),
}


@dataclass(frozen=True)
class Cut:
    """How scores become a mask.

    Attributes:
        allocation: `uniform`, `log`, `linear`, `log_reversed`, `linear_reversed`, `global` (one threshold on the
            scores), `graph` (one on the credit of the whole graph), `curves` (one on what each next piece costs the
            prediction), or None for the method's own.
        units: what may go: `neuron`, `head`, or `all` kinds that have scores.
        head_mode: heads go as whole key/value groups (`group`) or one from every group (`balanced`); None for the
            method's own, else `group`.
        floor: pieces that stay in every layer; 0 allows an empty layer.
        round_to: widths that stay are a multiple of this.
        normalise: of `global`: `layer`, `standard` or `none`; None for the method's own.
        budget: what is counted: `parameters`, `units`, or None for parameters of a decoder and units of a perceptron
            (where a weight belongs to two neurons).
        first: of `log` and `linear`: the largest share that the first layer loses; of the reversed ones, the last.
        depth: the share of the budget that goes as whole attentions and MLPs, as near as these come; the rest goes by
            width, from the others. None for the method's own.
        depth_scorer: what these go by; None for `influence`, or for what decides otherwise where nothing else goes.
    """

    allocation: str | None = None
    units: Units = "all"
    head_mode: HeadMode | None = None
    floor: int = 1
    round_to: int = 1
    normalise: Normalise | None = None
    budget: Budget | None = None
    first: float = 0.0625
    depth: float | None = None
    depth_scorer: str | None = None

    def with_defaults(self, preset: Preset) -> "Cut":
        return replace(
            self,
            allocation=self.allocation or preset.allocation,
            normalise=self.normalise or preset.normalise,
            head_mode=self.head_mode or preset.head_mode,
            depth=preset.depth if self.depth is None else self.depth,
        )

    @property
    def heads(self) -> HeadMode:
        return self.head_mode or "group"

    def check(self, sparsity: float) -> None:
        """Checks everything that can be checked without a model.

        Raises:
            InputError: an option is unknown or out of range.
        """
        if self.allocation is not None and self.allocation not in ALLOCATION_NAMES:
            raise InputError(f"no allocation is named {self.allocation!r}; there are {', '.join(ALLOCATION_NAMES)}")
        if self.units not in {"all", "neuron", "head"}:
            raise InputError(f"units are all, neuron or head, not {self.units!r}")
        if self.floor < 0:
            raise InputError(f"the floor is at least 0, not {self.floor}")
        if not 0 <= (self.depth or 0) <= 1:
            raise InputError(f"the depth is a share of the budget, between 0 and 1, not {self.depth:g}")
        if self.depth_scorer is not None and not 0 < (self.depth or 0) < 1:
            raise InputError("a scorer of depth goes with a depth between 0 and 1; at 1 the method's own decides")
        self.target(sparsity, 1)

    def target(self, sparsity: float, prunable: int) -> Target:
        return Target(sparsity, prunable, self.normalise or "layer", self.round_to, self.first)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is pruned, but for how much.

    Attributes:
        scorer: what matters, by name; `obs` for second-order errors. Empty where scores are given.
        options: of the scorer.
        cut: which units may go, and how much from which layer.
        compensation: how what stays makes up for what goes: `none`, `obs` (least squares), `bias` (the mean),
            `sparsellm` (all layers of an MLP together, by auxiliary variables), `reconstruct` (so, by gradient steps).
        pattern: `units`, `unstructured` (single weights), or `N:M` (N of every M neighbouring weights of a row stay).
        statistics: a scorer of a unit's own activations sees those of the `pruned` blocks before it, or of the `dense`
            model; scores of the whole model are always of the dense one.
        damping: of the Hessians, as a share of their mean diagonal.
        head_error: of a head under `obs`: `grouped` Cholesky or `exact`.
        group_start, group_floor: how many neurons go at a time under `obs`, at first and at last; None scales with the
            width.
        joint: of `sparsellm` and `reconstruct`.
        global_layers: the blocks whose MLPs are solved as a whole: `all`, `first_half`, or `FIRST-LAST`.
        blocks: those that lose single weights at all, likewise; the sparsity is of these.
    """

    scorer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)
    compensation: Compensation = "none"
    pattern: str = UNITS
    statistics: Statistics = "pruned"
    damping: float = 0.01
    head_error: HeadError = "grouped"
    group_start: int | None = None
    group_floor: int | None = None
    joint: JointOptions = field(default_factory=JointOptions)
    global_layers: str = ALL_LAYERS
    blocks: str = ALL_LAYERS

    @classmethod
    def of(cls, method: str | None, **given: Any) -> "Recipe":
        """A preset with some of its choices replaced; None stands for the preset's own.

        Args:
            method: its name; None where scores are given.
            given: fields of a recipe.

        Raises:
            InputError: no method has this name.
        """
        if method is not None and method not in PRESETS:
            raise InputError(f"no method is named {method!r}; there are {', '.join(PRESETS)}")
        preset = Preset("") if method is None else PRESETS[method]
        cut = (given.pop("cut", None) or Cut()).with_defaults(preset)
        names = ("scorer", "compensation", "pattern", "head_error", "damping")
        own = {name: getattr(preset, name) for name in names}
        return cls(cut=cut, **(own | {name: value for name, value in given.items() if value is not None}))

    @property
    def of_weights(self) -> bool:
        """Whether single weights go."""
        return self.pattern != UNITS

    @property
    def joint_method(self) -> JointMethod | None:
        """How the layers of an MLP make up for what goes together, if they do."""
        return self.compensation if self.compensation in {"sparsellm", "reconstruct"} else None

    @property
    def n_of_m(self) -> Pattern | None:
        return Pattern.parse(self.pattern) if self.of_weights and self.pattern != UNSTRUCTURED else None

    @property
    def depth_scorer(self) -> Scorer | SolvedScorer | None:
        """What decides which sub-blocks go as a whole, unless scores are given and nothing else goes."""
        if not self.cut.depth:
            return None
        if self.cut.depth < 1:
            return any_scorer(self.cut.depth_scorer or INFLUENCE, {})
        return any_scorer(self.scorer, self.options) if self.scorer else None

    def rung(self, asked: str) -> str:
        """The rung to save in: ragged where sub-blocks go as a whole, since padding would put them back."""
        return "ragged" if asked == "auto" and self.cut.depth else asked

    def sparsity(self, given: float | None) -> float:
        """The fraction that goes: what was asked for, or what the pattern says.

        Raises:
            InputError: neither says it, or they differ.
        """
        if (pattern := self.n_of_m) is None:
            if given is None:
                raise InputError("how much shall go? give --sparsity, the fraction removed")
            return given
        if given is not None and abs(given - pattern.sparsity) > 1e-9:
            raise InputError(f"the pattern {pattern} removes {pattern.sparsity:g}, not {given:g}; leave --sparsity out")
        return pattern.sparsity

    def check(self, sparsity: float) -> None:
        """Checks everything that can be checked without a model.

        Raises:
            InputError: an option is unknown, out of range, or doesn't go with another.
        """
        if self.scorer not in {"", OBS}:
            any_scorer(self.scorer, self.options)
        elif self.options:
            raise InputError("the second-order errors have no options of a scorer; see --damping and --head-error")
        self.cut.check(sparsity)
        self._check_depth()
        if self.compensation not in COMPENSATIONS:
            raise InputError(f"no compensation is named {self.compensation!r}; there are {', '.join(COMPENSATIONS)}")
        if not 0 <= self.damping < float("inf"):
            raise InputError(f"damping is a share of the mean diagonal, at least 0, not {self.damping:g}")
        if self.head_error not in {"grouped", "exact"}:
            raise InputError(f"the error of a head is grouped or exact, not {self.head_error!r}")
        if self.statistics not in {"pruned", "dense"}:
            raise InputError(f"statistics are of the pruned or the dense model, not {self.statistics!r}")
        for name, size in (("start", self.group_start), ("floor", self.group_floor)):
            if size is not None and size < 1:
                raise InputError(f"the {name} of the group size is at least 1, not {size}")
        if self.group_start is not None and self.group_floor is not None and self.group_start < self.group_floor:
            raise InputError(
                f"group sizes fall from a start to a floor, not from {self.group_start} to {self.group_floor}"
            )
        self._check_joint()
        if self.of_weights:
            self._check_weights()
        elif self.scorer == OBS and self.statistics == "dense":
            raise InputError("second-order errors are those behind the pruned blocks; leave --statistics out")

    @property
    def sees_text(self) -> bool:
        """Whether anything needs a calibration text."""
        try:
            self.check_without_text()
        except InputError:
            return True
        return False

    def check_without_text(self, *, given_scores: bool = False) -> None:
        """Checks that nothing needs a calibration text.

        Raises:
            InputError: something does.
        """
        if self.compensation != "none":
            raise InputError(f"the compensation {self.compensation} needs calibration; give --calibration FILE")
        if self.cut.allocation in {BY_GRAPH, BY_CURVES}:
            raise InputError(f"the allocation {self.cut.allocation} needs calibration; give --calibration FILE")
        if (by := self.depth_scorer) is not None and needs_text(by):
            raise InputError(f"the scorer {by.name} needs calibration; give --calibration FILE")
        if given_scores:
            return
        if needs_text(any_scorer(self.scorer, self.options)):
            raise InputError(f"the scorer {self.scorer} needs calibration; give --calibration FILE")

    def _check_depth(self) -> None:
        if self.scorer == INFLUENCE and self.cut.depth != 1:
            raise InputError("influence scores whole sub-blocks; give --depth 1, or another scorer for the width")
        if self.cut.depth and self.of_weights:
            raise InputError("single weights don't go with whole sub-blocks; leave --depth or --pattern out")

    def _check_joint(self) -> None:
        for what, layers in (("global layers", self.global_layers), ("blocks", self.blocks)):
            if layers not in {ALL_LAYERS, FIRST_HALF} and re.fullmatch(r"[0-9]{1,6}-[0-9]{1,6}", layers) is None:
                raise InputError(f"{what} are {ALL_LAYERS}, {FIRST_HALF}, or a range like 0-14, not {layers!r}")
        if self.joint != JointOptions() and self.joint_method is None:
            raise InputError("rounds and penalties are of the compensations sparsellm and reconstruct")
        if self.joint.variant == "published" and not (self.of_weights and self.joint_method == "sparsellm"):
            raise InputError("the published variant is of sparsellm, and of single weights")
        if not self.of_weights and self.blocks != ALL_LAYERS:
            raise InputError("units go from all blocks; leave --blocks out, or give a --pattern")
        if self.global_layers != ALL_LAYERS and not (self.of_weights and self.joint_method):
            raise InputError("global layers are of sparsellm and reconstruct, and of single weights")

    def _check_weights(self) -> None:
        pattern = self.n_of_m
        if not self.scorer:
            raise InputError("scores of units say nothing of single weights; leave --pattern out, or give a --method")
        if self.scorer != OBS and not isinstance(any_scorer(self.scorer, self.options), WeightScorer):
            raise InputError(f"the scorer {self.scorer} scores units, not single weights")
        if self.compensation == "bias":
            raise InputError("the compensation bias makes up for units, not for single weights; use none or obs")
        if self.cut.allocation not in {None, *GROWTHS}:
            raise InputError(f"single weights are allocated {', '.join(GROWTHS)}, not {self.cut.allocation}")
        if pattern is not None and self.cut.allocation not in {None, "uniform"}:
            raise InputError(f"the pattern {pattern} leaves nothing to allocate: every layer loses the same")
        plain = Cut(self.cut.allocation, "all", "group", normalise=self.cut.normalise, first=self.cut.first,
                    depth=self.cut.depth)  # fmt: skip
        if self.cut != plain or self.statistics == "dense":
            raise InputError(
                "single weights go from all linear layers of the blocks: --units, --head-mode, --floor, --round-to, "
                "--budget and --statistics don't apply"
            )


def any_scorer(name: str, options: Mapping[str, Any]) -> Scorer | SolvedScorer:
    """A scorer by name, of those that look at a model and of those that solve it on a text.

    Raises:
        InputError: the name or an option is unknown, or an option's value is out of range.
    """
    if name not in SOLVED:
        if name not in SCORERS:
            raise InputError(f"no scorer is named {name!r}; there are {', '.join(SCORER_NAMES)}")
        return make_scorer(name, **options)
    kind = SOLVED[name]
    known = [option.name for option in fields(kind)]
    if unknown := sorted(options.keys() - set(known)):
        raise InputError(f"the scorer {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    try:
        return kind(**{option: option_value(kind, option, value) for option, value in options.items()})
    except ValueError as error:
        raise InputError(f"the scorer {name}: {error}") from error


def needs_text(scorer: Scorer | SolvedScorer) -> bool:
    """Whether a scorer has to see calibration."""
    return isinstance(scorer, SolvedScorer) or scorer.needs_stats or scorer.needs_gradients


def layers_of(text: str, n_layers: int) -> frozenset[int]:
    """The layers that `all`, `first_half` or a range like ``0-14`` names.

    Raises:
        InputError: the model hasn't so many.
    """
    if text in {ALL_LAYERS, FIRST_HALF}:
        return frozenset(range(n_layers if text == ALL_LAYERS else n_layers // 2))
    first, last = (int(part) for part in text.split("-"))
    if not first <= last < n_layers:
        raise InputError(f"the layers are 0-{n_layers - 1}, there is no {text}")
    return frozenset(range(first, last + 1))

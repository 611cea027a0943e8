"""Exact budgets, floors, nesting, and who goes first."""

import re
import warnings
from typing import Any, Literal

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from graphprune.allocation import ALLOCATIONS, Allocation, Target, allocate
from graphprune.allocation.budget import fill, rounded
from graphprune.allocation.schedule import _van_der_corput
from graphprune.core.errors import InfeasibleError, InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.masks.items import Pieces, prunable, removable
from graphprune.masks.select import DepthWarning, depth_share
from graphprune.methods import Cut
from graphprune.models.model import Model
from graphprune.pruning import cut
from tests.families import decoder, perceptron
from tests.unchecked import unchecked

DECODER = decoder("llama")
DEEP = decoder("llama", num_hidden_layers=5)
PERCEPTRON = perceptron((6, 10, 7, 9, 4))
NEURON_COST = DECODER.units["neuron.0"].parameters_per_unit

every_allocation = pytest.mark.parametrize("allocation", ALLOCATIONS)
every_mode = pytest.mark.parametrize("head_mode", ["group", "balanced"])


def scores_of(model: Model, *, seed: int = 0, levels: int | None = None, depth: float = 0.0) -> Scores:
    """Random scores of heads and neurons; with few levels they are full of ties."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for group in model.units:
        if group.kind != "kv_head":
            row = torch.rand(group.size, generator=generator)
            if levels is not None:
                row = (row * levels).floor()
            values[group.name] = row + depth * group.layer
    return Scores(values, "test")


def quietly(model: Model, scores: Scores, sparsity: float, **options: Any) -> Mask:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DepthWarning)
        return cut(model, scores, sparsity, Cut(**options))


def removed(mask: Mask, kind: str = "") -> int:
    return sum(int((~keep).sum()) for name, keep in mask.keep.items() if name.startswith(kind))


@every_allocation
@every_mode
@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.6])
def test_removes_exactly_the_budget_in_parameters_also_with_ties(
    allocation: str, head_mode: str, levels: int | None, sparsity: float
) -> None:
    mask = quietly(DECODER, scores_of(DECODER, levels=levels), sparsity, allocation=allocation, head_mode=head_mode)
    total = prunable(DECODER.units, ("head", "neuron"), "parameters")
    assert abs(mask.removed_parameters(DECODER.units) - sparsity * total) <= NEURON_COST / 2 + 0.5


@every_allocation
@every_mode
@pytest.mark.parametrize("floor", [0, 1])
@given(st.floats(0, 0.6), st.integers(0, 9))
def test_removes_exactly_the_budget_with_and_without_a_floor(
    allocation: str, head_mode: str, floor: int, sparsity: float, seed: int
) -> None:
    mask = quietly(
        DECODER, scores_of(DECODER, seed=seed), sparsity, allocation=allocation, head_mode=head_mode, floor=floor
    )
    total = prunable(DECODER.units, ("head", "neuron"), "parameters")
    assert abs(mask.removed_parameters(DECODER.units) - sparsity * total) <= NEURON_COST / 2 + 0.5


@every_allocation
@pytest.mark.parametrize("levels", [None, 1, 3])
@given(st.floats(0, 0.85))
def test_removes_exactly_the_budget_in_units_also_with_ties(
    allocation: str, levels: int | None, sparsity: float
) -> None:
    mask = quietly(PERCEPTRON, scores_of(PERCEPTRON, levels=levels), sparsity, allocation=allocation)
    assert removed(mask) == round(sparsity * 26)


@every_allocation
@given(st.floats(0, 0.9))
def test_removes_exactly_the_budget_of_neurons_alone(allocation: str, sparsity: float) -> None:
    mask = quietly(DECODER, scores_of(DECODER, levels=2), sparsity, allocation=allocation, units="neuron")
    assert abs(removed(mask) - sparsity * 48) <= 0.5 + 0.5 / NEURON_COST  # the budget is a whole number of parameters
    assert removed(mask, "head") == 0


@every_allocation
@every_mode
@given(st.floats(0, 0.6), st.integers(0, 50))
def test_grouped_queries_stay_legal_at_every_sparsity(
    allocation: str, head_mode: str, sparsity: float, seed: int
) -> None:
    mask = quietly(DEEP, scores_of(DEEP, seed=seed), sparsity, allocation=allocation, head_mode=head_mode)
    mask.check_legal(DEEP.units)
    for layer in range(5):
        assert mask.keep[f"head.{layer}"].any()
        assert mask.keep[f"neuron.{layer}"].any()


@every_allocation
@pytest.mark.parametrize("floor", [0, 1, 2, 5])
def test_floors_hold_and_are_reached(allocation: str, floor: int) -> None:
    scores = scores_of(PERCEPTRON)
    most = (26 - 3 * floor) / 26
    mask = quietly(PERCEPTRON, scores, most, allocation=allocation, floor=floor)
    assert [int(keep.sum()) for keep in mask.keep.values()] == [floor] * 3
    with pytest.raises(InfeasibleError, match="out of reach") if floor else pytest.raises(InputError):
        quietly(PERCEPTRON, scores, most + 1 / 26, allocation=allocation, floor=floor)


def test_what_is_out_of_reach_names_the_nearest_sparsity_and_that_one_works() -> None:
    scores = scores_of(DECODER)
    with pytest.raises(InfeasibleError) as error:
        cut(DECODER, scores, 0.95, Cut(floor=3, units="neuron"))
    assert "sparsity 0.95 is out of reach" in str(error.value)
    found = re.search(r"nearest is ([\d.]+)", str(error.value))
    assert found is not None
    assert float(found[1]) == pytest.approx(42 / 48, abs=1e-4)
    assert removed(cut(DECODER, scores, float(found[1]), Cut(floor=3, units="neuron"))) == 42


@every_allocation
@pytest.mark.parametrize(("units", "head_mode"), [("neuron", "group"), ("head", "group"), ("head", "balanced")])
@given(st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 20))
def test_masks_of_one_kind_are_nested_in_sparsity(
    allocation: str, units: str, head_mode: str, a: float, b: float, seed: int
) -> None:
    assume(a != b)
    scores = scores_of(DEEP, seed=seed, levels=4)
    less, more = (
        quietly(DEEP, scores, s, allocation=allocation, units=units, head_mode=head_mode, floor=0)
        for s in sorted((a, b))
    )
    assert all(bool((less.keep[name] | ~more.keep[name]).all()) for name in less.keep)


@given(st.floats(0, 0.75))
def test_uniform_takes_the_same_from_every_layer_to_within_one(sparsity: float) -> None:
    mask = quietly(DEEP, scores_of(DEEP, depth=100.0), sparsity, allocation="uniform", units="neuron")
    counts = [int((~mask.keep[f"neuron.{layer}"]).sum()) for layer in range(5)]
    assert max(counts) - min(counts) <= 1


def test_uniform_spreads_the_extra_pieces_over_the_depth() -> None:
    assert [float(_van_der_corput(n)) for n in range(1, 8)] == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
    mask = quietly(DEEP, scores_of(DEEP), 2 / 120, allocation="uniform", units="neuron")
    counts = [int((~mask.keep[f"neuron.{layer}"]).sum()) for layer in range(5)]
    assert counts == [0, 1, 0, 1, 0]  # the two smallest of 1/2, 1/4, 3/4, 1/8, 5/8


def test_uniform_does_not_look_at_scores_across_layers() -> None:
    flat, steep = (quietly(DEEP, scores_of(DEEP, depth=depth), 0.3) for depth in (0.0, 50.0))
    assert all(torch.equal(flat.keep[name], steep.keep[name]) for name in flat.keep)


@pytest.mark.parametrize("normalise", ["layer", "none"])
@given(st.lists(st.integers(0, 5), min_size=26, max_size=26), st.floats(0, 1))
def test_global_is_one_sorted_list(normalise: Literal["layer", "none"], row: list[int], sparsity: float) -> None:
    sizes = (10, 7, 9)
    rows = [row[:10], row[10:17], row[17:]]
    scores = Scores({f"neuron.{i}": torch.tensor(r, dtype=torch.float32) for i, r in enumerate(rows)}, "test")
    mask = quietly(PERCEPTRON, scores, sparsity, allocation="global", normalise=normalise, floor=0)
    means = [sum(r) / len(r) if normalise == "layer" and any(r) else 1.0 for r in rows]
    order = sorted((rows[i][j] / means[i], i, j) for i in range(3) for j in range(sizes[i]))
    expected = {(i, j) for _, i, j in order[: round(sparsity * 26)]}
    assert {(i, j) for i in range(3) for j in range(sizes[i]) if not mask.keep[f"neuron.{i}"][j]} == expected


def test_raw_global_scores_are_compared_per_parameter() -> None:
    """A group of heads that scores four times what a neuron does costs sixteen times as much: it goes first."""
    values = {f"neuron.{layer}": torch.full((24,), 1.0) for layer in (0, 1)}
    values |= {f"head.{layer}": torch.full((4,), 2.0) for layer in (0, 1)}
    mask = quietly(DECODER, Scores(values, "test"), 0.3, allocation="global", normalise="none")
    assert removed(mask, "head") == 4
    values |= {f"head.{layer}": torch.full((4,), 1000.0) for layer in (0, 1)}
    mask = quietly(DECODER, Scores(values, "test"), 0.3, allocation="global", normalise="none")
    assert removed(mask, "head") == 0


def test_raw_scores_that_are_mostly_depth_warn_and_normalised_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {f"neuron.{i}": torch.rand(24, generator=generator).add(0.5) * 10.0**i for i in range(5)}
    scores = Scores(values, "test")
    with pytest.warns(DepthWarning, match="decided by depth"):
        deep = cut(DEEP, scores, 0.4, Cut("global", units="neuron", normalise="none"))
    assert depth_share(deep, tuple(values)) > 0.8
    shallow = cut(DEEP, scores, 0.4, Cut("global", units="neuron"))  # warnings are errors
    assert depth_share(shallow, tuple(values)) < 0.1


@every_allocation
@pytest.mark.parametrize("round_to", [2, 4, 5, 7, 24, 32])
@given(st.floats(0, 0.9))
def test_rounded_widths_are_multiples_and_never_grow(allocation: str, round_to: int, sparsity: float) -> None:
    mask = quietly(DECODER, scores_of(DECODER), sparsity, allocation=allocation, units="neuron", round_to=round_to)
    for layer in (0, 1):
        width = int(mask.keep[f"neuron.{layer}"].sum())
        assert 1 <= width <= 24
        if round_to <= 24:
            assert width % round_to == 0


@pytest.mark.parametrize("floor", [0, 1, 3, 20, 21, 24])
@pytest.mark.parametrize("round_to", [5, 7, 8, 24])
def test_rounding_respects_the_floor_and_the_original_width(floor: int, round_to: int) -> None:
    part = Pieces("neuron.0", 0, 1, 1.0, torch.zeros(24 - floor), torch.arange(24 - floor)[:, None], 24)
    for remove in range(24 - floor + 1):
        gone = rounded({"neuron.0": remove}, (part,), round_to)["neuron.0"]
        assert 0 <= gone <= 24 - floor, (floor, round_to, remove)


def test_heads_are_not_rounded_as_neurons_are() -> None:
    mask = quietly(DECODER, scores_of(DECODER), 0.4, round_to=8)
    assert removed(mask, "head") > 0
    mask.check_legal(DECODER.units)


def pieces_of(*costs_and_sizes: tuple[int, int]) -> tuple[Pieces, ...]:
    return tuple(
        Pieces(f"neuron.{i}", i, cost, 1.0, torch.arange(float(size)), torch.arange(size)[:, None], size)
        for i, (cost, size) in enumerate(costs_and_sizes)
    )


def test_filling_takes_what_fits_and_rounds_by_the_smallest_piece() -> None:
    large, small = pieces_of((10, 3), (4, 9))
    assert fill([large, large, small, small, small], 24) == {"neuron.0": 2, "neuron.1": 1}
    assert fill([large, small, small], 12) == {"neuron.0": 1, "neuron.1": 1}  # 14 is as near as 10
    assert fill([large, small, small], 11) == {"neuron.0": 1}
    assert fill([large, small, large], 9) == {"neuron.1": 1}  # what is skipped closes its group
    assert fill([], 9) == {}
    assert fill([small], 0) == {}


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_outside_the_unit_interval_is_refused_with_its_value(sparsity: float) -> None:
    with pytest.raises(InputError, match=f"between 0 and 1, not {sparsity}"):
        Target(sparsity, 10)


def test_unknown_options_are_refused_by_name() -> None:
    scores = scores_of(DECODER)
    with pytest.raises(InputError, match=r"'random'; there are uniform, log, linear, log_reversed, .*, graph, curves"):
        cut(DECODER, scores, 0.1, Cut(allocation="random"))
    with pytest.raises(InputError, match="'random'; there are uniform, log, linear"):
        allocate("random", (), Target(0.1, 10))
    with pytest.raises(InputError, match="the floor is at least 0, not -1"):
        cut(DECODER, scores, 0.1, Cut(floor=-1))
    with pytest.raises(InputError, match="multiple of at least 1, not 0"):
        Target(0.1, 10, round_to=0)
    with pytest.raises(InputError, match="has no attention heads"):
        cut(PERCEPTRON, scores_of(PERCEPTRON), 0.1, Cut(units="head"))
    with unchecked():
        with pytest.raises(InputError, match="by layer, standard or none, not 'all'"):
            Target(0.1, 10, normalise="all")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="all, neuron or head, not 'weight'"):
            cut(DECODER, scores, 0.1, Cut(units="weight"))  # type: ignore[arg-type]


def test_an_allocation_says_how_it_was_made() -> None:
    pieces = removable(scores_of(PERCEPTRON), PERCEPTRON.units, ("neuron",), budget="units")
    for name in ALLOCATIONS:
        found = allocate(name, pieces, Target(0.5, 26))
        assert isinstance(found, Allocation)
        assert found.name == name
        assert sum(found.remove.values()) == 13

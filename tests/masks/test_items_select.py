"""What can be removed from a layer, and which of it goes."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.core.units import UnitTable
from graphprune.masks.items import prunable, removable
from graphprune.masks.select import DepthWarning, depth_share, select, warn_of_depth
from tests.families import decoder, perceptron
from tests.unchecked import unchecked

DECODER, PERCEPTRON = decoder("llama"), perceptron((6, 10, 10, 4))
N_HEADS, N_KV, D_MLP = 4, 2, 24


def scored(values: dict[str, list[float]]) -> Scores:
    return Scores({name: torch.tensor(row, dtype=torch.float32) for name, row in values.items()}, "test")


def heads(*rows: list[float]) -> Scores:
    return scored({f"head.{layer}": row for layer, row in enumerate(rows)})


def test_whole_groups_go_lowest_sum_first() -> None:
    pieces = removable(heads([1, 5, 2, 3], [0, 9, 4, 4]), DECODER.units, ("head",), floor=0)
    assert [part.group for part in pieces] == ["head.0", "head.1"]
    assert pieces[0].members.tolist() == [[2, 3], [0, 1]]
    assert pieces[0].scores.tolist() == [5, 6]
    assert pieces[1].members.tolist() == [[2, 3], [0, 1]]


def test_balanced_pieces_take_the_worst_query_head_of_every_group() -> None:
    three = decoder("llama", num_attention_heads=6, hidden_size=24).units
    scores = heads([5, 1, 9, 2, 3, 8], [0, 9, 7, 4, 4, 4])
    pieces = removable(scores, three, ("head",), head_mode="balanced")
    assert pieces[0].members.tolist() == [[1, 3], [0, 4]]
    assert pieces[0].scores.tolist() == [3, 8]
    assert pieces[1].members.tolist() == [[0, 3], [2, 4]]


def test_balanced_pieces_never_empty_a_layer_because_the_last_would_cost_more() -> None:
    for floor in (0, 1):
        pieces = removable(
            heads([5, 1, 2, 3], [0, 9, 4, 4]), DECODER.units, ("head",), head_mode="balanced", floor=floor
        )
        assert [len(part) for part in pieces] == [1, 1]


def test_a_group_costs_its_key_and_value_heads_too_and_a_balanced_piece_does_not() -> None:
    scores, units = heads([1, 2, 3, 4], [1, 2, 3, 4]), DECODER.units
    q_and_o, k_and_v = 2 * 16 * 8, 2 * 16 * 8
    group, balanced = (removable(scores, units, ("head",), head_mode=mode)[0].cost for mode in ("group", "balanced"))
    assert (group, balanced) == (2 * q_and_o + k_and_v, 2 * q_and_o)
    assert removable(scores, units, ("head",), budget="units")[0].cost == 2
    assert removable(scored({"neuron.0": [0.0] * 24, "neuron.1": [0.0] * 24}), units, ("neuron",))[0].cost == 3 * 16


def test_pieces_under_the_floor_are_not_offered_and_still_count_in_the_mean() -> None:
    row = [float(i) for i in range(10)]
    pieces = removable(scored({"neuron.0": row, "neuron.1": row}), PERCEPTRON.units, ("neuron",), floor=7)
    assert [len(part) for part in pieces] == [3, 3]
    assert pieces[0].members[:, 0].tolist() == [0, 1, 2]
    assert (pieces[0].mean, pieces[0].size) == (4.5, 10)
    assert len(removable(scored({"neuron.0": row, "neuron.1": row}), PERCEPTRON.units, ("neuron",), floor=11)[0]) == 0


@given(st.lists(st.integers(0, 3), min_size=10, max_size=10), st.integers(0, 10))
def test_ties_go_by_lower_id_as_sorted_says(row: list[int], count: int) -> None:
    scores = scored({"neuron.0": [float(x) for x in row], "neuron.1": [0.0] * 10})
    pieces = removable(scores, PERCEPTRON.units, ("neuron",), floor=0)
    expected = sorted(range(10), key=lambda i: (row[i], i))
    assert pieces[0].members[:, 0].tolist() == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DepthWarning)
        mask = select(pieces, {"neuron.0": count}, PERCEPTRON.units)
    assert (~mask.keep["neuron.0"]).nonzero()[:, 0].tolist() == sorted(expected[:count])
    assert mask.keep["neuron.1"].all()


@pytest.mark.parametrize("mode", ["group", "balanced"])
@given(st.lists(st.integers(0, 4), min_size=8, max_size=8), st.integers(0, 2), st.integers(0, 2))
def test_any_number_of_head_pieces_leaves_a_legal_mask(mode: str, row: list[int], first: int, second: int) -> None:
    first, second = (min(count, 1) if mode == "balanced" else count for count in (first, second))
    scores = heads([float(x) for x in row[:4]], [float(x) for x in row[4:]])
    pieces = removable(scores, DECODER.units, ("head",), head_mode=mode, floor=0)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DepthWarning)
        mask = select(pieces, {"head.0": first, "head.1": second}, DECODER.units)
    for layer, count in enumerate((first, second)):
        kept = mask.keep[f"head.{layer}"].view(N_KV, -1)
        assert kept.sum() == N_HEADS - 2 * count
        assert torch.equal(mask.keep[f"kv_head.{layer}"], kept.any(dim=1))
        widths = kept.sum(dim=1)[kept.any(dim=1)]
        assert len(set(widths.tolist())) <= 1
        if mode == "balanced":
            assert kept.sum(dim=1).tolist() == [2 - count] * 2
    assert sum(int((~keep).sum()) for name, keep in mask.keep.items() if "neuron" in name) == 0


def test_heads_that_cannot_run_are_refused() -> None:
    full = dict(Mask.full(DECODER.units).keep)
    uneven = full | {"head.0": torch.tensor([True, False, True, True])}
    with pytest.raises(ValueError, match="block 0: key/value heads keep different numbers"):
        Mask(uneven).check_legal(DECODER.units)
    orphaned = full | {"head.1": torch.tensor([False, False, True, True])}
    with pytest.raises(ValueError, match="block 1: query heads and key/value heads don't stay together"):
        Mask(orphaned).check_legal(DECODER.units)
    headless = full | {"kv_head.1": torch.tensor([False, True])}
    with pytest.raises(ValueError, match="block 1: query heads"):
        Mask(headless).check_legal(DECODER.units)


def test_scores_that_miss_a_kind_are_refused() -> None:
    only_neurons = scored({"neuron.0": [0.0] * 24, "neuron.1": [0.0] * 24})
    with pytest.raises(InputError, match="the scorer test gives no scores for heads"):
        removable(only_neurons, DECODER.units, ("head", "neuron"))
    with unchecked(), pytest.raises(InputError, match="group or balanced, not 'any'"):
        removable(only_neurons, DECODER.units, ("neuron",), head_mode="any")  # type: ignore[arg-type]


def test_what_counts_as_prunable_includes_the_key_and_value_heads() -> None:
    units: UnitTable = DECODER.units
    linears = {"head": 4 * 16 * 32 + 4 * 16 * 16, "neuron": 2 * 3 * 16 * 24}
    assert prunable(units, ("head",), "parameters") == linears["head"]
    assert prunable(units, ("neuron",), "parameters") == linears["neuron"]
    assert prunable(units, ("head", "neuron"), "parameters") == sum(linears.values())
    assert prunable(units, ("head", "neuron"), "units") == 2 * (4 + 24)


def test_a_mask_that_is_mostly_depth_warns_with_its_share() -> None:
    row = [float(i) for i in range(10)]
    pieces = removable(scored({"neuron.0": row, "neuron.1": row}), PERCEPTRON.units, ("neuron",))
    groups = ("neuron.0", "neuron.1")
    with pytest.warns(DepthWarning, match="67% of what this mask removes is decided by depth"):
        warn_of_depth(select(pieces, {"neuron.0": 8}, PERCEPTRON.units), groups)
    warn_of_depth(select(pieces, {"neuron.0": 4, "neuron.1": 4}, PERCEPTRON.units), groups)


def test_the_depth_share_is_the_variance_between_layers() -> None:
    full = Mask.full(PERCEPTRON.units).keep
    alike = Mask({name: torch.arange(10) < 5 for name in full})
    apart = Mask({"neuron.0": torch.zeros(10, dtype=torch.bool), "neuron.1": torch.ones(10, dtype=torch.bool)})
    # means 0.2 and 0.8 around 0.5: between 0.09, total 0.25
    partly = Mask({"neuron.0": torch.arange(10) < 2, "neuron.1": torch.arange(10) < 8})
    names = ("neuron.0", "neuron.1")
    assert depth_share(alike, names) == 0
    assert depth_share(apart, names) == pytest.approx(1)
    assert depth_share(partly, names) == pytest.approx(0.36)
    assert depth_share(Mask(dict(full)), names) == 0

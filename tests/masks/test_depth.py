"""Whole sub-blocks: which of them go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.masks.depth import SubBlock, sub_blocks, whole, without
from tests.families import decoder

BLOCKS = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=12).map(
    lambda drawn: tuple(SubBlock(f"neuron.{i}", cost, score) for i, (cost, score) in enumerate(drawn))
)


@given(BLOCKS, st.integers(0, 60))
def test_what_goes_matters_least_per_cost_and_costs_nearest_to_the_amount(
    there: tuple[SubBlock, ...], amount: int
) -> None:
    gone = whole(there, amount, sum(block.cost for block in there))
    order = sorted(there, key=lambda block: block.score / block.cost)
    assert list(gone) == [block.group for block in order[: len(gone)]]
    sums = [sum(block.cost for block in order[:n]) for n in range(len(order) + 1)]
    assert abs(sum(gone.values()) - amount) == min(abs(total - amount) for total in sums)


@given(BLOCKS, st.integers(0, 30), st.integers(0, 30))
def test_more_depth_removes_the_same_and_more(there: tuple[SubBlock, ...], amount: int, more: int) -> None:
    most = sum(block.cost for block in there)
    assert whole(there, amount, most).keys() <= whole(there, amount + more, most).keys()


@given(BLOCKS, st.integers(0, 30))
def test_no_more_goes_than_may(there: tuple[SubBlock, ...], most: int) -> None:
    assert sum(whole(there, most, most).values()) <= most


def test_a_sub_block_scores_what_its_units_do_together_unless_it_has_a_score_of_its_own() -> None:
    model = decoder("llama")
    sizes = model.units.sizes()
    by_unit = Scores({name: torch.full((size,), 0.5) for name, size in sizes.items()}, "halves")
    found = {block.group: block for block in sub_blocks(by_unit, model.units, ("head", "neuron"), "parameters")}
    assert found["head.1"].score == 0.5 * 4
    assert found["neuron.0"].score == 0.5 * 24
    assert found["head.0"].cost == 2 * 16 * (4 + 2) * 8
    assert found["neuron.0"].cost == 3 * 16 * 24
    own = Scores({f"block.{i}.{part}": torch.tensor([i + 0.25]) for i in range(2) for part in ("attn", "mlp")}, "own")
    counted = sub_blocks(own, model.units, ("head", "neuron"), "units")
    assert [(block.group, block.cost, block.score) for block in counted] == [
        ("head.0", 4, 0.25), ("neuron.0", 24, 0.25), ("head.1", 4, 1.25), ("neuron.1", 24, 1.25),
    ]  # fmt: skip
    with pytest.raises(InputError, match="gives no score for the heads of block 0"):
        sub_blocks(Scores({"neuron.0": torch.ones(24)}, "few"), model.units, ("head",), "parameters")


def test_key_value_heads_go_with_their_heads() -> None:
    model = decoder("llama")
    full = {name: torch.ones(size, dtype=torch.bool) for name, size in model.units.sizes().items()}
    left = without(full, frozenset({"head.1", "neuron.0"}))
    assert {name for name, keep in left.items() if not keep.any()} == {"head.1", "kv_head.1", "neuron.0"}
    assert all(bool(keep.all()) for name, keep in left.items() if name not in {"head.1", "kv_head.1", "neuron.0"})

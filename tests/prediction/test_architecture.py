"""Exact budgets, canonical hashes, and draws that keep what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune import Model
from graphprune.core.errors import InfeasibleError, InputError
from graphprune.methods import Cut
from graphprune.prediction.architecture import Architecture, Part, Space
from graphprune.prediction.sampling import ADJACENT, DESIGNS, sampled

MADE = Space(
    tuple(
        part
        for layer in range(5)
        for part in (Part(f"head.{layer}", layer, 100, 3, 0, 2), Part(f"neuron.{layer}", layer, 7, 60, 0, 59))
    ),
    5 * (300 + 420),
)


@given(
    vector=st.lists(st.floats(0, 1), min_size=10, max_size=10),
    sparsity=st.floats(0, (10 * 100 + 5 * 59 * 7) / MADE.prunable),
)
def test_an_architecture_meets_its_budget_to_one_unit_and_stays_within_its_bounds(
    vector: list[float], sparsity: float
) -> None:
    made = MADE.realised(np.array(vector), sparsity)
    assert abs(MADE.removed(made) - round(sparsity * MADE.prunable)) <= 7 / 2 + 1e-9
    for part in MADE.parts:
        assert part.low <= made.remove.get(part.group, 0) <= part.high


@given(vector=st.lists(st.floats(0, 1), min_size=10, max_size=10), sparsity=st.floats(0.35, 0.6))
def test_a_narrowed_space_meets_its_budget_too(vector: list[float], sparsity: float) -> None:
    narrow = MADE.narrowed(np.full(10, 0.33), np.full(10, 0.67))
    made = narrow.realised(np.array(vector), sparsity)
    assert abs(MADE.removed(made) - round(sparsity * MADE.prunable)) <= 7 / 2 + 1e-9
    for part in narrow.parts:
        assert part.low <= made.remove.get(part.group, 0) <= part.high


def test_what_meets_the_budget_already_is_left_as_it_is() -> None:
    made = Architecture({"head.1": 2, "neuron.0": 30, "neuron.4": 11})
    assert dict(MADE.realised(MADE.vector(made), MADE.sparsity(made)).remove) == dict(made.remove)
    assert dict(MADE.realised(MADE.vector(made)).remove) == dict(made.remove)


def test_the_budget_counts_the_parameters_that_the_mask_really_removes(tiny: Model) -> None:
    from graphprune.methods import Recipe
    from graphprune.pruning import Evidence, apply

    space = Space.of(tiny)
    made = space.realised(np.linspace(0.6, 0.0, len(space)), 0.3)
    cutting = apply(Recipe.of("magnitude"), 0.3, Evidence(tiny), remove=made.remove)
    assert cutting.mask.removed_parameters(tiny.units) == space.removed(made)
    assert abs(space.removed(made) - 0.3 * space.prunable) <= 384 / 2


def test_two_architectures_have_one_key_exactly_if_they_remove_the_same() -> None:
    first, same = Architecture({"head.0": 1, "neuron.1": 3}), Architecture({"neuron.1": 3, "neuron.2": 0, "head.0": 1})
    assert first.key == same.key
    assert first.key != Architecture({"head.0": 1, "neuron.1": 4}).key


def test_a_protected_block_loses_nothing_and_still_counts(tiny: Model) -> None:
    space, whole = Space.of(tiny, protected=(0, 5)), Space.of(tiny)
    assert space.prunable == whole.prunable
    assert {part.layer for part in space.parts} == {1, 2, 3, 4}
    made = space.realised(np.zeros(len(space)), 0.2)
    assert {int(group.split(".")[1]) for group in made.remove} == {1, 2, 3, 4}
    with pytest.raises(InputError, match=r"neuron\.0 may not lose anything"):
        space.vector(Architecture({"neuron.0": 1}))


def test_a_budget_that_no_allocation_meets_names_the_nearest(tiny: Model) -> None:
    with pytest.raises(InfeasibleError, match=r"sparsity 0.9 is out of reach.*nearest is 0\.6323"):
        Space.of(tiny, protected=(0, 5)).check_reachable(0.9)
    narrow = MADE.narrowed(np.full(10, 0.5), np.full(10, 0.9))
    with pytest.raises(InfeasibleError, match="nearest is"):
        narrow.check_reachable(0.05)
    with pytest.raises(InputError, match="between 0 and 1, not nan"):
        MADE.check_reachable(float("nan"))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"protected": (6,)}, "block 6 can't be protected.*0 to 5"),
        ({"protected": range(6)}, "nothing may go"),
        ({"most": 0.0}, "above 0 and at most 1, not 0"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(tiny: Model, choice: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Space.of(tiny, **choice)  # type: ignore[arg-type]


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_gives_different_architectures_on_the_budget_and_the_same_for_a_seed(design: str) -> None:
    drawn = sampled(MADE, 20, design=design, sparsity=0.3, seed=1)
    assert len({made.key for made in drawn}) == 20
    assert all(abs(MADE.removed(made) - 0.3 * MADE.prunable) <= 4 for made in drawn)
    assert drawn == sampled(MADE, 20, design=design, sparsity=0.3, seed=1)
    assert drawn != sampled(MADE, 20, design=design, sparsity=0.3, seed=2)


def test_tied_blocks_lose_the_same_share_and_three_quarters_of_the_papers_are_tied() -> None:
    space = Space(tuple(Part(f"neuron.{layer}", layer, 7, 60, 0, 59) for layer in range(16)), 16 * 420)

    def is_tied(made: Architecture) -> bool:
        vector = space.vector(made)
        return all(
            abs(vector[i] - vector[j]) < 0.01
            for i in range(len(space))
            for j in range(len(space))
            if space.parts[i].layer // ADJACENT == space.parts[j].layer // ADJACENT
        )

    assert all(is_tied(made) for made in sampled(space, 12, design="tied"))
    paper = sampled(space, 21, design="paper")
    assert sum(is_tied(made) for made in paper[:16]) == 16
    assert not any(is_tied(made) for made in paper[16:])


def test_a_filling_design_covers_each_axis_evenly(tiny: Model) -> None:
    space = Space.of(tiny, Cut(units="neuron"))
    for design in ("sobol", "latin"):
        vectors = space.vectors(sampled(space, 32, design=design))
        for column in vectors.T:
            counts, _ = np.histogram(column, bins=8, range=(0, 0.5))
            assert counts.min() >= 3, design
            assert counts.max() <= 5, design


def test_a_draw_that_can_not_be_had_is_refused() -> None:
    few = Space((Part("head.0", 0, 100, 3, 0, 2),), 300)
    with pytest.raises(InputError, match="only 2 different architectures were found, not 5"):
        sampled(few, 5, design="sobol")
    with pytest.raises(InputError, match="no design is named 'grid'"):
        sampled(MADE, 5, design="grid")
    with pytest.raises(InputError, match="at least 1 architecture"):
        sampled(MADE, 0)

"""Masks as sets of what they remove, against Python's sets; and why a unit goes."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.masks.algebra import complement, diff, explain, intersection, losses, union
from graphprune.methods import Cut
from graphprune.pruning import cut
from tests.families import decoder, perceptron

DECODER, PERCEPTRON = decoder("llama"), perceptron((6, 10, 10, 4))
Q = "weight.model.layers.0.self_attn.q_proj.weight"


def made(gone: Mapping[str, list[int]], method: str = "test") -> Mask:
    """A mask of the decoder that removes some units; key/value heads follow the query heads."""
    keep = dict(Mask.full(DECODER.units).keep)
    for name, positions in gone.items():
        keep[name] = keep[name].index_fill(0, torch.tensor(positions, dtype=torch.long), value=False)
    for layer in range(2):
        keep[f"kv_head.{layer}"] = keep[f"head.{layer}"].view(2, 2).any(dim=1)
    mask = Mask(keep, method, {}, DECODER.identity)
    mask.check_legal(DECODER.units)
    return mask


def removed(mask: Mask) -> set[tuple[str, int]]:
    return {(name, i) for name, keep in mask.keep.items() for i, stays in enumerate(keep.tolist()) if not stays}


def neurons(mask: Mask) -> set[tuple[str, int]]:
    return {unit for unit in removed(mask) if unit[0].startswith("neuron")}


layers = st.fixed_dictionaries(
    {
        "head.0": st.sampled_from([[], [0, 1], [2, 3], [0, 1, 2, 3]]),
        "head.1": st.sampled_from([[], [0, 1], [2, 3]]),
        "neuron.0": st.lists(st.integers(0, 23), unique=True),
        "neuron.1": st.lists(st.integers(0, 23), unique=True),
    }
)


@given(layers, layers, layers)
def test_masks_are_sets_of_what_they_remove(
    a: dict[str, list[int]], b: dict[str, list[int]], c: dict[str, list[int]]
) -> None:
    first, second, third = made(a), made(b), made(c)
    assert removed(union(first, second, third)) == removed(first) | removed(second) | removed(third)
    assert removed(intersection(first, second, third)) == removed(first) & removed(second) & removed(third)
    everything = {(group.name, i) for group in DECODER.units for i in range(group.size)}
    assert removed(complement(first)) == everything - removed(first)
    assert removed(complement(complement(first))) == removed(first)
    assert removed(complement(union(first, second))) == removed(intersection(complement(first), complement(second)))
    for mask in (union(first, second), intersection(first, second), complement(first)):
        mask.check_legal(DECODER.units)


@given(layers, layers)
def test_a_difference_counts_what_sets_count(a: dict[str, list[int]], b: dict[str, list[int]]) -> None:
    first, second = removed(made(a)), removed(made(b))
    found = diff(made(a), made(b))
    listed = [
        {(name, int(i)) for name, units in side.items() for i in units}
        for side in (found.only_first, found.only_second)
    ]
    assert listed == [first - second, second - first]
    for kind, overlap in found.kinds.items():
        mine, its = ({unit for unit in units if unit[0].split(".")[0] == kind} for units in (first, second))
        assert (overlap.both, overlap.only_first, overlap.only_second) == (
            len(mine & its),
            len(mine - its),
            len(its - mine),
        )
        assert overlap.both + overlap.only_first + overlap.only_second + overlap.neither == sum(
            group.size for group in DECODER.units.of_kind(kind)
        )
        assert overlap.jaccard == (len(mine & its) / len(mine | its) if mine | its else None)


def test_what_a_result_was_made_of_is_written_down() -> None:
    mask = union(made({"neuron.0": [1]}, "wanda"), made({"neuron.0": [2]}, "random"))
    assert mask.method == "union"
    assert [part["method"] for part in mask.options["of"]] == ["wanda", "random"]
    assert mask.model == DECODER.identity


def test_heads_that_would_be_left_unequally_are_refused_and_neurons_alone_are_not() -> None:
    first, second = made({"head.0": [0, 2], "neuron.0": [1]}), made({"head.0": [1, 2], "neuron.0": [2]})
    with pytest.raises(InputError, match="intersection would leave 1 and 2 query heads to key/value heads of block 0"):
        intersection(first, second)
    assert neurons(union(first, second, kinds=["neuron"])) == {("neuron.0", 1), ("neuron.0", 2)}
    kept = union(first, second, kinds=["neuron"])
    assert removed(kept) - neurons(kept) == removed(first) - neurons(first)


def test_a_key_value_head_goes_when_two_masks_together_take_its_query_heads() -> None:
    mask = union(made({"head.0": [0, 2]}), made({"head.0": [1, 3]}))
    assert not mask.keep["head.0"].any()
    assert not mask.keep["kv_head.0"].any()


def weights(gone: list[int]) -> Mask:
    keep = torch.ones(DECODER.shapes[Q.removeprefix("weight.")], dtype=torch.bool)
    keep.view(-1)[gone] = False
    return made({}).with_weights({Q.removeprefix("weight."): keep})


def test_single_weights_are_combined_alike_and_units_stay() -> None:
    first, second, units = weights([0, 1]), weights([1, 2]), made({"neuron.0": [3]})

    def gone(mask: Mask) -> list[int]:
        return (~mask.keep[Q]).view(-1).nonzero()[:, 0].tolist()

    assert gone(union(first, second)) == [0, 1, 2]
    assert gone(intersection(first, second)) == [1]
    assert gone(complement(first)) == [*range(2, first.keep[Q].numel())]
    assert not removed(replaced_without_weights(complement(first)))
    assert gone(union(first, units)) == [0, 1]
    assert neurons(replaced_without_weights(union(first, units))) == {("neuron.0", 3)}
    assert Q not in intersection(first, units).keep
    with pytest.raises(InputError, match="units and single weights"):
        complement(union(first, units))


def replaced_without_weights(mask: Mask) -> Mask:
    return Mask({name: keep for name, keep in mask.keep.items() if not name.startswith("weight.")})


def test_masks_of_different_models_are_refused() -> None:
    other = Mask(made({}).keep, "test", {}, "another")
    perceptrons = Mask.full(PERCEPTRON.units)
    for operation in (union, intersection, diff):
        with pytest.raises(InputError, match="different models"):
            operation(made({}), other)
        with pytest.raises(InputError, match="different models"):
            operation(Mask(made({}).keep), perceptrons)
    with pytest.raises(InputError, match="no masks"):
        union()
    with pytest.raises(InputError, match="'kv_head'"):
        complement(made({}), kinds=["kv_head"])


def test_losses_add_up_to_the_parameters_that_go() -> None:
    mask = made({"head.1": [0, 1], "neuron.0": [5, 6]})
    found = losses(mask, DECODER.units)
    assert sum(loss.parameters for loss in found) == mask.removed_parameters(DECODER.units)
    assert {loss.group: loss.removed for loss in found if loss.removed} == {"head.1": 2, "kv_head.1": 1, "neuron.0": 2}
    (single,) = (loss for loss in losses(weights([0, 1, 5]), DECODER.units) if loss.kind == "weight")
    assert (single.group, single.removed, single.parameters) == (Q, 3, 3)


@pytest.fixture(scope="module")
def scores() -> Scores:
    generator = torch.Generator().manual_seed(0)
    groups = DECODER.units.of_kind("head", "neuron")
    return Scores({g.name: torch.rand(g.size, generator=generator) for g in groups}, "test", {}, DECODER.identity)


@pytest.mark.parametrize("head_mode", ["group", "balanced"])
def test_scores_explain_every_unit_of_the_mask_that_they_made(scores: Scores, head_mode: str) -> None:
    mask = cut(DECODER, scores, 0.4, Cut(head_mode=head_mode))  # type: ignore[arg-type]
    for group in DECODER.units.of_kind("head", "neuron"):
        for position in range(group.size):
            reason = explain(mask, DECODER.units, f"{group.name}.{position}", scores)
            assert reason.goes == (not mask.keep[group.name][position])
            assert reason.explained
            assert reason.unit in reason.members


def test_a_reason_names_score_rank_threshold_and_allocation(scores: Scores) -> None:
    order = scores.values["neuron.1"].argsort().tolist()
    mask = made({"neuron.1": order[:5]})
    reason = explain(mask, DECODER.units, f"neuron.1.{order[2]}", scores)
    assert (reason.goes, reason.rank, reason.allocated, reason.pieces) == (True, 3, 5, 24)
    assert reason.score == pytest.approx(float(scores.values["neuron.1"][order[2]]))
    assert reason.threshold == pytest.approx(float(scores.values["neuron.1"][order[4]]))
    assert reason.parameters == DECODER.units["neuron.1"].parameters_per_unit
    assert "number 3 from below" in reason.sentence
    assert "5 of the 24" in reason.sentence


def test_heads_that_go_together_are_named_with_the_score_of_all(scores: Scores) -> None:
    reason = explain(made({"head.0": [2, 3]}), DECODER.units, "head.0.3", scores)
    assert reason.members == ("head.0.2", "head.0.3")
    assert reason.score == pytest.approx(float(scores.values["head.0"][2:].sum()))
    assert "together with head.0.2" in reason.sentence


def test_scores_of_another_mask_are_said_not_to_explain_it(scores: Scores) -> None:
    best = int(scores.values["neuron.0"].argmax())
    reason = explain(made({"neuron.0": [best]}), DECODER.units, f"neuron.0.{best}", scores)
    assert reason.explained is False
    assert "don't say why" in reason.sentence


def test_without_scores_a_reason_says_how_many_go(scores: Scores) -> None:
    reason = explain(made({"neuron.0": [1, 2]}), DECODER.units, "neuron.0.3")
    assert (reason.goes, reason.allocated, reason.rank, reason.score) == (False, 2, None, None)
    assert "no scores tell" in reason.sentence
    for unit in ("neuron.0.24", "neuron.7.0", "kv_head.0.0", "neuron.0", "neuron.0.-1", "x"):
        with pytest.raises(InputError, match="no head or neuron"):
            explain(made({}), DECODER.units, unit, scores)
    partial = Scores({"head.0": scores.values["head.0"]}, "heads alone")
    with pytest.raises(InputError, match="heads alone have none of neurons"):
        explain(made({}), DECODER.units, "neuron.0.0", partial)

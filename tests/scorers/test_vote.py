"""Votes, counted by hand and by sets."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from graphprune import prune, score
from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.scorers.vote import Rule, vote
from tests.families import decoder
from tests.unchecked import unchecked

RULES: tuple[Rule, ...] = ("rank", "borda", "intersection", "union")


def scores(method: str, model: str = "m", **groups: list[float]) -> Scores:
    values = {name.replace("_", "."): torch.tensor(row) for name, row in groups.items()}
    return Scores(values, method, {}, model)


def random(n: int, *, seed: int, layers: int = 1) -> Scores:
    rows = np.random.default_rng(seed).random((layers, n))
    return scores(f"voter {seed}", **{f"neuron_{i}": row.tolist() for i, row in enumerate(rows)})


def test_a_vote_counted_by_hand() -> None:
    one, other = scores("a", neuron_0=[1.0, 2.0, 3.0, 3.0]), scores("b", neuron_0=[40.0, 10.0, 20.0, 30.0])
    wanted = {
        "rank": [(0 + 3) / 6, (1 + 0) / 6, (2.5 + 1) / 6, (2.5 + 2) / 6],
        "borda": [(0 + 3) / 6, (1 + 0) / 6, (2 + 1) / 6, (2 + 2) / 6],
        "intersection": [1, 1 / 3, 2.5 / 3, 2.5 / 3],
        "union": [0, 0, 1 / 3, 2 / 3],
    }
    for rule in RULES:
        found = vote([one, other], rule=rule)
        torch.testing.assert_close(found.values["neuron.0"], torch.tensor(wanted[rule], dtype=torch.float32))
        assert found.method == "vote"
        assert found.options["rule"] == rule
        assert [part["method"] for part in found.options["of"]] == ["a", "b"]


def test_points_and_mean_ranks_order_alike_without_ties() -> None:
    voters = [random(50, seed=seed) for seed in range(4)]
    by_rank, by_points = (vote(voters, rule=rule).values["neuron.0"] for rule in ("rank", "borda"))
    torch.testing.assert_close(by_rank, by_points)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_below_a_threshold_is_what_all_or_what_any_have_below_it(threshold: float) -> None:
    voters = [random(60, seed=seed) for seed in range(3)]
    below = [set(np.flatnonzero((rankdata(v.values["neuron.0"]) - 1) / 59 < threshold)) for v in voters]
    for rule, wanted in (("intersection", set.intersection(*below)), ("union", set.union(*below))):
        found = vote(voters, rule=rule).values["neuron.0"]  # type: ignore[arg-type]
        assert set(np.flatnonzero(found < np.float32(threshold) - 1e-6)) == wanted


def test_units_are_ranked_within_their_layer_or_among_their_kind() -> None:
    one = scores("a", neuron_0=[1.0, 2.0], neuron_1=[3.0, 4.0], head_0=[9.0, 8.0])
    other = scores("b", neuron_0=[10.0, 20.0], neuron_1=[30.0, 40.0], head_0=[1.0, 0.5])
    by_layer, by_kind = vote([one, other]), vote([one, other], per="kind")
    assert by_layer.values["neuron.0"].tolist() == by_layer.values["neuron.1"].tolist() == [0, 1]
    torch.testing.assert_close(by_kind.values["neuron.1"], torch.tensor([2 / 3, 1.0]))
    assert by_kind.values["head.0"].tolist() == [1, 0]


def test_only_what_all_have_scores_of_is_voted_on() -> None:
    one = scores("a", neuron_0=[1.0, 2.0], head_0=[1.0, 2.0], resid_0=[1.0])
    other = scores("b", neuron_0=[1.0, 2.0], resid_0=[2.0])
    assert vote([one, other]).values.keys() == {"neuron.0"}


def test_a_vote_prunes_like_any_other_scores() -> None:
    model = decoder("llama")
    voters = [score(model, name) for name in ("random", "magnitude")]
    decided = vote(voters)
    mask = prune(model, decided, 0.3, units="neuron").mask
    gone = (~mask.keep["neuron.0"]).nonzero()[:, 0].tolist()
    assert sorted(decided.values["neuron.0"].argsort(stable=True)[: len(gone)].tolist()) == gone
    assert len(gone) > 2
    assert mask.method == "vote"


def test_what_is_no_vote_is_refused() -> None:
    one, flat = scores("a", neuron_0=[1.0, 2.0]), scores("flat", neuron_0=[1.0, 1.0])
    for voters, said in (
        ([one], "two scorers or more"),
        ([one, scores("b", head_0=[1.0, 2.0])], "no kind of them is scored by all"),
        ([one, scores("b", "other", neuron_0=[1.0, 2.0])], "b are of another model than those of a"),
        ([one, scores("b", neuron_0=[1.0, 2.0, 3.0])], r"b lack neuron\.0, or have another number"),
        ([one, scores("b", neuron_1=[1.0, 2.0])], r"b lack neuron\.0"),
        ([one, flat], "flat are the same for all units"),
    ):
        with pytest.raises(InputError, match=said):
            vote(voters)
    with unchecked():
        with pytest.raises(InputError, match="'loudest'"):
            vote([one, one], rule="loudest")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="per layer or kind"):
            vote([one, one], per="model")  # type: ignore[arg-type]

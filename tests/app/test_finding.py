"""Queries for units."""

import numpy as np
import pytest
import torch

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.explorer.finding import Query, Range, Units

SIZES = {"neuron.0": 4, "neuron.1": 4, "head.0": 2, "resid.2": 3, "resid.3": 3}
SCORES = Scores(
    {
        "neuron.0": torch.tensor([0.1, 0.4, 0.2, 0.3]),
        "neuron.1": torch.tensor([1e-5, 0.875, 0.95, -1.0]),
        "head.0": torch.tensor([5.0, 6.0]),
    },
    "made up",
)
UNITS = Units.of(SIZES, SCORES)


def found(query: str) -> list[str]:
    names: list[str] = Query.parse(query).among(UNITS, "made up").column("unit").values.tolist()
    return names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("neuron block:1 score:>0.9", ["neuron.1.2"]),
        ("neurons block:1 score:>=0.875", ["neuron.1.2", "neuron.1.1"]),
        ("head", ["head.0.1", "head.0.0"]),
        ("stream block:1 index:0", ["resid.2.0", "resid.3.0"]),
        ("score:1e-6..1e-4", ["neuron.1.0"]),
        ("score:<0", ["neuron.1.3"]),
        ("neuron.0.3", ["neuron.0.3"]),
        ("NEURON.0", ["neuron.0.1", "neuron.0.3", "neuron.0.2", "neuron.0.0"]),
        ("resid.3 index:1..2", ["resid.3.1", "resid.3.2"]),
        ("neuron head block:0 place:100", ["head.0.1", "neuron.0.1"]),
        ("index:=3 block:<1", ["neuron.0.3"]),
    ],
)
def test_a_query_finds_what_it_describes_best_scores_first(query: str, names: list[str]) -> None:
    assert found(query) == names


@pytest.mark.parametrize(
    "query", ["neurn", "block:x", "block:", "score:0.1-0.5", "size:3", "head.x", "block:1..", "≥3"]
)
def test_a_word_that_is_not_understood_is_named(query: str) -> None:
    with pytest.raises(InputError, match=r"is not understood\. Words"):
        Query.parse(f"neuron {query}")


def test_where_nothing_is_found_the_query_is_said_in_words() -> None:
    with pytest.raises(InputError, match="no unit of heads, block from 2 to 5, score above 7"):
        found("head block:2..5 score:>7")


def test_units_without_scores_are_found_by_name_alone() -> None:
    units = Units.of(SIZES, None)
    assert len(Query.parse("neuron index:1").among(units, "")) == 2
    with pytest.raises(InputError, match="no unit"):
        Query.parse("score:>0").among(units, "")


def test_a_place_is_the_share_of_the_group_that_scores_lower() -> None:
    np.testing.assert_allclose(UNITS.place[:4], [0, 100, 100 / 3, 200 / 3])
    assert str(Range.parse("<=3")) == "at most 3"

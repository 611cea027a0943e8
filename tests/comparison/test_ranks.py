"""Rank statistics against SciPy and against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from graphprune.comparison.ranks import (
    clustered_order,
    jaccard,
    kendall,
    persistence,
    rank_biased_overlap,
    removal_places,
    removed_counts,
    spearman,
)
from tests.oracles import ranks as oracle

TIED = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 5).map(float), min_size=n, max_size=n), min_size=2, max_size=4)
)


@given(TIED)
def test_correlations_are_those_of_scipy_also_with_ties(rows: list[list[float]]) -> None:
    scores = np.array(rows)
    for found, wanted in ((spearman(scores), spearmanr), (kendall(scores), kendalltau)):
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if len(set(a)) == 1 or len(set(b)) == 1:
                    assert np.isnan(found[i, j])
                else:
                    assert found[i, j] == pytest.approx(wanted(a, b).statistic, abs=1e-12)


@given(TIED, st.floats(0.05, 0.99))
def test_rank_biased_overlap_is_that_of_its_definition(rows: list[list[float]], p: float) -> None:
    scores = np.array(rows)
    found = rank_biased_overlap(scores, p)
    kept = rank_biased_overlap(scores, p, end="kept")
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if i != j:
                assert found[i, j] == pytest.approx(oracle.overlap(a, b, p), abs=1e-12)
                assert kept[i, j] == pytest.approx(oracle.overlap([-x for x in a], [-x for x in b], p), abs=1e-12)


def test_rank_biased_overlap_looks_at_what_goes_first() -> None:
    scores = np.array([[1.0, 2, 3, 4, 5, 6], [1, 2, 3, 6, 5, 4], [3, 2, 1, 4, 5, 6]])
    found = rank_biased_overlap(scores, 0.7)
    assert found[0, 1] > 0.9 > found[0, 2]
    kept = rank_biased_overlap(scores, 0.7, end="kept")
    assert kept[0, 2] > 0.9 > kept[0, 1]


def test_rank_biased_overlap_by_hand() -> None:
    """Agreements 0, 1, 1 of two lists that begin the other way round."""
    found = rank_biased_overlap(np.array([[1.0, 2, 3], [2.0, 1, 3]]), 0.5)
    assert found[0, 1] == pytest.approx(0.5 * (0 + 0.5 + 0.25) + 0.125)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_a_persistence_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        rank_biased_overlap(np.zeros((2, 3)), p)


def test_the_default_persistence_reads_a_tenth() -> None:
    assert 1 / (1 - persistence(1000)) == pytest.approx(100)
    assert persistence(3) == 0.5


@given(TIED, st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=1, unique=True))
def test_overlap_of_sets_is_that_of_sets(rows: list[list[float]], budgets: list[float]) -> None:
    scores, n = np.array(rows), len(rows[0])
    found = jaccard(scores, tuple(budgets))
    for at, count in enumerate(removed_counts(n, tuple(budgets))):
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                assert found[i, j, at] == pytest.approx(oracle.jaccard(a, b, int(count)))


def test_what_is_kept_is_what_is_not_removed() -> None:
    scores = np.array([[1.0, 1, 2, 2, 3, 4, 5, 6], [6.0, 5, 4, 4, 4, 3, 2, 1]])
    budgets = (0.25, 0.5, 0.75)
    kept = jaccard(scores, budgets, end="kept")[0, 1]
    places = removal_places(scores)
    for at, count in enumerate(removed_counts(8, budgets)):
        a, b = ({*np.flatnonzero(row >= count)} for row in places)
        assert kept[at] == len(a & b) / len(a | b)


def test_units_go_lowest_first_and_ties_by_lower_id() -> None:
    assert removal_places(np.array([[2.0, 1.0, 2.0, 0.0, 1.0]])).tolist() == [[3, 1, 4, 0, 2]]


def test_a_scorer_without_an_order_is_last() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 50))
    order = clustered_order(spearman(np.stack([a, np.ones(50), b, a + 0.1 * b, b + 0.1 * a])))
    assert order[-1] == 1
    assert {tuple(sorted(order[:2])), tuple(sorted(order[2:4]))} == {(0, 3), (2, 4)}

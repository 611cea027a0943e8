"""Which single weights stay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.core.pattern import Pattern
from graphprune.masks import weights
from graphprune.masks.weights import keep_highest, keep_pattern
from tests.unchecked import unchecked

ROWS, COLUMNS = 5, 8
PATTERNS = [Pattern(1, 2), Pattern(2, 4), Pattern(1, 4), Pattern(3, 4), Pattern(4, 8)]
tied = st.lists(st.integers(-1, 2), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS)
counts = st.integers(0, ROWS * COLUMNS)


def matrix(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(ROWS, COLUMNS)


def lowest(row: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(row)), key=lambda i: (row[i], i))[:count])


@given(tied, counts)
def test_the_lowest_of_the_matrix_go_and_ties_go_by_lower_id_as_sorted_says(values: list[int], n_removed: int) -> None:
    keep = keep_highest(matrix(values), n_removed, per="matrix")
    assert (~keep).view(-1).nonzero()[:, 0].tolist() == lowest([float(x) for x in values], n_removed)


@given(tied, counts)
def test_the_lowest_of_each_row_go_and_rows_lose_alike(values: list[int], n_removed: int) -> None:
    scores = matrix(values)
    gone = ~keep_highest(scores, n_removed, per="row")
    assert int(gone.sum()) == n_removed
    for row, lost in zip(scores.tolist(), gone, strict=True):
        assert int(lost.sum()) in {n_removed // ROWS, -(-n_removed // ROWS)}
        assert lost.nonzero()[:, 0].tolist() == lowest(row, int(lost.sum()))


@pytest.mark.parametrize("per", ["matrix", "row"])
@given(tied, counts)
def test_masks_are_nested_in_the_count(per: weights.Comparison, values: list[int], n_removed: int) -> None:
    more = keep_highest(matrix(values), n_removed, per=per)
    fewer = keep_highest(matrix(values), n_removed // 2, per=per)
    assert bool((fewer | ~more).all())


def test_a_row_is_compared_with_itself_alone() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert keep_highest(scores, 4, per="matrix").tolist() == [[False] * 4, [True] * 4]
    assert keep_highest(scores, 4, per="row").tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("rows", [8, 13])
def test_rows_that_lose_one_more_are_spread_evenly(rows: int) -> None:
    for more in range(1, rows):
        gone = ~keep_highest(torch.rand(rows, 6), 2 * rows + more, per="row")
        extra = (gone.sum(dim=1) - 2).cumsum(dim=0)
        even = torch.arange(1, rows + 1) * more / rows
        assert (extra - even).abs().max() < 2


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@given(tied)
def test_a_pattern_holds_in_every_group_and_ties_go_by_lower_id(pattern: Pattern, values: list[int]) -> None:
    scores = matrix(values)
    keep = keep_pattern(scores, pattern)
    groups = zip(scores.view(-1, pattern.of).tolist(), keep.view(-1, pattern.of), strict=True)
    for group, stays in groups:
        assert int(stays.sum()) == pattern.stay
        assert (~stays).nonzero()[:, 0].tolist() == lowest(group, pattern.of - pattern.stay)
    assert float((~keep).float().mean()) == pattern.sparsity


def test_it_does_not_matter_how_many_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randint(4, (9, 8), generator=torch.Generator().manual_seed(0)).float()
    whole = [keep_highest(scores, 31, per="row"), keep_pattern(scores, Pattern(2, 4))]
    monkeypatch.setattr(weights, "CHUNK", 12)
    parts = [keep_highest(scores, 31, per="row"), keep_pattern(scores, Pattern(2, 4))]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_infinite_scores_have_an_order_and_nan_has_none() -> None:
    scores = torch.tensor([[torch.inf, 1.0, -torch.inf, torch.inf]])
    assert keep_highest(scores, 3, per="matrix").tolist() == [[False, False, False, True]]
    scores[0, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        keep_highest(scores, 1, per="row")
    with pytest.raises(ValueError, match="NaN"):
        keep_pattern(scores, Pattern(2, 4))


def test_what_cannot_be_removed_is_refused() -> None:
    scores = torch.ones(2, 6)
    for n_removed in (-1, 13):
        with pytest.raises(ValueError, match=f"{n_removed} of 12 weights can't be removed"):
            keep_highest(scores, n_removed, per="matrix")
    with unchecked(), pytest.raises(ValueError, match="per matrix or row, not 'column'"):
        keep_highest(scores, 1, per="column")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="6 wide, which 4 doesn't divide: it can't be pruned 2:4"):
        keep_pattern(scores, Pattern(2, 4))
    assert keep_highest(torch.ones(0, 4), 0, per="row").shape == (0, 4)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_pattern_is_read_as_it_is_written(pattern: Pattern) -> None:
    assert Pattern.parse(str(pattern)) == pattern
    assert pattern.sparsity == 1 - pattern.stay / pattern.of


@pytest.mark.parametrize(
    "text",
    ["4:2", "4:4", "0:4", "2-4", "2:", ":4", "2:4:8", "-1:4", " 2:4", "2:4\n", "02:4", "a:b", "", "1:" + "9" * 5000],
)
def test_what_is_no_pattern_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="as 2:4; not") as error:
        Pattern.parse(text)
    assert text in str(error.value)


def test_a_pattern_names_the_parameter_that_it_does_not_fit() -> None:
    Pattern(2, 4).check(16, "mlp.weight")
    with pytest.raises(InputError, match=r"mlp\.weight is 18 wide, which 4 doesn't divide"):
        Pattern(2, 4).check(18, "mlp.weight")
    with pytest.raises(InputError, match="not 3:2"):
        Pattern(3, 2)

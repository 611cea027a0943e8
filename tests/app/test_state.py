"""The address holds the whole state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.explorer.state import VIEWS, State


@given(
    view=st.sampled_from(VIEWS),
    score=st.text(max_size=20),
    unit=st.text(max_size=20),
    sparsity=st.floats(0, 1),
    n=st.integers(1, 200),
    theme=st.sampled_from(["light", "dark"]),
)
def test_what_an_address_says_is_what_is_read_from_it(
    view: str, score: str, unit: str, sparsity: float, n: int, theme: str
) -> None:
    state = State(view=view, score=score, unit=unit, sparsity=sparsity, n=n, theme=theme)
    assert State.parse(state.query()) == state


def test_the_first_page_has_a_plain_address() -> None:
    assert State().query() == ""
    assert State.parse(None) == State.parse("?") == State()


def test_only_what_differs_from_the_first_page_is_in_the_address() -> None:
    assert State(view="graph", unit="neuron.3.17").query() == "?view=graph&unit=neuron.3.17"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?view=nothing", "overview"),
        ("?sparsity=2", "between 0 and 1"),
        ("?sparsity=much", "no number"),
        ("?sparsity=nan", "between"),
        ("?n=0", "between 1 and 200"),
        (f"?edit={'x' * 5000}", "4000"),
    ],
)
def test_a_link_that_cannot_be_shown_says_why(query: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        State.parse(query)


def test_what_is_no_field_is_left_out() -> None:
    assert State.parse("?utm_source=mail&unit=head.0") == State(unit="head.0")

"""Results as lines of a file that may have been killed while it was written."""

import json
from math import inf
from pathlib import Path

import pytest

from graphprune.core.errors import FormatError
from graphprune.studies.store import Result, ResultWarning, Store

RESULTS = (
    Result("a", {"perplexity.text": 31.5, "acc.piqa": 0.5}, 0.2, 0.15, 1.25),
    Result("b", {"perplexity.text": inf}, 0.4, 0.3, 2.0),
    Result("c", refused="the floors don't allow that much"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "study" / "results.jsonl")
    assert store.results() == {}
    for result in RESULTS:
        store.append(result, {"method": "wanda"})
    return store


def test_results_come_back_as_they_were(store: Store) -> None:
    assert store.results() == {result.key: result for result in RESULTS}
    lines = [json.loads(line) for line in store.path.read_text().splitlines()]
    assert [line["method"] for line in lines] == ["wanda"] * 3
    assert lines[1]["quality"] == {"perplexity.text": None}


def test_half_a_line_costs_one_result_and_the_next_starts_anew(store: Store) -> None:
    content = store.path.read_bytes()
    store.path.write_bytes(content[:-20])
    with pytest.warns(ResultWarning, match=r"line 3 of .* is skipped"):
        assert list(store.results()) == ["a", "b"]
    store.append(RESULTS[2], {})
    with pytest.warns(ResultWarning):
        assert list(store.results()) == ["a", "b", "c"]


def test_results_of_a_newer_version_are_refused(store: Store) -> None:
    store.path.write_text(store.path.read_text().replace('"version":1', '"version":2'))
    with pytest.raises(FormatError, match="of version 2; this program reads up to 1"):
        store.results()

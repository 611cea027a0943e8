"""Tables that page on the server."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from graphprune.core.errors import InputError
from graphprune.explorer import create_app
from graphprune.explorer.data import RunData
from graphprune.explorer.state import State
from graphprune.explorer.tables import PAGE, Column, Table, of_rows
from graphprune.explorer.views import TABLES

HOST = {"Host": "127.0.0.1:8050"}
SMALL = Table(
    (
        Column("name", "name", np.array(["b", "A", "c", "Ab", ""])),
        Column("size", "its size", np.array([2.0, 1.0, 2.0, np.nan, -1.5])),
    )
)


def names(**request: Any) -> list[str]:
    return [row["name"] for row in SMALL.page(request)["rowData"]]


def number(what: str, x: float, to: float | None = None) -> dict[str, Any]:
    return {"filterModel": {"size": {"filterType": "number", "type": what, "filter": x, "filterTo": to}}}


def text(what: str, x: str) -> dict[str, Any]:
    return {"filterModel": {"name": {"filterType": "text", "type": what, "filter": x}}}


def test_rows_are_sorted_and_those_that_tie_keep_their_order() -> None:
    assert names(sortModel=[{"colId": "size", "sort": "asc"}])[:4] == ["", "A", "b", "c"]
    assert names(sortModel=[{"colId": "size", "sort": "desc"}])[1:] == ["b", "c", "A", ""]
    by_both = [{"colId": "size", "sort": "asc"}, {"colId": "name", "sort": "desc"}]
    assert names(sortModel=by_both)[:4] == ["", "A", "c", "b"]


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (number("equals", 2), ["b", "c"]),
        (number("notEqual", 2), ["A", "Ab", ""]),
        (number("lessThan", 1), [""]),
        (number("lessThanOrEqual", 1), ["A", ""]),
        (number("greaterThan", 1), ["b", "c"]),
        (number("greaterThanOrEqual", 1), ["b", "A", "c"]),
        (number("inRange", 0, 1), ["A"]),
        (number("blank", 0), ["Ab"]),
        (number("notBlank", 0), ["b", "A", "c", ""]),
        (text("contains", "B"), ["b", "Ab"]),
        (text("notContains", "b"), ["A", "c", ""]),
        (text("equals", "a"), ["A"]),
        (text("notEqual", "a"), ["b", "c", "Ab", ""]),
        (text("startsWith", "a"), ["A", "Ab"]),
        (text("endsWith", "b"), ["b", "Ab"]),
        (text("blank", ""), [""]),
    ],
)
def test_a_filter_leaves_the_rows_it_says(request_: dict[str, Any], left: list[str]) -> None:
    assert names(**request_) == left


def test_conditions_are_joined_and_columns_are_filtered_together() -> None:
    either = [{"type": "equals", "filter": 1}, {"type": "lessThan", "filter": 0}]
    assert names(filterModel={"size": {"operator": "OR", "conditions": either}}) == ["A", ""]
    assert names(filterModel={"size": {"operator": "AND", "conditions": either}}) == []
    assert names(filterModel=number("equals", 2)["filterModel"] | text("equals", "c")["filterModel"]) == ["c"]


@given(start=st.integers(0, 400))
def test_a_page_is_a_part_of_all_rows_and_never_long(start: int) -> None:
    table = Table((Column("i", "i", np.arange(333)),))
    page = table.page({"startRow": start, "endRow": 10_000})
    assert [row["i"] for row in page["rowData"]] == [*range(333)][start : start + PAGE]
    assert page["rowCount"] == 333


@pytest.mark.parametrize(
    "wrong",
    [
        {"filterModel": {"nothing": {}}},
        {"sortModel": [{"colId": "nothing"}]},
        number("like", 1),
        {"filterModel": {"size": {"type": "equals"}}},
        {"filterModel": {"size": {"type": "equals", "filter": "two"}}},
    ],
)
def test_what_a_table_cannot_do_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"column|filter"):
        SMALL.page(wrong)


def test_rows_become_columns_of_numbers_or_words() -> None:
    table = of_rows({"a": "A", "b": "B"}, [["x", 1.0], [None, None]], says="")
    assert table.page({})["rowData"] == [{"a": "x", "b": 1.0}, {"a": "", "b": None}]
    with pytest.raises(ValueError, match="at least one row"):
        of_rows({"a": "A"}, [], says="")


def test_the_units_judged_most_differently_come_first_and_all_of_them_can_be_saved(run_folder: Any) -> None:
    data = RunData(run_folder)
    state = data.resolved(State(score="wanda", against="magnitude"))
    table = TABLES["differences"](data, state)
    assert len(table) == data.units().sizes()["neuron.0"] * 6 + data.units().sizes()["head.0"] * 6
    apart = np.abs(table.column("difference").values)
    assert bool((np.diff(apart) <= 0).all())
    server: Flask = create_app(run_folder).server
    client = server.test_client()
    client.get("/", headers=HOST)
    asked = '{"filterModel":{"kind":{"type":"equals","filter":"head"}},"sortModel":[{"colId":"place_x","sort":"asc"}]}'
    answer = client.get(f"/table/differences.csv{state.query()}", headers=HOST)
    assert len(answer.text.splitlines()) == len(table) + 1
    query = {"score": "wanda", "against": "magnitude", "request": asked}
    rows = list(
        csv.DictReader(io.StringIO(client.get("/table/differences.csv", query_string=query, headers=HOST).text))
    )
    assert {row["kind"] for row in rows} == {"head"}
    places = [float(row["place by wanda, %"]) for row in rows]
    assert places == sorted(places)
    for wrong, code in (("nothing", 404), ("differences", 400)):
        refused = client.get(f"/table/{wrong}.csv", query_string={"request": '{"sortModel":[{}]}'}, headers=HOST)
        assert refused.status_code == code

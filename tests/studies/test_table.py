"""Means, deviations and what is retained, in three forms."""

import csv
import io
import json
from math import inf
from statistics import stdev

import pytest

from graphprune.methods import Recipe
from graphprune.studies.store import Result
from graphprune.studies.study import Cell, Draw
from graphprune.studies.table import Table

WANDA, RANDOM = Recipe.of("wanda"), Recipe.of("random")
DENSE = {"perplexity.text": 20.0, "acc.arc": 0.5, "acc_norm.arc": 0.4, "acc.piqa": 0.8}


def quality(perplexity: float, arc: float, piqa: float) -> dict[str, float]:
    return {"perplexity.text": perplexity, "acc.arc": arc, "acc_norm.arc": 0.2, "acc.piqa": piqa}


FOUND = [
    (Cell("m", "dense"), Result("0", DENSE)),
    (Cell("m", "wanda", WANDA, 0.2, 0, Draw()), Result("1", quality(30.0, 0.4, 0.6), 0.2, 0.1, 3.0)),
    (Cell("m", "wanda", WANDA, 0.2, 1, Draw()), Result("2", quality(33.0, 0.3, 0.6), 0.2, 0.1, 5.0)),
    (Cell("m", "wanda", WANDA, 0.4, 0, Draw()), Result("3", quality(1234.5, 0.25, 0.5), 0.4, 0.2, 1.0)),
    (Cell("m", "wanda", WANDA, 0.4, 1, Draw()), Result("4", quality(inf, 0.25, 0.5), 0.4, 0.2, 1.0)),
    (Cell("m", "random", RANDOM, 0.2, 0), Result("5", quality(80.0, 0.3, 0.5), 0.2, 0.1, 1.0)),
    (Cell("m", "random", RANDOM, 0.2, 1), Result("5", quality(80.0, 0.3, 0.5), 0.2, 0.1, 1.0)),
    (Cell("m", "random", RANDOM, 0.4, 0), Result("6", refused="no legal mask")),
]
TABLE = Table.of("title", FOUND)


def test_means_and_deviations_are_over_seeds() -> None:
    dense, first, second, random, refused = TABLE.rows
    assert dense.means == DENSE | {"retention.arc": 1, "retention_norm.arc": 1, "retention.piqa": 1, "retention": 1}
    assert (first.seeds, first.means["perplexity.text"], first.seconds) == (2, 31.5, 4.0)
    assert first.deviations["perplexity.text"] == stdev([30, 33])
    assert second.means["perplexity.text"] == inf
    assert "perplexity.text" not in second.deviations
    assert (random.seeds, random.deviations) == (1, {}), "the same result at two seeds is one"
    assert (refused.refused, refused.means) == ("no legal mask", {})


def test_retention_is_the_share_of_the_dense_models_accuracy() -> None:
    means = TABLE.rows[1].means
    assert means["retention.arc"] == pytest.approx((0.4 + 0.3) / 2 / 0.5)
    assert means["retention_norm.arc"] == pytest.approx(0.5)
    assert means["retention"] == pytest.approx((0.7 + 0.75) / 2)


def test_markdown_has_a_table_a_quality_and_a_line_a_method() -> None:
    text = TABLE.markdown()
    assert text.startswith("# title\n\n| perplexity, text | 0 | 0.2 | 0.4 | seconds |\n")
    assert "\n| wanda | 20.00 | 31.50 ± 2.12 | inf | 2.5 |\n" in text
    assert "\n| random | 20.00 | 80.00 | - | 0.5 |\n" in text
    assert "\n| wanda | 100.0% | 70.0% ± 14.1% | 50.0% ± 0.0% | 2.5 |\n" in text
    assert text.endswith("\n- random at 0.4: no legal mask\n")


def test_csv_and_json_have_a_row_a_row() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert len(rows) == 5
    assert rows[1]["perplexity.text"] == "31.5"
    assert rows[2]["perplexity.text"] == ""
    assert json.loads(json.dumps(TABLE.facts(), allow_nan=False))["rows"][0]["acc.piqa"] == 0.8


def test_lines_say_no_more_of_a_way_than_what_differs() -> None:
    other = Draw(n_samples=8)
    more = [
        *FOUND,
        (Cell("n", "dense"), Result("7", DENSE)),
        (Cell("m", "wanda", WANDA, 0.2, 0, other), Result("8", quality(29.0, 0.4, 0.6))),
    ]
    assert list(TABLE.series()) == ["wanda", "random"]
    assert list(Table.of("title", more).series()) == ["wanda, 32 samples", "random", "wanda, 8 samples"]
    both = [*FOUND, (Cell("n", "wanda", WANDA, 0.2, 0, Draw()), Result("9", DENSE))]
    assert list(Table.of("title", both).series()) == ["m, wanda", "m, random", "n, wanda"]

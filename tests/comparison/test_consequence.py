"""Consequences: curves, areas, what tells beforehand, files."""

import json
import math
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from graphprune.comparison.consequence import Consequence, Consequences, Series
from graphprune.core.errors import FormatError

PERPLEXITIES = {"a": (20.0, 40.0), "b": (30.0, 90.0), "c": (25.0, 50.0), "d": (60.0, 70.0)}
PATHS = {"a": (0.9, 0.5), "b": (0.7, 0.2), "c": (0.8, 0.4), "d": (0.6, 0.3)}


def found(**infinite: float) -> Consequences:
    rows = [
        Consequence(
            Series(name), sparsity, {"path_mass": PATHS[name][i], "credit": 0.5},
            {"perplexity": infinite.get(name, perplexities[i]), "kl": 0.1 * perplexities[i]},
        )
        for name, perplexities in PERPLEXITIES.items() for i, sparsity in enumerate((0.2, 0.4))
    ]  # fmt: skip
    rows.append(
        Consequence(
            Series("a", "graph", "obs"), 0.2, {"path_mass": 0.1, "credit": 0.5}, {"perplexity": 15.0, "kl": 1.0}
        )
    )
    return Consequences(tuple(rows), {"path_mass": 1.0, "perplexity": 10.0, "kl": 0.0}, "model", {"units": "all"}, "x")


def test_a_curve_begins_at_the_dense_model() -> None:
    assert found().curve(Series("a"), "perplexity") == {0.0: 10.0, 0.2: 20.0, 0.4: 40.0}
    assert found().curve(Series("a"), "credit") == {0.2: 0.5, 0.4: 0.5}
    assert found().curve(Series("a", "graph", "obs"), "kl") == {0.0: 0.0, 0.2: 1.0}


def test_an_area_is_the_mean_over_sparsity() -> None:
    assert found().area(Series("a"), "kl") == pytest.approx((0 + 2 * 2.0 + 4.0) / 4)
    logs = [math.log(x) for x in (10, 20, 40)]
    assert found().area(Series("a"), "perplexity") == pytest.approx((logs[0] + 2 * logs[1] + logs[2]) / 4)
    assert found().area(Series("nobody"), "credit") is None


def test_what_tells_beforehand_is_asked_at_each_sparsity() -> None:
    wanted = [
        spearmanr([x[i] for x in PATHS.values()], [x[i] for x in PERPLEXITIES.values()]).statistic for i in range(2)
    ]  # fmt: skip
    assert found().predicted_by("path_mass").value == pytest.approx(sum(wanted) / 2)
    constant = found().predicted_by("credit")
    assert constant.value is None
    assert "or are the same there" in constant.why
    assert found().predicted_by("path_mass", compensation="obs").value is None


def test_series_are_called_by_what_is_not_usual() -> None:
    assert [each.name for each in found().series] == ["a", "b", "c", "d", "a, graph + obs"]


def test_consequences_are_read_as_they_were_written_also_with_infinite_perplexity(tmp_path: Path) -> None:
    path = tmp_path / "consequences.json"
    before = found(d=math.inf)
    before.save(path)
    assert Consequences.load(path) == before
    assert "Infinity" not in path.read_text()
    assert before.area(Series("d"), "perplexity") is None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "consequences.json"
    found().save(path)
    facts = json.loads(path.read_text())
    for change, message in (
        ({"format": "x"}, "is no graphprune.consequences file"),
        ({"version": 2}, "reads up to 1"),
        ({"rows": [{}]}, "is damaged"),
        ({"rows": None}, "is damaged"),
    ):
        path.write_text(json.dumps(facts | change))
        with pytest.raises(FormatError, match=message):
            Consequences.load(path)

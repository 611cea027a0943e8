"""A report says what the run folder's files say, names them, and needs nothing else."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from graphprune import Scores
from graphprune.cli import build_parser
from graphprune.comparison.consequence import Consequence, Consequences, Series
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import write_json
from graphprune.core.mask import Mask
from graphprune.core.run import Run
from graphprune.methods import Cut, Recipe
from graphprune.models.model import Model
from graphprune.reporting.content import Content, gather
from graphprune.reporting.page import page, printed
from graphprune.reporting.source import Table
from graphprune.reporting.step import report_step
from graphprune.steps.comparing import compare_step
from graphprune.steps.pipeline import Calibration, export_step, open_run, prune_step, score_step
from tests.families import decoder

MODEL = decoder("llama")
NOTHING = Calibration(None)


def filled(run: Run, model: Model = MODEL) -> Run:
    """A run folder with a graph, two scorers, a mask by each, and evaluations of them and of the dense model."""
    export_step(model, run, level="unit", calibration=NOTHING)
    for i, scorer in enumerate(("magnitude", "random")):
        score_step(model, run, scorer=scorer, calibration=NOTHING)
        recipe = Recipe.of(scorer, cut=Cut(units="neuron"))
        prune_step(model, run, recipe=recipe, sparsity=0.25, calibration=NOTHING, method=scorer, name=f"{scorer}-25")
        facts = {"model": f"runs/models/{scorer}-25", "identity": f"pruned {i}", "text": "abc" * 20, "tokens": 64}
        write_json(run.evaluation_path(f"{scorer}-25"), facts | {"perplexity": 30.0 + i, "windows": 2})
    facts = {"model": "llama", "identity": model.identity, "text": "abc" * 20, "tokens": 64}
    write_json(run.evaluation_path("dense"), facts | {"perplexity": 20.0, "windows": 2})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return filled(open_run(tmp_path_factory.mktemp("report") / "run", MODEL))


@pytest.fixture(scope="module")
def content(run: Run) -> Content:
    return gather(run)


def table(content: Content, name: str) -> Table:
    (found,) = (table for table in content.tables if table.name == name)
    return found


class _Read(HTMLParser):
    """What a page loads, its text, and whether its tags are balanced."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in self.VOID else [tag]
        self.loads += [str(value) for name, value in attrs if name in {"src", "href", "srcset", "data"}]
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data


def test_every_row_names_a_file_of_the_run_and_the_step_that_wrote_it(run: Run, content: Content) -> None:
    steps = {*run.manifest()["steps"], "evaluate", ""}
    assert {"model", "graph", "scores", "agreement", "masks", "removed", "evaluations", "steps"} == {
        table.name for table in content.tables
    }
    for each in content.tables:
        for row in each.rows:
            assert (run.folder / row["file"]).is_file(), row
            assert row["step"] in steps, row
    for figure in content.figures:
        assert figure.files
        assert all((run.folder / file).is_file() for file in figure.files)


def test_numbers_are_those_of_the_files(run: Run, content: Content) -> None:
    for row in table(content, "scores").rows:
        scores = Scores.load(run.folder / row["file"])
        values = torch.cat([*scores.values.values()])
        assert (row["lowest"], row["highest"]) == (float(values.min()), float(values.max()))
        assert (row["scorer"], row["number"]) == (scores.method, len(values))
    for row in table(content, "removed").rows:
        keep = Mask.load(run.folder / row["file"]).keep[row["units"]]
        assert (row["removed"], row["of"]) == (int((~keep).sum()), len(keep))
    for row in table(content, "masks").rows:
        result = run.manifest()["steps"][row["step"]]["result"]
        assert (row["sparsity"], row["rung"]) == (result["sparsity"], result["rung"])
        assert row["neurons removed"] == result["units_removed"]["neuron"]
    by_name = {row["evaluation"]: row for row in table(content, "evaluations").rows}
    assert by_name["random-25"]["perplexity"] == 31.0
    assert by_name["random-25"]["mask"] == "random-25"
    assert by_name["dense"]["sparsity"] == 0.0
    assert by_name["random-25"]["sparsity"] == pytest.approx(0.25, abs=0.02)


def test_figures_show_what_the_tables_say(content: Content) -> None:
    figures = {figure.name.split("-")[0]: figure for figure in content.figures}
    assert figures.keys() == {"agreement", "removed", "cost"}
    cost = figures["cost"].figure
    assert sorted(y for trace in cost.data for y in trace.y) == [30.0, 31.0]
    assert cost.layout.shapes[0].y0 == 20.0
    (pair,) = table(content, "agreement").rows
    cells = figures["agreement"].figure.data[0]
    assert pair["spearman"] == cells.z[0][1]
    for figure in content.figures:
        assert figure.caption.endswith(".")
        assert len(figure.caption) > 40


def test_what_is_missing_comes_with_a_command_that_can_be_typed(tmp_path: Path, content: Content) -> None:
    empty = gather(open_run(tmp_path / "empty", MODEL))
    what = " ".join(missing.what for missing in empty.missing)
    for word in ("graph", "scores", "mask", "dense model", "search", "comparison", "audit"):
        assert word in what
    assert "evaluation" not in " ".join(missing.what for missing in content.missing)
    for missing in (*empty.missing, *content.missing):
        words = missing.command.split()
        assert words[0] == "graphprune"
        build_parser().parse_args(words[1:])  # exits where there is no such command or option


def test_a_checkpoint_that_nobody_evaluated_is_named(tmp_path: Path) -> None:
    run = filled(open_run(tmp_path / "run", MODEL))
    run.evaluation_path("random-25").unlink()
    (missing,) = (each for each in gather(run).missing if "evaluation" in each.what)
    assert "random-25" in missing.what
    assert str(run.model_folder("random-25")) in missing.command


def test_the_page_loads_nothing_and_has_the_library_once(content: Content) -> None:
    text = page(content)
    read = _Read(text)
    assert read.open == []
    assert read.loads == []
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1
    assert text.count("Plotly.newPlot") >= len(content.figures)
    assert len(read.ids) == len(set(read.ids))
    for part in content.parts:
        assert part.title in read.text
    for row in table(content, "evaluations").rows:
        assert printed(row["perplexity"]) in read.text
        assert row["file"] in read.text


def test_the_same_run_gives_the_same_page(content: Content, run: Run) -> None:
    assert page(content) == page(gather(run))


def test_names_are_text_and_no_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = open_run(tmp_path / "run", MODEL)
    Scores({"neuron.0": torch.rand(24)}, evil, {"a": evil}, MODEL.identity).save(run.scores_path("evil"))
    mask = Mask(Mask.full(MODEL.units).keep, evil, {}, MODEL.identity)
    for label in (f"{evil.replace('/', '')}", "b"):
        mask.save(run.mask_path(label))
    text = page(gather(run))
    assert "<script>alert" not in text
    assert evil in _Read(text).text


def test_a_step_writes_page_tables_and_says_the_same(run: Run, content: Content, tmp_path: Path) -> None:
    said = report_step(run, tmp_path / "out" / "report.html", tables=tmp_path / "tables")
    assert Path(said["report"]).read_text(encoding="utf-8") == page(content)
    assert json.loads(json.dumps(said))["tables"] == content.facts()["tables"]
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == said["tables"].keys()
    with (tmp_path / "tables" / "evaluations.csv").open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert [float(row["perplexity"]) for row in rows] == [20.0, 30.0, 31.0]
    assert all(row["file"].startswith("evaluations/") for row in rows)


def test_searches_predictions_comparisons_and_audits_are_shown(tmp_path: Path) -> None:
    run = filled(open_run(tmp_path / "run", MODEL))
    checked = [{"predicted": 2.0, "low": 1.0, "high": 3.0, "measured": 2.5}]
    write_json(run.folder / "searches" / "s.json", {
        "strategy": "surrogate", "evaluations": 16, "perplexity": 25.0, "predicted_then_measured": checked,
        "compared": [{"allocation": "uniform", "evaluations": 1, "perplexity": 27.0}],
    })  # fmt: skip
    write_json(run.folder / "predictions" / "p.json", {
        "kind": "both", "held_out": [{"target": "perplexity", "spearman": 0.9}],
        "importance": [{"group": "head.0", "importance": 0.1, "sd": 0.01}],
        "learning_curve": [{"pairs": 10, "spearman": 0.5, "sd": 0.1}],
    })  # fmt: skip
    compare_step(run, name="all")
    verdict = {"scorer": "random", "check": "depth", "flagged": False, "number": 0.25, "text": "fine"}
    write_json(run.folder / "audits" / "a.json", {"verdicts": [verdict]})
    found = gather(run)
    assert table(found, "search-s").rows[0]["perplexity"] == 25.0
    assert table(found, "search-s-compared").rows[0]["allocation"] == "uniform"
    assert table(found, "p-held_out").rows[0]["spearman"] == 0.9
    (pair,) = table(found, "comparison-all").rows
    one, other = (torch.cat([*Scores.load(run.scores_path(name)).values.values()]) for name in ("magnitude", "random"))
    assert pair["spearman"] == pytest.approx(spearmanr(one, other).statistic)
    assert pair["step"] == "compare all"
    assert table(found, "audit-a").rows[0]["number"] == 0.25
    names = {figure.name for figure in found.figures}
    assert {"search-s-predicted", "p-importance", "p-curve", "comparison-all", "comparison-all-overlap"} <= names


def test_consequences_of_masks_are_shown_with_quality_first(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", MODEL)
    rows = tuple(
        Consequence(Series("wanda"), at, {"path_mass": 1 - at}, {"perplexity": 20 + at, "kl": at}) for at in (0.2, 0.4)
    )
    dense = {"perplexity": 20.0, "kl": 0.0, "path_mass": 1.0}
    Consequences(rows, dense, MODEL.identity).save(run.comparison_path("c").with_suffix(".json"))
    found = gather(run)
    assert [row["path_mass"] for row in table(found, "consequences-c").rows] == [0.8, 0.6]
    assert all((run.folder / row["file"]).is_file() for row in table(found, "consequences-c").rows)
    names = [figure.name for figure in found.figures]
    assert names.index("consequences-c-perplexity") < names.index("consequences-c-path_mass")


def test_what_is_no_page_and_damaged_files_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.html page, not"):
        report_step(run, tmp_path / "report.pdf")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="go to a folder"):
        report_step(run, tmp_path / "report.html", tables=tmp_path / "file")
    damaged = filled(open_run(tmp_path / "run", MODEL))
    damaged.scores_path("random").write_bytes(b"no")
    with pytest.raises(FormatError, match=re.escape(str(damaged.scores_path("random")))):
        report_step(damaged, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()

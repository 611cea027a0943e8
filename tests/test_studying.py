"""Studies on the shipped model: against what the single steps give, stopped, grown, and in several processes."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from graphprune import Model, evaluate, prune
from graphprune.core.errors import GraphpruneError, InputError
from graphprune.core.units import NEURON
from graphprune.methods import Cut, Recipe
from graphprune.prediction.executors import Executor
from graphprune.pruning import Evidence
from graphprune.steps import studying
from graphprune.steps.studying import Bench, share_of, study, study_step
from graphprune.studies.study import Study, Way
from graphprune.studies.table import Table
from tests.cli.runner import CALIBRATION, EVALUATION, TEXTS
from tests.evaluation.test_tasks import QUESTIONS
from tests.studies.made import written


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these studies."""

    def draw(_: go.Figure, kind: str, __: int) -> bytes:
        return kind.encode()

    monkeypatch.setattr(studying, "image", draw)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.read(written(tmp_path_factory.mktemp("study")), data=TEXTS)


@pytest.fixture(scope="module")
def done(small: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("done") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "image", lambda *_: b"")
        return folder, study(small, folder)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_cell_is_what_prune_and_evaluate_give(tiny: Model, done: tuple[Path, Table]) -> None:
    rows = {(row.method, row.sparsity): row for row in done[1].rows}
    quality = [
        evaluate(
            prune(
                tiny, "wanda", 0.2, compensation="obs", calibration=CALIBRATION, n_samples=8, seq_len=64, seed=seed
            ).model,
            EVALUATION, seq_len=32, max_windows=2,
        ).perplexity
        for seed in (0, 1)
    ]  # fmt: skip
    row = rows["wanda, compensation obs", 0.2]
    assert row.means["perplexity.evaluation"] == pytest.approx(sum(x or 0 for x in quality) / 2, rel=1e-4)
    assert (row.seeds, rows["magnitude", 0.2].seeds) == (2, 1)
    assert row.removed == pytest.approx(0.2, abs=0.001)
    dense = evaluate(tiny, EVALUATION, seq_len=32, max_windows=2).perplexity
    assert rows["dense", 0.0].means["perplexity.evaluation"] == pytest.approx(dense)


def test_what_has_been_measured_is_found_again_and_new_cells_alone_are_measured(
    small: Study, done: tuple[Path, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = done
    before = results(folder)
    assert len(before) == 7, "magnitude sees no text: two of its four cells are the same"
    measured: list[str] = []
    measure = Bench.measure

    def noted(self: Bench, item: Any) -> Any:
        measured.append(item[1].name)
        return measure(self, item)

    monkeypatch.setattr(Bench, "measure", noted)
    assert study_step(small, folder)["measured_now"] == 0
    assert json.loads((folder / "table.json").read_text()) == table.facts()
    more = replace(small, ways=(*small.ways, Way("taylor", Recipe.of("taylor"), (0.2,))), seeds=(0,))
    assert study_step(more, folder)["measured_now"] == 1
    assert measured == ["tiny, taylor at 0.2, seed 0"]
    assert results(folder)[:7] == before


def test_a_study_that_is_stopped_loses_no_cell_but_the_one_it_was_at(
    small: Study, done: tuple[Path, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, left = tmp_path / "study", [3]
    measure = Bench.measure

    def stopped(self: Bench, item: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            study(small, folder)
    assert len(results(folder)) == 3
    assert not list(folder.glob("table.*"))
    table = study(small, folder)
    assert [row.means for row in table.rows] == [pytest.approx(row.means) for row in done[1].rows]
    assert len(results(folder)) == 7


def test_what_calibration_tells_is_found_once_a_seed(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    of_text = Evidence.of_text

    def counted(model: Model, text: Path | None, **options: Any) -> Evidence:
        if text is not None:
            made.append(options["seed"])
        return of_text(model, text, **options)

    monkeypatch.setattr(Evidence, "of_text", counted)
    ways = tuple(Way(name, Recipe.of(name), (0.2, 0.4)) for name in ("taylor", "flap"))
    study(replace(small, ways=ways), tmp_path / "study")
    assert made == [0, 1]


def test_an_accuracy_is_retained_beside_the_dense_models(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    lines = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in QUESTIONS]
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = 'models = "tiny"\nmethods = "magnitude"\nsparsities = 0.9\n[evaluation]\ntasks = "made"\ntasks_dir = "."\n'
    table = study(written(tmp_path, text), tmp_path / "study")
    dense, pruned = table.rows
    assert dense.means["acc.made"] > 0
    assert pruned.means["retention.made"] == pytest.approx(pruned.means["acc.made"] / dense.means["acc.made"])
    assert "acc_norm.made" in pruned.means


def test_processes_measure_what_one_does(small: Study, done: tuple[Path, Table], tmp_path: Path) -> None:
    table = study(small, tmp_path / "study", executor=Executor(workers=2))
    assert [row.means for row in table.rows] == [pytest.approx(row.means, rel=1e-5) for row in done[1].rows]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install graphprune[ray]")
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_measures_what_one_process_does(
    small: Study, done: tuple[Path, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    table = study(small, tmp_path / "study", executor=Executor("ray", workers=1))
    assert [row.means for row in table.rows] == [pytest.approx(row.means, rel=1e-5) for row in done[1].rows]


def test_what_no_mask_reaches_is_said_in_the_table_and_not_asked_again(small: Study, tmp_path: Path) -> None:
    ways = (Way("floors", Recipe.of("magnitude", cut=Cut(floor=300)), (0.2, 0.9)),)
    few = replace(small, ways=ways)
    table = study(few, tmp_path / "study")
    assert [bool(row.refused) for row in table.rows] == [False, False, True]
    assert "- floors at 0.9: " in table.markdown()
    assert study_step(few, tmp_path / "study")["measured_now"] == 0


def test_a_share_of_the_blocks_is_the_same_share_for_all(tiny: Model, small: Study, tmp_path: Path) -> None:
    neurons = Recipe.of("magnitude", cut=Cut(units="neuron"))
    assert share_of(tiny, Recipe.of("llmrank")) == share_of(tiny, neurons) > 1
    assert share_of(tiny, Recipe.of("magnitude", pattern="unstructured")) == 1
    ways = (Way("all", Recipe.of("magnitude"), (0.3,)), Way("neurons", neurons, (0.3, 0.9)))
    table = study(replace(small, ways=ways, sparsity_of="blocks"), tmp_path / "study")
    _, whole, part, refused = table.rows
    assert whole.removed == pytest.approx(part.removed, abs=0.001)
    share = tiny.units.prunable_parameters(NEURON) * 0.3 * share_of(tiny, neurons) / tiny.n_parameters
    assert part.params_removed == pytest.approx(share, abs=0.001)
    assert refused.refused.startswith("what neurons may remove is 0.")


def test_an_error_names_the_cell(small: Study, tmp_path: Path) -> None:
    ways = (Way("blocks", Recipe.of("magnitude", pattern="unstructured", blocks="0-99"), (0.2,)),)
    with pytest.raises(InputError, match=r"^tiny, blocks at 0\.2: the layers are 0-5"):
        study(replace(small, ways=ways), tmp_path / "study")


def test_a_folder_that_can_not_be_one_and_a_missing_browser_are_said(
    small: Study, done: tuple[Path, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, a study is a folder"):
        study(small, tmp_path / "file")

    def none(*_: object) -> bytes:
        raise GraphpruneError("there is no browser")

    monkeypatch.setattr(studying, "image", none)
    said = study_step(small, done[0])
    assert said["no_image"] == "there is no browser"
    assert (done[0] / "figure.html").stat().st_size > 1e6

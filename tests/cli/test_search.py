"""Searching and predicting from the command line: on a real model, killed, and with everything a user gets wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graphprune import Model
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.prediction.measure import Bench
from tests.cli.runner import CALIBRATION, EVALUATION, TEXTS, Cli, Said, assert_nothing_half_written

CALIBRATED = ("--calibration", str(CALIBRATION), "--n-samples", "16", "--seq-len", "64")
SEARCH = (
    "search", "tiny", "--sparsity", "0.3", *CALIBRATED, "--max-windows", "4", "--evaluations", "16", "--pairs", "12",
    "--rounds", "2", "--predictor", "linear",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A search that was left alone, by a process of its own."""
    run = tmp_path_factory.mktemp("searched") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "graphprune", *SEARCH, "--compare", "-o", str(run), "--json"], capture_output=True,
        text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return run, result


def test_a_search_leaves_a_model_that_meets_the_budget_and_says_what_it_cost(
    cli: Cli, tiny: Model, searched: tuple[Path, dict[str, Any]]
) -> None:
    _, found = searched
    mask = Mask.load(Path(found["mask"]), tiny.units, tiny.identity)
    prunable = tiny.units.prunable_parameters("head", "kv_head", "neuron")
    assert abs(mask.removed_parameters(tiny.units) - 0.3 * prunable) <= 384 / 2
    assert found["evaluations"] == 16
    rows = {row["allocation"]: row for row in found["compared"]}
    assert set(rows) == {"surrogate", "uniform", "log", "graph", "random"}
    assert rows["random"]["evaluations"] == 16
    assert rows["surrogate"]["perplexity.calibration"] <= rows["uniform"]["perplexity.calibration"]
    assert len(found["predicted_then_measured"]) == 4
    assert set(found["importance"]) == {f"{kind}.{layer}" for kind in ("head", "neuron") for layer in range(6)}
    kept = json.loads(Path(found["search"]).read_text())
    removed = {
        group: int((~mask.keep[group]).sum()) // (2 if group.startswith("head") else 1) for group in kept["remove"]
    }
    assert removed == kept["remove"]
    quality = cli("evaluate", found["checkpoint"], "--text", EVALUATION, "--seq-len", 64, "--json").json
    assert 20 < quality["perplexity"] < 90
    about = json.loads(Path(found["pairs"]).with_suffix(".json").read_text())
    assert about["judged"] == {"texts": [str(CALIBRATION)], "seq_len": 64, "max_windows": 4, "leave_out": [16, 0]}
    assert about["calibrated"]["text"] == str(CALIBRATION)
    lines = Path(found["pairs"]).read_text().splitlines()
    assert (
        len(lines)
        == len({json.loads(line)["key"] for line in lines})
        == found["measured_now"]
        == found["measured_in_all"]
    )


def test_a_search_that_has_been_made_is_found_again(
    cli: Cli, searched: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, found = searched
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("it was measured again"))
    again = cli(*SEARCH, "--compare", "-o", run, "--json").json
    assert again == found | {"found": True}


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_finds_the_same(
    cli: Cli, run: Path, searched: tuple[Path, dict[str, Any]]
) -> None:
    """Killed once while it draws and once while it searches; no pair is measured twice, none is lost."""
    pairs = run / "pairs" / Path(searched[1]["pairs"]).name
    for enough in (4, 14):
        process = subprocess.Popen(
            [sys.executable, "-m", "graphprune", *SEARCH, "-o", str(run)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while process.poll() is None and (not pairs.is_file() or pairs.read_bytes().count(b"\n") < enough):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_nothing_half_written_but_statistics(run)
    before = [json.loads(line)["key"] for line in pairs.read_text().splitlines()]
    assert len(before) >= 14
    found = cli(*SEARCH, "-o", run, "--json").json
    after = [json.loads(line)["key"] for line in pairs.read_text().splitlines()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == len(before) + found["measured_now"]
    target = "perplexity.calibration"
    assert found[target] == pytest.approx(searched[1][target], rel=1e-6)
    assert found["evaluations"] == searched[1]["evaluations"]


def assert_nothing_half_written_but_statistics(run: Path) -> None:
    for name in ("masks", "models", "searches"):
        assert not (run / name).exists()


def test_predict_reports_and_scores_without_measuring(
    cli: Cli, tiny: Model, tmp_path: Path, searched: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(searched[0], tmp_path / "run"))
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("it was measured"))
    found = cli(
        "predict", "tiny", "-o", run, "--sparsity", 0.2, 0.3, "--architecture", searched[1]["search"], "--json"
    ).json  # fmt: skip
    assert found["pairs"] == len((run / "pairs" / Path(searched[1]["pairs"]).name).read_text().splitlines())
    predicted = {row["allocation"]: row for row in found["predicted"]}
    assert set(predicted) == {f"{name} {s}" for name in ("uniform", "log", "linear") for s in (0.2, 0.3)} | {
        "surrogate-0.3"
    }
    for row in predicted.values():
        assert row["low"] < row["high"]
        assert abs(row["sparsity"] - (0.2 if row["allocation"].endswith("0.2") else 0.3)) < 0.001
    assert predicted["uniform 0.2"]["predicted"] < predicted["uniform 0.3"]["predicted"]
    assert predicted["uniform 0.3"]["note"] == ""
    assert re.match(r"extrapolated: the pairs remove (29|30)\.\d% to 30\.\d%", predicted["uniform 0.2"]["note"])
    assert {row["kind"] for row in found["kinds"]} == {"trees", "linear", "both"}
    scores = Scores.load(Path(found["scores"]), None, tiny.identity)
    assert "block.3.mlp" in scores.values
    pruned = cli("prune", "tiny", "--scores", found["scores"], "--sparsity", 0.2, "-o", run, "--json").json
    assert pruned["method"] == "predictor"


def test_the_predictor_can_be_told_what_credit_goes(cli: Cli, run: Path) -> None:
    credit = cli("score", "tiny", "--scorer", "credit", *CALIBRATED, "-o", run, "--json").json["scores"]
    told = ("--graph-features", credit)
    found = cli(*SEARCH, *told, "-o", run, "--json").json
    assert len(found["predicted_then_measured"]) == 4
    learned = [cli("predict", "tiny", "-o", run, *options, "--json").json for options in ((), told)]
    assert learned[0]["held_out"] != learned[1]["held_out"]


def test_texts_of_ones_own_are_judged_side_by_side(cli: Cli, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(EVALUATION.read_text()[:9000])
    found = cli(
        *SEARCH[:-4], "--rounds", 1, "--strategy", "random", "--text", EVALUATION, other, "-o", run, "--json"
    ).json
    assert found["evaluations"] == 16
    assert "perplexity.evaluation" in found
    assert {"perplexity.evaluation", "perplexity.other"} <= set(found["pareto"][0])


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sparsity", "1.2"), ("between 0 and 1", "not 1.2")),
        (("--pairs", "5"), ("at least 10", "not 5", "--pairs")),
        (("--evaluations", "12", "--pairs", "12"), ("12 evaluations leave none",)),
        (("--rounds", "0"), ("rounds", "not 0")),
        (("--max-windows", "1"), ("at least 2 windows", "not 1")),
        (("--margin", "-1"), ("margin", "not -1")),
        (("--workers", "0"), ("at least 1 worker", "not 0")),
        (("--address", "host:1"), ("--executor ray",)),
        (("--method", "sparsegpt"), ("heads and neurons", "single weights")),
        (("--final", "sparsegpt"), ("heads and neurons", "single weights")),
        (("--final", "slimgpt"), ("same units",)),
        (("--text", "nowhere.txt"), ("nowhere.txt is not there",)),
        (("--text", str(CALIBRATION)), ("is the calibration text", "leave --text out")),
        (("--text", str(EVALUATION), str(EVALUATION)), ("two texts are called 'evaluation'",)),
        (("--name", "../up"), ("can't be the name",)),
        (("--graph-features", "nowhere.safetensors"), ("the scores nowhere.safetensors are not there",)),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_the_model_is_loaded(
    cli: Cli, run: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cli("search", tmp_path / "nowhere", *SEARCH[2:], *options, "-o", run).refused(*words)
    assert not run.exists()


def test_a_search_without_a_text_says_so(cli: Cli, run: Path, tmp_path: Path) -> None:
    cli("search", tmp_path / "nowhere", "--sparsity", 0.3, "-o", run).refused("needs calibration", "--calibration FILE")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sparsity", "0.98"), ("sparsity 0.98 is out of reach", "the nearest is")),
        (("--protect", "9"), ("block 9 can't be protected", "0 to 5")),
        (("--protect", "0", "1", "2", "3", "4", "5"), ("nothing may go",)),
        (("--most", "0.1"), ("sparsity 0.3 is out of reach",)),
        (("--most", "2"), ("at most 1, not 2",)),
    ],
)
def test_what_the_model_can_not_do_is_refused_before_anything_is_measured(
    cli: Cli, run: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cli(*SEARCH, *options, "-o", run).refused(*words)
    assert_nothing_half_written(run)
    assert not (run / "pairs").exists()


def test_a_text_that_is_too_short_for_statistics_and_judging_says_so(cli: Cli, run: Path) -> None:
    cli(*SEARCH, "--n-samples", "100000", "-o", run).refused("too short", "use fewer samples")


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("ray", ("--executor", "ray"), ("Ray is not installed", "graphprune[ray]")),
        ("optuna", (), ("Optuna is not installed", "graphprune[search]")),
        ("sklearn.ensemble", ("--strategy", "paper"), ("scikit-learn is not installed", "graphprune[search]")),
    ],
)
def test_what_is_not_installed_is_named_before_the_model_is_loaded(
    cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    cli("search", tmp_path / "nowhere", *SEARCH[2:], *options, "-o", run).refused(*words)


def test_a_perceptron_has_no_blocks_to_search(cli: Cli, run: Path, tmp_path: Path) -> None:
    from graphprune.core.io import save_tensors, write_json
    from tests import families

    model = families.perceptron()
    save_tensors(tmp_path / "p" / "model.safetensors", dict(model.parameters))
    write_json(tmp_path / "p" / "config.json", dict(model.config))
    cli("search", tmp_path / "p", *SEARCH[2:], "-o", run).refused("perceptron")


class TestPredict:
    """What can be wrong with pairs."""

    @pytest.fixture
    def copied(self, searched: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
        return Path(shutil.copytree(searched[0], tmp_path / "copied"))

    @pytest.fixture
    def pairs(self, copied: Path, searched: tuple[Path, dict[str, Any]]) -> Path:
        return copied / "pairs" / Path(searched[1]["pairs"]).name

    @staticmethod
    def predict(cli: Cli, run: Path, *options: object) -> Said:
        return cli("predict", "tiny", "-o", run, "--predictor", "linear", *options)

    def test_no_run_and_no_pairs(self, cli: Cli, tmp_path: Path, copied: Path) -> None:
        self.predict(cli, tmp_path / "nowhere").refused("is not a run folder")
        shutil.rmtree(copied / "pairs")
        self.predict(cli, copied).refused("has no pairs", "graphprune search")
        self.predict(cli, copied, "--pairs", tmp_path / "x.jsonl").refused("x.jsonl is not there")

    def test_several_files_of_pairs(self, cli: Cli, copied: Path, pairs: Path) -> None:
        shutil.copy(pairs, pairs.with_name("other.jsonl"))
        self.predict(cli, copied).refused("several files of pairs", "--pairs")

    def test_too_few_pairs(self, cli: Cli, copied: Path, pairs: Path) -> None:
        pairs.write_text("\n".join([*pairs.read_text().splitlines()[:9], ""]))
        self.predict(cli, copied).refused("needs at least 10 measured architectures, not 9")

    def test_pairs_of_another_model(self, cli: Cli, copied: Path, pairs: Path, tiny: Model) -> None:
        pairs.write_text(pairs.read_text().replace(tiny.identity, "0" * 64))
        self.predict(cli, copied).refused("pairs of another model")

    def test_pairs_that_were_mixed(self, cli: Cli, copied: Path, pairs: Path) -> None:
        lines = pairs.read_text().splitlines()
        facts = json.loads(lines[3])
        facts["origin"][2] = "another text"
        lines[3] = json.dumps(facts)
        pairs.write_text("\n".join([*lines, ""]))
        self.predict(cli, copied).refused("other texts to judge by")

    def test_a_corrupt_line_is_reported_and_the_others_are_used(self, cli: Cli, copied: Path, pairs: Path) -> None:
        whole = pairs.read_bytes()
        pairs.write_bytes(whole[:-30])
        said = self.predict(cli, copied, "--json")
        assert said.json["pairs"] == whole.count(b"\n") - 1
        assert "can't be read as a pair and is skipped" in said.err

    def test_a_file_without_any_pair(self, cli: Cli, copied: Path, pairs: Path) -> None:
        pairs.write_text("nonsense\n")
        self.predict(cli, copied).refused("holds no pairs")

    def test_a_target_that_is_nan(self, cli: Cli, copied: Path, pairs: Path) -> None:
        """Of the JSON that we write none is; a line that somebody else has written is skipped."""
        lines = pairs.read_text().splitlines()
        facts = json.loads(lines[0])
        facts["quality"] = {name: float("nan") for name in facts["quality"]}
        pairs.write_text("\n".join([json.dumps(facts), *lines[1:], ""]))
        said = self.predict(cli, copied, "--json")
        assert said.json["pairs"] == len(lines) - 1
        assert "line 1" in said.err

    def test_what_says_how_pairs_were_made_is_missing_or_damaged(self, cli: Cli, copied: Path, pairs: Path) -> None:
        pairs.with_suffix(".json").write_text("{}")
        self.predict(cli, copied).refused("is damaged")
        pairs.with_suffix(".json").unlink()
        self.predict(cli, copied).refused(".json is not there")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--level", "1"), "between 0 and 1, not 1"),
            (("--level", "0.99", "--sparsity", "0.2"), "need 99 pairs"),
            (("--sparsity", "2"), "between 0 and 1, not 2"),
            (("--sparsity", "0.99"), "out of reach"),
            (("--graph-features", "nowhere.safetensors"), "nowhere.safetensors is not there"),
        ],
    )
    def test_an_option_that_makes_no_sense(self, cli: Cli, copied: Path, options: tuple[str, ...], words: str) -> None:
        self.predict(cli, copied, *options).refused(words)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('{"remove": {"neuron.99": 3}}', "neuron.99 may not lose anything"),
            ('{"remove": {"neuron.0": 3000}}', "neuron.0 has 512 pieces, 3000 can't go"),
            ('{"remove": {"neuron.0": "many"}}', "is no architecture"),
            ("[]", "holds no JSON object"),
        ],
    )
    def test_an_architecture_that_is_none(
        self, cli: Cli, copied: Path, tmp_path: Path, content: str, words: str
    ) -> None:
        (tmp_path / "a.json").write_text(content)
        self.predict(cli, copied, "--architecture", tmp_path / "a.json").refused(words)


def test_a_model_that_is_elsewhere_is_another_model(
    cli: Cli, tmp_path: Path, searched: tuple[Path, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    from graphprune.core.io import save_tensors

    copy = Path(shutil.copytree(TEXTS, tmp_path / "other", ignore=shutil.ignore_patterns("*.py", "__pycache__")))
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    save_tensors(copy / "model.safetensors", weights, {"format": "pt"})
    cli("predict", copy, "-o", searched[0]).refused("belongs to another model")

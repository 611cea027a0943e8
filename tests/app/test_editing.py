"""Masks changed by hand, and what is predicted of them."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask import Flask

from graphprune.cli import main
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.explorer import create_app
from graphprune.explorer.data import EDITED, SHIPPED, Reading, RunData
from graphprune.explorer.editing import Region
from graphprune.explorer.pruning import UNKNOWN, changed_by_hand, commands, foretold, planned_mask
from graphprune.explorer.state import State
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.pairs import Origin, Pair, PairStore

HOST = {"Host": "127.0.0.1:8050"}
PLAN = State(view="prune", score="wanda", against="magnitude", units="neuron", sparsity=0.3)
ALL = {"range": {"x": [-1e9, 1e9], "y": [-1e9, 1e9]}}


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


@pytest.fixture
def data(folder: Path) -> RunData:
    return RunData(folder)


def test_a_box_holds_what_lies_between_its_sides_and_a_lasso_what_it_goes_around() -> None:
    x, y = np.array([0.0, 1.0, 2.0, 3.0, -1.0]), np.array([0.0, 1.0, 0.5, 2.0, 5.0])
    box = Region.parse({"range": {"x": [0.5, 2.5], "y": [0.0, 1.5]}})
    assert box.holds(x, y).tolist() == [False, True, True, False, False]
    notch = Region.parse({"lassoPoints": {"x": [-0.5, 2.5, 2.5, 1.0, -0.5], "y": [-0.5, -0.5, 2.0, 0.6, 2.0]}})
    assert notch.holds(x, y).tolist() == [True, False, True, False, False]


def test_on_logarithmic_axes_a_lasso_is_straight_as_it_is_seen() -> None:
    x = np.array([1.0, 10.0, 1000.0])
    triangle = Region.parse({"lassoPoints": {"x": [0.9, 2000.0, 2000.0], "y": [0.9, 0.9, 2000.0]}})
    assert triangle.holds(x, np.array([0.95, 5.0, 500.0])).tolist() == [True, True, True]
    assert triangle.holds(x, np.array([1.2, 20.0, 1500.0])).tolist() == [False, False, False]


@pytest.mark.parametrize(
    "drawn", [None, {}, {"range": {"x": [1]}}, {"lassoPoints": {"x": [1, 2], "y": [1, 2]}}, {"range": {"x": "ab"}}]
)
def test_what_was_not_drawn_is_no_region(drawn: Any) -> None:
    with pytest.raises(InputError, match=r"drawn?"):
        Region.parse(drawn)


def test_what_is_drawn_around_goes_or_stays_in_a_mask_of_the_run(data: RunData, folder: Path) -> None:
    before = planned_mask(data, PLAN)
    scores = data.scores("wanda")
    top = float(torch.cat([scores.values[f"neuron.{i}"] for i in range(6)]).max())
    drawn = {"range": {"x": [0.5 * top, 2 * top], "y": [0, 1e9]}}
    found = changed_by_hand(data, PLAN, "remove", drawn, None)
    assert found.edited == f"{EDITED}wanda-0.3-uniform-neuron"
    stored = Mask.load(folder / "masks" / f"{found.edited}.safetensors", data.units(), data.model().identity)
    for name in (f"neuron.{i}" for i in range(6)):
        assert torch.equal(stored.keep[name], before.keep[name] & (scores.values[name] < 0.5 * top))
    assert stored.removed_parameters(data.units()) > before.removed_parameters(data.units())
    everything = changed_by_hand(data, found, "keep", ALL, None)
    assert everything.edited == found.edited
    assert planned_mask(data, everything).removed_parameters(data.units()) == 0


def test_a_threshold_and_names_change_it_too_and_nobody_elses_mask_is_replaced(data: RunData) -> None:
    first = changed_by_hand(data, PLAN, "below", None, 5.0)
    second = changed_by_hand(data, PLAN.given({"edit": "-neuron.0.1"}), "names", None, None)
    assert (second.edited, second.edit) == (f"{first.edited}-2", "")
    keep = planned_mask(data, first).keep
    low = data.scores("wanda").values["neuron.2"] < 5.0
    assert bool(low.any())
    assert not bool((keep["neuron.2"] & low).any())
    assert not bool(planned_mask(data, second).keep["neuron.0"][1])


def test_what_cannot_be_changed_says_why_and_writes_nothing(data: RunData) -> None:
    for how, drawn, at, said in (
        ("remove", None, None, "draw a box"),
        ("below", None, None, "give a threshold"),
        ("below", None, -1e9, "no unit is inside"),
        ("names", None, None, "name units"),
    ):
        with pytest.raises(InputError, match=said):
            changed_by_hand(data, PLAN, how, drawn, at)
    assert not [name for name in data.masks_there() if name.startswith(EDITED)]


def test_an_edited_mask_is_pruned_by_the_command_that_is_shown(data: RunData) -> None:
    state = changed_by_hand(data, PLAN, "below", None, 5.0)
    words = commands(data, state)["prune"]
    assert words[:2] == ["mask", "apply"]
    assert main([*words, "--json"]) == 0
    assert (data.folder / "models" / state.edited / "config.json").is_file()


def test_the_recipe_and_the_commands_can_be_taken_along(data: RunData) -> None:
    server: Flask = create_app(data.folder).server
    client = server.test_client()
    client.get("/", headers=HOST)
    recipe = json.loads(client.get(f"/recipe.json{PLAN.query()}", headers=HOST).text)
    assert recipe["choices"]["sparsity"] == 0.3
    assert recipe["model"]["identity"] == data.model().identity
    script = client.get(f"/prune.sh{PLAN.query()}", headers=HOST).text.splitlines()
    assert [shlex.split(line) for line in script[1:]] == [*recipe["commands"].values()]
    assert client.get("/recipe.json?score=nothing", headers=HOST).status_code == 400


def test_a_model_that_everybody_has_is_called_by_its_name_in_commands_and_any_other_by_its_folder(
    data: RunData,
) -> None:
    assert commands(data, PLAN)["prune"][:2] == ["prune", "tiny"]
    path = data.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["model"]["name"] = "mine"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert commands(data, PLAN)["prune"][:2] == ["prune", manifest["model"]["folder"]]


def test_pruning_for_real_goes_by_the_texts_that_are_given(folder: Path, tmp_path: Path) -> None:
    data = RunData(folder, calibration=tmp_path / "calibration.txt", text=tmp_path / "judged.txt")
    todo = commands(data, PLAN.given({"compensation": "obs"}))
    assert str(tmp_path / "calibration.txt") in todo["prune"]
    assert str(tmp_path / "judged.txt") in todo["evaluate"]
    assert str(tmp_path / "judged.txt") in todo["dense"]


def test_pruning_for_real_goes_about_it_as_the_masks_did_that_predictions_are_from(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "pairs").mkdir()
    text = tmp_path / "theirs.txt"
    text.write_text("words", encoding="utf-8")
    judged: dict[str, Any] = {"texts": [str(tmp_path / "gone.txt"), str(text)], "seq_len": 128, "max_windows": 7}
    judged["leave_out"] = [5, 3]
    calibrated = {"text": str(text), "n_samples": 5, "seq_len": 64, "seed": 3, "dtype": None}
    about = {"judged": judged, "calibrated": calibrated}
    (folder / "pairs" / "search.json").write_text(json.dumps(about), encoding="utf-8")
    assert RunData(folder).judging() == Reading(text, 128, 7, leave_out=(5, 3))
    todo = commands(RunData(folder), PLAN.given({"compensation": "obs"}))
    for name in ("evaluate", "dense"):
        read = ["--text", str(text), "--seq-len", "128", "--max-windows", "7", "--leave-out", "5", "3"]
        assert todo[name][2:11] == read
    read = ["--calibration", str(text), "--n-samples", "5", "--seq-len", "64", "--seed", "3"]
    assert todo["prune"][-8:] == read
    mine = tmp_path / "mine.txt"
    assert RunData(folder, text=mine).judging() == Reading(mine, 256, 10)
    assert RunData(folder, calibration=mine).calibrating() == Reading(mine, 256, 32)
    text.unlink()
    assert RunData(folder).judging() == Reading(SHIPPED / "evaluation.txt", 256, 10)
    assert RunData(folder).calibrating() == Reading(SHIPPED / "calibration.txt", 256, 32)


def test_a_run_with_measured_masks_predicts_and_says_how_surely(data: RunData) -> None:
    mask = planned_mask(data, PLAN)
    assert foretold(data, mask)[0] == UNKNOWN
    model, rng = data.model(), np.random.default_rng(0)
    path = data.folder / "pairs" / "search.jsonl"
    store = PairStore(path, Origin(model.identity, "method", "text"))
    about = {"cut": {"units": "neuron"}, "protected": [], "most": 1.0, "scorer": "wanda", "compensation": "obs"}
    for _ in range(40):
        remove = {f"neuron.{i}": int(rng.integers(0, 400)) for i in range(6)}
        quality = {"perplexity.text": float(np.exp(3 + sum(remove.values()) / 1000))}
        store.append(Pair(Architecture(remove), quality))
    path.with_suffix(".json").write_text(json.dumps(about))
    found = data.predicted(mask)
    assert found is not None
    gone = sum(int((~mask.keep[f"neuron.{i}"]).sum()) for i in range(6))
    assert found.value == pytest.approx(np.exp(3 + gone / 1000), rel=0.05)
    assert found.low < found.value < found.high
    assert not found.beyond
    assert "on text, if pruned like the 40 masks it is from: wanda, compensation obs" in foretold(data, mask)[1]
    more = planned_mask(data, PLAN.given({"sparsity": 0.7}))
    assert "extrapolated, without an interval: those masks remove" in foretold(data, more)[1]
    assert "(90 %)" not in foretold(data, more)[1]

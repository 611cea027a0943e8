"""Scores and masks that come in, go out and are combined, from the shell."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graphprune import Model
from graphprune.cli import main
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.surgery.cut import zeroed
from graphprune.surgery.torch_prune import prune_with_torch
from tests.cli.runner import EVALUATION, SMALL, Cli, files

LAYERS, WIDTH = 6, 512  # of the shipped model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two scores, and a mask by each."""
    run = tmp_path_factory.mktemp("made") / "run"
    for method in ("magnitude", "random"):
        assert main(["score", "tiny", "--scorer", method, "-o", str(run)]) == 0
        assert main(["prune", "tiny", "--method", method, "--sparsity", "0.2", "-o", str(run)]) == 0
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("models")))


def masks(run: Path) -> tuple[Path, Path]:
    return run / "masks" / "magnitude-0.2.safetensors", run / "masks" / "random-0.2.safetensors"


def gone(path: Path) -> dict[str, set[int]]:
    return {name: set((~keep).nonzero()[:, 0].tolist()) for name, keep in Mask.load(path).keep.items()}


# Masks


def test_union_intersection_and_complement_are_those_of_what_is_removed(cli: Cli, run: Path, tmp_path: Path) -> None:
    first, second = (gone(path) for path in masks(run))
    for operation, wanted in (
        ("union", {name: first[name] | second[name] for name in first}),
        ("intersection", {name: first[name] & second[name] for name in first}),
    ):
        path = tmp_path / "out" / f"{operation}.safetensors"
        said = cli("mask", operation, *masks(run), "-o", path, "--json").json
        found = gone(path)
        assert {name: units for name, units in found.items() if name[:2] != "kv"} == {
            name: units for name, units in wanted.items() if name[:2] != "kv"
        }
        assert said["mask"] == str(path)
        assert said["removed"]["neuron"] == sum(
            len(units) for name, units in found.items() if name.startswith("neuron")
        )
    path = tmp_path / "complement.safetensors"
    said = cli("mask", "complement", masks(run)[0], "-o", path, "--units", "neuron", "--json").json
    assert all(gone(path)[name] == units for name, units in first.items() if not name.startswith("neuron"))
    assert (
        said["removed"]["neuron"] + sum(len(u) for n, u in first.items() if n[:6] == "neuron")
        == said["units"]["neuron"]
    )


def test_diff_counts_and_names_what_one_alone_removes(cli: Cli, run: Path) -> None:
    first, second = (gone(path) for path in masks(run))
    said = cli("mask", "diff", *masks(run), "--json").json
    assert said["only_first"] == {
        name: sorted(units - second[name]) for name, units in first.items() if units - second[name]
    }
    assert said["only_second"] == {
        name: sorted(units - first[name]) for name, units in second.items() if units - first[name]
    }
    (neurons,) = (row for row in said["kinds"] if row["removed by"] == "neuron")
    both = sum(len(first[name] & second[name]) for name in first if name.startswith("neuron"))
    assert neurons["both"] == both
    assert neurons["jaccard"] == both / (both + neurons["only the first"] + neurons["only the second"])
    same = cli("mask", "diff", masks(run)[0], masks(run)[0])
    assert "only first" not in same.out
    assert "neuron.3" in same.out


def test_explain_finds_model_and_scores_in_the_run_folder(cli: Cli, run: Path, tiny: Model) -> None:
    path = masks(run)[0]
    removed = min(gone(path)["neuron.1"])
    said = cli("mask", "explain", path, "--unit", f"neuron.1.{removed}", "head.0.0", "--json").json
    assert said["scores"] == str(run / "scores" / "magnitude.safetensors")
    assert sum(row["parameters"] for row in said["blocks"]) == said["n_params_removed"]
    assert said["sparsity"] == pytest.approx(0.2, abs=0.001)
    reason, _ = said["reasons"]
    scores = Scores.load(Path(said["scores"])).values["neuron.1"]
    assert reason["score"] == pytest.approx(float(scores[removed]))
    assert reason["rank"] == int((scores < scores[removed]).sum()) + 1
    assert reason["rank"] <= reason["allocated"]
    assert (reason["goes"], reason["explained"]) == (True, True)
    assert f"neuron.1.{removed} goes" in cli("mask", "explain", path, "--unit", f"neuron.1.{removed}").out
    assert len(gone(path)) == len(tiny.units.groups)


def test_explain_says_when_nothing_tells_why(cli: Cli, run: Path, tmp_path: Path) -> None:
    (run / "scores" / "magnitude.safetensors").unlink()
    said = cli("mask", "explain", masks(run)[0], "--unit", "neuron.1.0", "--json").json
    assert said["scores"] is None
    assert "--scores FILE" in said["reasons"][0]["sentence"]
    alone = tmp_path / "alone.safetensors"
    shutil.copy(masks(run)[0], alone)
    cli("mask", "explain", alone).refused(str(alone), "--model MODEL")
    assert cli("mask", "explain", alone, "--model", "tiny", "--json").json["made by"] == "magnitude"
    cli("mask", "explain", masks(run)[0], "--unit", "neuron.1.9999").refused("'neuron.1.9999'", "no head or neuron")


def test_exports_for_other_programs(cli: Cli, run: Path, tmp_path: Path, tiny: Model) -> None:
    path = masks(run)[0]
    lists = tmp_path / "mask.json"
    cli("mask", "export", path, "--to", "json", "-o", lists)
    listed = json.loads(lists.read_text(encoding="utf-8"))["removed"]
    assert {f"neuron.{layer}": set(units) for layer, units in listed["neurons"].items()} == {
        name: units for name, units in gone(path).items() if name.startswith("neuron")
    }
    mask = Mask.load(path)
    ids = torch.arange(3, 35)[None]
    expected = Model.from_parameters(tiny.config, zeroed(tiny.parameters, tiny.units, mask)).module()
    for to in ("torch", "torch-state"):
        file = tmp_path / f"{to}.safetensors"
        assert cli("mask", "export", path, "--to", to, "-o", file, "--json").json["file"] == str(file)
        network = prune_with_torch(tiny.module(), load_file(file))
        with torch.no_grad():
            torch.testing.assert_close(network(ids).logits, expected(ids).logits, rtol=0, atol=0)
    cli("mask", "export", path, "--to", "torch", "-o", tmp_path / "mask.pt").refused(".safetensors", "mask.pt")


def test_a_mask_that_was_combined_becomes_a_checkpoint(cli: Cli, run: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.safetensors"
    cli("mask", "intersection", *masks(run), "-o", both)
    said = cli("mask", "apply", "tiny", both, "-o", run, "--json").json
    assert said["checkpoint"] == str(run / "models" / "both")
    assert said["rung"] == "padded"
    assert 0 < said["sparsity"] < 0.2
    assert cli("mask", "apply", "tiny", both, "-o", run, "--json").json["found"]
    evaluated = cli(
        "evaluate", said["checkpoint"], "--text", EVALUATION, "--max-windows", "2", *SMALL[2:], "--json"
    ).json
    assert evaluated["params"] == said["checkpoint_params"]
    cli("mask", "apply", "tiny", both, "-o", tmp_path / "other", "--rung", "uniform").refused("uniform", "padded")
    assert not (tmp_path / "other").exists()


# Bring your own


def test_a_table_comes_in_prunes_and_goes_out_again(cli: Cli, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    cli("mask", "export", masks(run)[1], "--to", "csv", "-o", table)
    said = cli("import", "tiny", table, "-o", run, "--name", "theirs", "--json").json
    assert gone(Path(said["mask"])) == gone(masks(run)[1])
    rows = [
        "unit,score",
        *(f"neuron.{layer}.{i},{(i * 7919) % WIDTH}" for layer in range(LAYERS) for i in range(WIDTH)),
    ]
    table.write_text("\n".join(rows), encoding="utf-8")
    said = cli("import", "tiny", table, "-o", run, "--json").json
    assert said["units"] == {"neuron": LAYERS * WIDTH}
    pruned = cli("prune", "tiny", "--scores", said["scores"], "--sparsity", "0.25", "-o", run, "--json").json
    assert pruned["method"] == "mine"
    assert gone(Path(pruned["mask"]))["neuron.0"] == {i for i in range(WIDTH) if (i * 7919) % WIDTH < WIDTH // 4}


def test_a_wrong_table_is_refused_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("unit,score\nneuron.0.0,1\nneuron.0.0,2\n", encoding="utf-8")
    cli("import", "tiny", table, "-o", tmp_path / "run").refused("line 3", "neuron.0.0", "line 2")
    cli("import", "tiny", tmp_path / "nowhere.csv", "-o", tmp_path / "run").refused("nowhere.csv")
    assert files(tmp_path) == {"mine.csv"}


# Votes


def test_a_vote_is_scores_that_prune(cli: Cli, run: Path, tmp_path: Path) -> None:
    said = cli(
        "vote", run, "--scores", "magnitude", run / "scores" / "random.safetensors", "--rule", "borda", "--json"
    ).json
    assert said["scores"] == str(run / "scores" / "vote-borda.safetensors")
    assert said["of"] == ["magnitude", "random"]
    assert cli("vote", run, "--scores", "magnitude", "random", "--rule", "borda", "--json").json["found"]
    pruned = cli("prune", "tiny", "--scores", said["scores"], "--sparsity", "0.2", "-o", run, "--json").json
    assert pruned["method"] == "vote"
    cli("vote", run, "--scores", "magnitude").refused("two scorers or more")
    cli("vote", run, "--scores", "magnitude", "nothing").refused("nothing is no score file")
    other = tmp_path / "other.safetensors"
    Scores({"neuron.0": torch.rand(3)}, "x", {}, "another").save(other)
    cli("vote", run, "--scores", "magnitude", other).refused("another model")


def test_masks_of_different_models_and_files_that_are_none_are_refused(cli: Cli, run: Path, tmp_path: Path) -> None:
    other, none, out = tmp_path / "other.safetensors", tmp_path / "none.safetensors", tmp_path / "out.safetensors"
    Mask(Mask.load(masks(run)[0]).keep, "x", {}, "another").save(other)
    save_file({"x": torch.ones(1)}, none)
    cli("mask", "union", masks(run)[0], other, "-o", out).refused("different models")
    cli("mask", "diff", masks(run)[0], none).refused(str(none), "no graphprune.mask file")
    cli("mask", "union", masks(run)[0], tmp_path / "nowhere.safetensors", "-o", out).refused("nowhere")
    cli("mask", "union", *masks(run), "-o", tmp_path / "out.npz").refused(".safetensors")
    assert not out.exists()

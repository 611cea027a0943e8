"""Every sub-command on the shipped model: what it prints, what it writes, and that it finds it again."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from graphprune import load_model
from graphprune.centrality import CENTRALITIES
from graphprune.centrality.result import DIRECTIONS
from graphprune.cli import arguments, masks, models, pruning, ranking, searching
from graphprune.core.graph import LEVELS, WEIGHTS
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.methods import ALLOCATION_NAMES, COMPENSATIONS, PRESETS, SCORER_NAMES
from graphprune.prediction.regressors import REGRESSORS
from graphprune.prediction.sampling import DESIGNS
from graphprune.prediction.search import STRATEGIES
from graphprune.scorers import SCORERS
from graphprune.scorers.vote import Rule
from graphprune.steps.conversion import EDGE_SCORES
from graphprune.steps.exchanging import COMBINED
from tests.cli.runner import CALIBRATED, EVALUATION, SMALL, Cli, files

COMMANDS = (
    "demo", "fetch", "export", "convert", "rank", "score", "prune", "evaluate", "cost", "search", "predict", "study",
    "recover", "import", "vote", "mask", "compare", "audit", "report", "explore", "render",
)  # fmt: skip


def real(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


# Help


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS), ["--version"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    said = real(
        "import sys\nfrom graphprune.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'networkx', 'igraph'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout


def test_help_is_fast() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "graphprune", "--help"], capture_output=True, timeout=60, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1  # 0.05 s here; importing torch alone takes longer


def test_help_lists_every_command(cli: Cli) -> None:
    listed = cli("--help").out
    for command in COMMANDS:
        assert f"    {command} " in listed
        assert cli(command, "--help").out.startswith(f"usage: graphprune {command}")


def test_no_command_prints_help_and_exits_with_2(cli: Cli) -> None:
    said = cli()
    assert said.code == 2
    assert said.out.startswith("usage: graphprune")


def test_names_that_help_shows_are_those_of_the_tables() -> None:
    assert set(arguments.SCORERS) == SCORERS.keys()
    assert set(arguments.METHODS) == PRESETS.keys()
    assert pruning.ALLOCATIONS == ALLOCATION_NAMES
    assert arguments.DECIDERS == SCORER_NAMES
    assert set(ranking.CENTRALITIES) == CENTRALITIES.keys()
    assert arguments.LEVELS == LEVELS
    assert models.WEIGHTS == WEIGHTS
    assert ranking.DIRECTIONS == DIRECTIONS
    assert arguments.COMPENSATIONS == COMPENSATIONS
    assert set(models.EDGE_SCORES) == EDGE_SCORES.keys()
    assert set(searching.STRATEGIES) == STRATEGIES.keys()
    assert set(searching.DESIGNS) == DESIGNS.keys()
    assert set(searching.PREDICTORS) == REGRESSORS.keys()
    assert get_args(Rule) == masks.VOTES
    assert set(masks.COMBINED) == COMBINED.keys()


def test_a_method_is_made_of_what_there_is() -> None:
    for preset in PRESETS.values():
        assert preset.scorer in SCORER_NAMES
        assert preset.allocation in ALLOCATION_NAMES
        assert preset.compensation in COMPENSATIONS


# Steps


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def export(cli: Cli, run: Path, *options: str) -> dict[str, Any]:
    return cli("export", "tiny", "-o", run, "--json", *options).json


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_export_writes_a_graph_and_finds_it_again(cli: Cli, run: Path, level: str, weight: str) -> None:
    options = ("--level", level, "--weight", weight, *CALIBRATED)
    first = export(cli, run, *options)
    assert {"nodes", "edges", "graph", "bytes", "seconds"} <= first.keys()
    assert first["graph"] == str(run / "graph")
    assert Path(first["graph"]).is_absolute()
    assert first["bytes"] == sum(path.stat().st_size for path in (run / "graph").iterdir())
    decoder = load_model("tiny").decoder
    if level == "channel":
        assert (first["nodes"], first["edges"]) == (decoder.n_nodes, decoder.n_edges)
    before = {path: path.stat().st_mtime_ns for path in (run / "graph").iterdir()}
    second = export(cli, run, *options)
    assert second == first | {"found": True}
    assert before == {path: path.stat().st_mtime_ns for path in (run / "graph").iterdir()}


def test_export_of_other_options_replaces_the_graph(cli: Cli, run: Path) -> None:
    fine = export(cli, run, "--level", "unit")
    shards = files(run / "graph")
    coarse = export(cli, run, "--level", "block")
    assert coarse["nodes"] < fine["nodes"]
    assert not (files(run / "graph") & shards) - {"manifest.json"}


def test_export_again_where_the_graph_was_deleted(cli: Cli, run: Path) -> None:
    first = export(cli, run, "--level", "block")
    (run / "graph" / "manifest.json").unlink()
    second = export(cli, run, "--level", "block")
    assert "found" not in second
    assert second["edges"] == first["edges"]


def test_a_relative_run_folder_gives_absolute_paths(cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(cli, Path("run"), "--level", "block")["graph"] == str(tmp_path / "run" / "graph")
    pruned = cli("prune", "tiny", "--method", "magnitude", "--sparsity", "0.1", "-o", "run", "--json").json
    assert Path(pruned["mask"]).is_absolute()
    assert Path(pruned["checkpoint"]).is_absolute()


def test_convert_writes_the_adjacency(cli: Cli, run: Path, tmp_path: Path) -> None:
    exported = export(cli, run, "--level", "unit")
    path = tmp_path / "graph.npz"
    result = cli("convert", run, "--to", "npz", "-o", path, "--json").json
    assert result == {"file": str(path), "nodes": exported["nodes"], "edges": exported["edges"]}
    matrix = sparse.load_npz(path)
    assert matrix.shape == (exported["nodes"], exported["nodes"])
    assert matrix.nnz == exported["edges"]


@pytest.mark.parametrize("to", ["graphml", "gexf"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_convert_writes_scores_as_node_attributes(cli: Cli, run: Path, tmp_path: Path, to: str, suffix: str) -> None:
    import gzip

    import networkx as nx

    exported = export(cli, run, "--level", "block")
    ranked = cli("rank", run, "--json").json
    path = tmp_path / f"graph.{to}{suffix}"
    cli("convert", run, "--to", to, "-o", path, "--scores", ranked["scores"], "--json").json  # noqa: B018
    read = nx.read_graphml if to == "graphml" else nx.read_gexf
    with gzip.open(path) if suffix else path.open("rb") as file:
        graph = read(file)
    assert graph.number_of_nodes() == exported["nodes"]
    assert graph.number_of_edges() == exported["edges"]
    scores = Scores.load(Path(ranked["scores"]))
    assert all("pagerank" in data for _, data in graph.nodes(data=True))
    found = sorted(data["pagerank"] for _, data in graph.nodes(data=True))
    expected = sorted(value for values in scores.values.values() for value in values.tolist())
    assert found == pytest.approx(expected)


def test_convert_keeps_the_strongest_edges(cli: Cli, run: Path, tmp_path: Path) -> None:
    export(cli, run, "--level", "unit")
    out = tmp_path / "graph.npz"
    result = cli("convert", run, "--to", "npz", "-o", out, "--level", "unit", "--top-k", "2", "--json").json
    assert result["edges"] <= 2 * result["nodes"]
    assert 0 < result["weight_share_dropped"] < 1
    cli("convert", run, "--to", "npz", "-o", out, "--top-k", "0").refused("top_k")
    cli("convert", run, "--to", "npz", "-o", out, "--share", "1.5").refused("share")
    cli("convert", run, "--to", "npz", "-o", out, "--share", "0.5", "--top-k", "2").refused("exactly one")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rank_writes_scores_of_heads_and_neurons(cli: Cli, run: Path, direction: str) -> None:
    export(cli, run)
    options = ("--direction", direction, "--alpha", "0.9")
    result = cli("rank", run, *options, "--json").json
    assert {"centrality", "scores", "direction", "solver", "residual", "top", "seconds"} <= result.keys()
    assert result["direction"] == direction
    assert result["residual"] < 1e-5
    model = load_model("tiny")
    scores = Scores.load(Path(result["scores"]), model.units, model.identity)
    assert {"head", "neuron"} <= set(scores.kinds)
    best = max(float(v.max()) for name, v in scores.values.items() if name.startswith(("head.", "neuron.")))
    assert result["top"][0]["score"] == pytest.approx(best)
    again = cli("rank", run, *options, "--json").json
    assert again["found"]
    assert again["top"] == result["top"]


def test_rank_of_another_graph_is_computed_anew(cli: Cli, run: Path) -> None:
    export(cli, run, "--level", "unit")
    first = cli("rank", run, "--json").json
    export(cli, run, "--level", "block")
    second = cli("rank", run, "--json").json
    assert "found" not in second
    assert second["top"] != first["top"]


@pytest.mark.parametrize("scorer", SCORERS)
def test_score_writes_scores_and_finds_them_again(cli: Cli, run: Path, scorer: str) -> None:
    arguments = ("score", "tiny", "--scorer", scorer, "-o", run, *CALIBRATED, "--json")
    first = cli(*arguments).json
    assert {"scorer", "options", "scores", "units", "seconds"} <= first.keys()
    assert first["scores"] == str(run / "scores" / f"{scorer}.safetensors")
    model = load_model("tiny")
    scores = Scores.load(Path(first["scores"]), model.units, model.identity)
    assert scores.method == scorer
    assert list(scores.kinds) == first["units"]
    written = Path(first["scores"]).stat().st_mtime_ns
    assert cli(*arguments).json == first | {"found": True}
    assert Path(first["scores"]).stat().st_mtime_ns == written


def test_score_takes_options_and_a_name(cli: Cli, run: Path) -> None:
    options = ("--option", "gamma=0", "--option", "blocks=isolated", "--name", "ablation")
    result = cli("score", "tiny", "--scorer", "mlprank", "-o", run, *CALIBRATED, *options, "--json").json
    assert result["options"]["gamma"] == 0
    assert result["options"]["blocks"] == "isolated"
    assert Path(result["scores"]).name == "ablation.safetensors"
    again = ("--option", "gamma=0.0", *options[2:])
    assert cli("score", "tiny", "--scorer", "mlprank", "-o", run, *CALIBRATED, *again, "--json").json["found"]


def test_other_calibration_gives_other_scores(cli: Cli, run: Path) -> None:
    arguments = ("score", "tiny", "--scorer", "activation", "-o", run, *CALIBRATED, "--json")
    first = Scores.load(Path(cli(*arguments).json["scores"]))
    result = cli(*arguments, "--seed", "1").json
    assert "found" not in result
    second = Scores.load(Path(result["scores"]))
    assert not torch.equal(first.values["neuron.0"], second.values["neuron.0"])


PRUNED = {
    "method", "sparsity", "prunable_params_removed", "params_removed", "mask", "checkpoint", "rung", "seconds",
}  # fmt: skip


@pytest.mark.parametrize("method", arguments.METHODS)
def test_prune_writes_a_mask_and_a_checkpoint_and_finds_them_again(cli: Cli, run: Path, method: str) -> None:
    arguments = ("prune", "tiny", "--method", method, "--sparsity", "0.2", "-o", run, *CALIBRATED, "--json")
    first = cli(*arguments).json
    assert first.keys() >= PRUNED
    assert first["method"] == method
    half_an_mlp = 0.5 * 4 / 30  # of the blocks' parameters: as near as whole sub-blocks come
    assert first["sparsity"] == pytest.approx(0.2, abs=half_an_mlp + 1e-9 if method == "influence" else 1e-3)
    model, smaller = load_model("tiny"), load_model(first["checkpoint"])
    mask = Mask.load(Path(first["mask"]), model.units, model.identity)
    single = sum(int((~keep).sum()) for keep in mask.weights.values())
    assert first["n_params_removed"] == mask.removed_parameters(model.units) + single
    assert first["params_removed"] == pytest.approx(first["n_params_removed"] / model.n_parameters)
    assert smaller.n_parameters == first["checkpoint_params"]
    biases = sum(torch.Size(smaller.shapes[name]).numel() for name in smaller.shapes.keys() - model.shapes.keys())
    norms = sum(torch.Size(model.shapes[name]).numel() for name in model.shapes.keys() - smaller.shapes.keys()
                if name.endswith("layernorm.weight"))  # fmt: skip
    least = model.n_parameters - first["n_params_removed"] - norms
    assert least <= smaller.n_parameters - biases <= model.n_parameters
    assert (smaller.n_parameters < model.n_parameters) or first["rung"] == "masked" or method == "flap"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert cli(*arguments).json == first | {"found": True}
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_prune_again_where_the_checkpoint_was_deleted(cli: Cli, run: Path) -> None:
    import shutil

    arguments = ("prune", "tiny", "--method", "magnitude", "--sparsity", "0.2", "-o", run, "--json")
    first = cli(*arguments).json
    weights = load_file(Path(first["checkpoint"]) / "model.safetensors")
    shutil.rmtree(first["checkpoint"])
    second = cli(*arguments).json
    assert "found" not in second
    again = load_file(Path(second["checkpoint"]) / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(
    ("options", "rung"),
    [
        (("--units", "head", "--sparsity", "0.5"), "uniform"),
        (("--units", "neuron", "--sparsity", "0.5"), "uniform"),
        (("--units", "neuron", "--sparsity", "0.3", "--allocation", "global", "--round-to", "8"), "padded"),
        (("--sparsity", "0.3", "--head-mode", "balanced", "--rung", "masked"), "masked"),
        (("--sparsity", "0.25", "--budget", "units", "--floor", "2"), None),
    ],
)
def test_prune_takes_every_option(cli: Cli, run: Path, options: tuple[str, ...], rung: str | None) -> None:
    arguments = ("prune", "tiny", "--method", "magnitude", "--scorer", "activation", *options, "--name", "cut")
    result = cli(*arguments, "-o", run, *CALIBRATED, "--json").json
    assert result["scorer"] == "activation"
    assert rung in {None, result["rung"]}
    assert Path(result["checkpoint"]) == run / "models" / "cut"
    assert result["n_params_removed"] > 0


def test_evaluate_measures_quality_and_size(cli: Cli) -> None:
    result = cli("evaluate", "tiny", "--text", EVALUATION, "--seq-len", "64", "--max-windows", "4", "--json").json
    assert {"perplexity", "windows", "tokens", "params", "nonzero_params", "checkpoint_bytes"} <= result.keys()
    assert (result["windows"], result["tokens"]) == (4, 256)
    model = load_model("tiny")
    assert result["params"] == model.n_parameters
    assert result["checkpoint_bytes"] == (Path(str(model.folder)) / "model.safetensors").stat().st_size
    assert 1 < result["perplexity"] < 100


def test_evaluate_keeps_its_report_in_the_run(cli: Cli, run: Path) -> None:
    import json

    pruned = cli("prune", "tiny", "--method", "magnitude", "--sparsity", "0.1", "-o", run, "--json").json
    arguments = ("evaluate", pruned["checkpoint"], "--text", EVALUATION, "--seq-len", "64", "--max-windows", "2")
    result = cli(*arguments, "-o", run, "--json").json
    kept = json.loads((run / "evaluations" / "magnitude-0.1.json").read_text())
    assert kept["perplexity"] == result["perplexity"]


def test_evaluate_counts_zeros(cli: Cli, run: Path) -> None:
    arguments = ("prune", "tiny", "--method", "magnitude", "--sparsity", "0.3", "--rung", "masked", "-o", run)
    pruned = cli(*arguments, "--json").json
    small = ("--text", EVALUATION, "--seq-len", "64", "--max-windows", "2", "--json")
    dense, masked = cli("evaluate", "tiny", *small).json, cli("evaluate", pruned["checkpoint"], *small).json
    assert masked["params"] == dense["params"]
    assert dense["nonzero_params"] - masked["nonzero_params"] == pytest.approx(pruned["n_params_removed"], rel=1e-3)


def test_fetch_prints_a_folder_that_loads(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "models" / "tiny"
    assert cli("fetch", "tiny", "--to", target, "--json").json == {"folder": str(target)}
    assert cli("fetch", "tiny", "--to", target).out == f"{target}\n"
    assert load_model(target).n_parameters == load_model("tiny").n_parameters
    assert "model.py" not in files(target)


def test_fetch_leaves_a_folder_that_holds_something_else_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    cli("fetch", "tiny", "--to", tmp_path).refused(str(tmp_path), "something else")
    assert files(tmp_path) == {"notes.txt"}


def test_a_perceptron_goes_through_every_step(cli: Cli, run: Path, tmp_path: Path) -> None:
    import json

    from tests.families import perceptron

    folder, examples = tmp_path / "perceptron", tmp_path / "examples.safetensors"
    folder.mkdir()
    model = perceptron()
    (folder / "config.json").write_text(json.dumps(dict(model.config)))
    save_file(dict(model.parameters), folder / "model.safetensors")
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    labels = model.module()(inputs).argmax(dim=1)
    save_file({"inputs": inputs, "labels": labels}, examples)
    assert cli("export", folder, "-o", run, "--json").json["nodes"] == 6 + 10 + 8 + 4
    assert cli("rank", run, "--json").json["residual"] < 1e-5
    options = ("--method", "mlprank", "--sparsity", "0.3", "--calibration", examples)
    pruned = cli("prune", folder, *options, "-o", run, "--json").json
    assert pruned["rung"] == "excised"
    assert pruned["units_removed"] == {"neuron": 5}
    assert cli("evaluate", folder, "--text", examples, "--json").json["accuracy"] == 1.0
    assert cli("evaluate", pruned["checkpoint"], "--text", examples, "--json").json["accuracy"] <= 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "tiny", "--level", "block", "-o", "run"),
        ("score", "tiny", "--scorer", "random", "-o", "run"),
        ("prune", "tiny", "--method", "random", "--sparsity", "0.1", "-o", "run"),
        ("evaluate", "tiny", "--text", str(EVALUATION), *SMALL[2:], "--max-windows", "1"),
    ],
)
def test_without_json_every_fact_is_a_line(
    cli: Cli, tmp_path: Path, monkeypatch: Any, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = cli(*arguments)
    assert plain.code == 0
    facts = cli(*arguments, "--json").json
    names = {line.split()[0] for line in plain.out.splitlines()}
    assert facts.keys() - {"found"} <= names | {f"{name}:" for name in names}


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "graphprune", "fetch", "tiny", "--to", str(tmp_path / "tiny"), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == f'{{"folder": "{tmp_path / "tiny"}"}}\n'

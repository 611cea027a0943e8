"""`graphprune rank`: tables, score files, options, and pruning by what it found."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import load_model
from graphprune.centrality import CENTRALITIES, katz, pagerank
from graphprune.centrality.units import per_unit
from graphprune.core.graph_store import load_graph
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from tests.cli.runner import Cli, files

FAST = sorted(CENTRALITIES.keys() - {"closeness", "harmonic", "betweenness"})


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    assert cli("export", "tiny", "--level", "unit", "-o", tmp_path / "run").code == 0
    return tmp_path / "run"


def test_every_centrality_stores_scores_that_can_prune(cli: Cli, run: Path) -> None:
    results = cli("rank", run, "--centrality", *FAST, "--top", "7", "--json").json["results"]
    model = load_model("tiny")
    assert [result["centrality"] for result in results] == FAST
    for result in results:
        assert {"scores", "direction", "normalisation", "solver", "residual", "top", "seconds"} <= result.keys()
        scores = Scores.load(Path(result["scores"]), model.units, model.identity)
        assert scores.method == result["centrality"]
        assert {"head", "neuron"} <= set(scores.kinds)
        assert len(result["top"]) == 7
        listed = [entry["score"] for entry in result["top"]]
        assert listed == sorted(listed, reverse=True)
        best = max(float(v.max()) for name, v in scores.values.items() if name.startswith(("head.", "neuron.")))
        assert listed[0] == best


@pytest.mark.parametrize("measure", ["closeness", "harmonic", "betweenness"])
def test_a_sample_of_sources_is_an_option(cli: Cli, run: Path, measure: str) -> None:
    result = cli("rank", run, "--centrality", measure, "--option", "k=16", "--json").json
    assert "16 sampled sources" in result["solver"]
    again = cli("rank", run, "--centrality", measure, "--option", "k=16", "--option", "seed=1", "--json").json
    assert "found" not in again
    assert again["top"] != result["top"]


def test_the_table_has_a_column_for_each_centrality(cli: Cli, run: Path) -> None:
    said = cli("rank", run, "--centrality", "pagerank", "katz", "--top", "3")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].split() == ["centrality", "direction", "scaled", "to", "solver", "residual", "scores"]
    assert lines[1].startswith("pagerank")
    assert lines[2].startswith("katz")
    assert lines[4].split() == ["pagerank", "katz"]
    assert [line.split()[0] for line in lines[5:]] == ["1", "2", "3"]
    assert all(len(line.split()) == 5 for line in lines[5:])
    graph = load_graph(run / "graph")
    units = per_unit(graph, pagerank(graph))
    name, score = lines[5].split()[1:3]
    group, _, position = name.rpartition(".")
    assert f"{units[group][int(position)]:.4g}" == score


def test_options_go_to_the_centralities_that_have_them(cli: Cli, run: Path) -> None:
    options = ("--alpha", "0.5", "--direction", "backward", "--option", "beta=2", "--personalization", "outputs")
    results = cli("rank", run, "--centrality", "pagerank", "katz", "in_degree", *options, "--json").json["results"]
    graph = load_graph(run / "graph")
    expected = {
        "pagerank-backward": pagerank(graph, 0.5, "outputs", direction="backward"),
        "katz-backward": katz(graph, 0.5, 2.0, direction="backward"),
    }
    for result, (name, measure) in zip(results[:2], expected.items(), strict=True):
        assert Path(result["scores"]).stem == name
        stored = Scores.load(Path(result["scores"])).values
        for group, values in per_unit(graph, measure).items():
            torch.testing.assert_close(stored[group], values)
    assert Path(results[2]["scores"]).stem == "in_degree"


def test_a_finished_ranking_is_found_again_unless_it_was_of_another_graph(cli: Cli, run: Path) -> None:
    first = cli("rank", run, "--centrality", "katz", "coreness", "--json").json["results"]
    again = cli("rank", run, "--centrality", "katz", "coreness", "--json").json["results"]
    assert all(result["found"] for result in again)
    assert [r["top"] for r in again] == [r["top"] for r in first]
    for change in (("--level", "block"), ("--top-k", "4"), ("--share", "0.5"), ("--option", "alpha=0.2")):
        (changed,) = cli("rank", run, "--centrality", "katz", *change, "--json").json["results"]
        assert "found" not in changed


def test_coreness_of_a_sparsified_graph_tells_units_apart(cli: Cli, run: Path) -> None:
    full = Scores.load(Path(cli("rank", run, "--centrality", "coreness", "--json").json["scores"]))
    assert full.values["neuron.0"].min() == full.values["neuron.0"].max()
    sparse = Scores.load(Path(cli("rank", run, "--centrality", "coreness", "--share", "0.3", "--json").json["scores"]))
    assert sparse.values["neuron.0"].min() < sparse.values["neuron.0"].max()


def test_a_centrality_prunes(cli: Cli, run: Path) -> None:
    scores = cli("rank", run, "--centrality", "path_mass", "--json").json["scores"]
    arguments = ("prune", "tiny", "--scores", scores, "--sparsity", "0.2", "--units", "neuron", "-o", run, "--json")
    result = cli(*arguments).json
    assert (result["method"], Path(result["mask"]).stem) == ("path_mass", "path_mass-0.2")
    assert result["prunable_params_removed"] == pytest.approx(0.2, abs=0.01)
    keep = Mask.load(Path(result["mask"])).keep
    values = Scores.load(Path(scores)).values
    for name in ("neuron.0", "neuron.5"):
        assert values[name][~keep[name]].max() <= values[name][keep[name]].min()
    assert cli(*arguments).json["found"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--centrality", "pagernak"), ("'pagernak'", "did you mean 'pagerank'?")),
        (("--centrality", "katz", "xyz"), ("'xyz'", "there are in_degree")),
        (("--centrality", "eigenvector"), ("acyclic", "katz", "pagerank")),
        (("--alpha", "1.5"), ("alpha", "[0, 1]", "1.5")),
        (("--centrality", "katz", "--alpha", "-1"), ("alpha", "-1")),
        (("--centrality", "in_degree", "--alpha", "0.5"), ("in_degree", "no option 'alpha'", "normalized")),
        (("--centrality", "in_degree", "coreness", "--alpha", "0.5"), ("none of in_degree, coreness", "'alpha'")),
        (("--centrality", "betweenness", "--option", "k=2"), ("k", "between 3 and", "not 2")),
        (("--centrality", "betweenness", "--option", "k=many"), ("k can't be 'many'",)),
        (("--centrality", "betweenness", "--option", "weight=length"), ("'length'", "weight or inverse")),
        (("--centrality", "hits", "--direction", "both"), ("direction", "both", "forward or backward")),
        (("--option", "alpha"), ("KEY=VALUE",)),
        (("--top", "0"), ("--top", "not 0")),
        (("--top-k", "0"), ("top_k", "not 0")),
        (("--share", "2"), ("share", "2")),
        (("--centrality", "katz", "pagerank", "--name", "mine"), ("--name",)),
        (("--device", "cuda:99"), ("cuda:99",)),
        (("--device", "gpu"), ("'gpu'",)),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(cli: Cli, run: Path, arguments: Any, words: Any) -> None:
    before = files(run)
    cli("rank", run, *arguments).refused(*words)
    assert files(run) == before


def test_exactness_that_would_take_hours_is_refused_with_a_way_out(cli: Cli, run: Path, monkeypatch: Any) -> None:
    for module in ("sampling", "reaching"):
        monkeypatch.setattr(sys.modules[f"graphprune.centrality.{module}"], "WORK", 1e6)
    cli("rank", run, "--centrality", "closeness").refused("exact closeness", "give k")
    cli("rank", run, "--centrality", "reaching").refused("too many steps")


def test_a_signed_graph_is_refused_where_weights_may_not_be_negative(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "signed"
    assert cli("export", "tiny", "--weight", "signed", "-o", run).code == 0
    for measure in ("pagerank", "hits", "path_mass", "reaching", "trophic_levels"):
        cli("rank", run, "--centrality", measure).refused("non-negative weights")
    assert cli("rank", run, "--centrality", "katz", "in_strength", "in_degree").code == 0
    assert cli("rank", run, "--centrality", "pagerank", "--unweighted").code == 0


def test_scores_that_cannot_prune_are_refused(cli: Cli, run: Path, tmp_path: Path) -> None:
    prune = ("prune", "tiny", "--sparsity", "0.2", "-o", run)
    cli(*prune, "--scores", tmp_path / "nowhere.safetensors").refused("nowhere.safetensors", "not there")
    blocks = cli("rank", run, "--level", "block", "--json").json["scores"]
    cli(*prune, "--scores", blocks).refused("no heads and no neurons")
    cli(*prune, "--scores", blocks, "--scorer", "wanda").refused("--scorer")
    assert cli(*prune).code == 2
    assert cli(*prune, "--scores", blocks, "--method", "wanda").code == 2


def test_convert_writes_scores_of_nodes_and_edges(cli: Cli, run: Path, tmp_path: Path) -> None:
    import igraph
    import networkx as nx

    ranked = cli("rank", run, "--centrality", "pagerank", "coreness", "--json").json["results"]
    path = tmp_path / "graph.graphml.gz"
    scores = [result["scores"] for result in ranked]
    options = ("--to", "graphml", "--top-k", "4", "--scores", *scores, "--edge-scores", "path_mass")
    made = cli("convert", run, "-o", path, *options, "--json").json
    graph = nx.read_graphml(path)
    again = igraph.Graph.Read_GraphMLz(str(path))
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (made["nodes"], made["edges"])
    assert (again.vcount(), again.ecount()) == (made["nodes"], made["edges"])
    stored = Scores.load(Path(scores[0])).values
    for name in ("neuron.0.3", "resid.2.5", "head.1.0"):
        group, _, position = name.rpartition(".")
        assert graph.nodes[name]["pagerank"] == pytest.approx(float(stored[group][int(position)]))
        assert graph.nodes[name]["coreness"] > 0
        assert again.vs.find(id=name)["pagerank"] == graph.nodes[name]["pagerank"]
    masses = nx.get_edge_attributes(graph, "path_mass")
    assert len(masses) == made["edges"]
    arriving = sum(mass for (_, target), mass in masses.items() if graph.out_degree(target) == 0)
    assert arriving == pytest.approx(1.0, abs=1e-5)
    cli("convert", run, "--to", "npz", "-o", tmp_path / "g.npz", "--scores", *scores).refused("no room for scores")

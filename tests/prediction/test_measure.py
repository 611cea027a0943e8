"""Candidates are really pruned and really judged, by the same numbers as the rest of the package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune import Model, evaluate
from graphprune.calibration.text import read_text, windows
from graphprune.core.errors import InputError
from graphprune.methods import Cut, Recipe
from graphprune.prediction.architecture import Architecture, Space
from graphprune.prediction.executors import Executor, measured
from graphprune.prediction.measure import Bench, Job, Stop, prepared
from graphprune.prediction.pairs import PairStore
from graphprune.prediction.sampling import sampled
from graphprune.pruning import Evidence, apply
from graphprune.steps.searching import default_recipe
from graphprune.surgery.cut import zeroed
from tests import families
from tests.cli.runner import CALIBRATION, EVALUATION

SEQ_LEN = 64


@pytest.fixture(scope="module")
def evidence(tiny: Model) -> Evidence:
    return Evidence.of_text(tiny, CALIBRATION, n_samples=32, seq_len=SEQ_LEN)


@pytest.fixture(scope="module")
def rows(tiny: Model) -> torch.Tensor:
    return windows(tiny.tokenizer, read_text(EVALUATION), SEQ_LEN)[:8]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("statistics")


@pytest.fixture(scope="module")
def job(evidence: Evidence, rows: torch.Tensor, scratch: Path) -> Job:
    return prepared(evidence, Recipe.of("wanda", compensation="obs"), {"text": rows}, scratch=scratch)


@pytest.fixture(scope="module")
def some(tiny: Model) -> tuple[Architecture, ...]:
    return sampled(Space.of(tiny), 3, sparsity=0.3)


def perplexity_of(model: Model, rows: torch.Tensor) -> float:
    value = evaluate(model, rows).perplexity
    assert value is not None
    return value


def test_nothing_removed_is_the_dense_model(tiny: Model, job: Job, rows: torch.Tensor) -> None:
    pair = Bench(job, tiny).measure(Architecture({}))
    assert pair.quality["perplexity.text"] == pytest.approx(perplexity_of(tiny, rows), rel=1e-5)
    assert len(pair.losses["text"]) == len(rows)


@pytest.mark.parametrize(
    ("recipe", "sequential"),
    [
        (Recipe.of("magnitude"), False),
        (Recipe.of("wanda", compensation="obs"), False),
        (Recipe.of("wanda", compensation="obs"), True),
        (Recipe.of("wanda", compensation="obs", cut=Cut(head_mode="balanced")), False),
        (Recipe.of("slimgpt"), False),
        (Recipe.of("flap", cut=Cut(units="neuron")), False),
    ],
)
def test_the_quality_is_that_of_the_model_that_is_pruned(
    tiny: Model, evidence: Evidence, rows: torch.Tensor, scratch: Path, recipe: Recipe, sequential: bool
) -> None:
    """Built anew from zeroed parameters and read by `evaluate`, it gives the same perplexity."""
    job = prepared(evidence, recipe, {"text": rows}, scratch=scratch, sequential=sequential)
    bench = Bench(job, tiny)
    space = Space.of(tiny, recipe.cut)
    architecture = space.realised(np.linspace(0.5, 0.1, len(space)), 0.3)
    mask, changed = bench.pruned(architecture)
    assert mask.removed_parameters(tiny.units) == space.removed(architecture)
    built = Model.from_parameters(
        changed.config, zeroed(changed.parameters, changed.units, mask), tokenizer=tiny.tokenizer
    )
    pair = bench.measure(architecture)
    assert pair.quality["perplexity.text"] == pytest.approx(perplexity_of(built, rows), rel=1e-4)
    assert pair.quality["perplexity.text"] > 1.01 * perplexity_of(tiny, rows)


@pytest.mark.parametrize("model_type", ["gpt2", "phi3", "olmo2"])
def test_classes_with_other_names_are_measured_and_put_back(model_type: str, tmp_path: Path) -> None:
    model, windows = families.decoder(model_type), families.token_ids(3, 12)
    evidence = Evidence.of_text(model, families.token_ids(8, 12, seed=1))
    bench = Bench(prepared(evidence, default_recipe(), {"text": windows}, scratch=tmp_path), model)
    dense = bench.measure(Architecture({})).losses
    architecture = Architecture({"head.0": 1, "neuron.1": 9})
    mask, changed = bench.pruned(architecture)
    built = Model.from_parameters(changed.config, zeroed(changed.parameters, changed.units, mask))
    found = bench.measure(architecture)
    assert found.quality["perplexity.text"] == pytest.approx(perplexity_of(built, windows), rel=1e-4)
    assert found.losses != dense == bench.measure(Architecture({})).losses


def test_a_bench_puts_the_model_back_after_every_candidate(
    tiny: Model, job: Job, some: tuple[Architecture, ...]
) -> None:
    bench = Bench(job, tiny)
    first = bench.measure(some[0]).losses
    bench.measure(some[1])
    assert bench.measure(some[0]).losses == first
    assert bench.measure(Architecture({})).losses == Bench(job, tiny).measure(Architecture({})).losses


def test_repair_with_statistics_of_the_dense_model_beats_none(
    tiny: Model, evidence: Evidence, job: Job, rows: torch.Tensor, some: tuple[Architecture, ...]
) -> None:
    bare = prepared(evidence, Recipe.of("wanda"), {"text": rows})
    for architecture in some:
        repaired = Bench(job, tiny).measure(architecture).quality["perplexity.text"]
        assert repaired < Bench(bare, tiny).measure(architecture).quality["perplexity.text"]


def test_repair_without_a_pass_equals_the_engines_in_the_first_block(tiny: Model, evidence: Evidence, job: Job) -> None:
    """Before the first block there is nothing pruned, so statistics of the dense model are those of the pruned one."""
    architecture = Architecture({"head.0": 2})
    _, cheap = Bench(job, tiny).pruned(architecture)
    engine = apply(job.recipe, 0.0, evidence, remove=architecture.remove).model
    name = "model.layers.0.self_attn.o_proj.weight"
    torch.testing.assert_close(cheap.parameters[name], engine.parameters[name], atol=1e-5, rtol=1e-4)
    assert not torch.equal(cheap.parameters[name], tiny.parameters[name])


def test_a_hopeless_candidate_is_stopped_early_and_its_estimate_is_near(tiny: Model, job: Job) -> None:
    space = Space.of(tiny)
    reference = Bench(job, tiny).measure(space.realised(np.full(len(space), 0.1), 0.1))
    stop = replace(job, stop=Stop(0.2, reference.losses))
    bad = space.realised(np.ones(len(space)), 0.6)
    stopped, whole = Bench(stop, tiny).measure(bad), Bench(job, tiny).measure(bad)
    assert stopped.stopped
    assert not whole.stopped
    assert len(stopped.losses["text"]) == 2 < len(whole.losses["text"]) == 8
    nats = np.log([stopped.quality["perplexity.text"], whole.quality["perplexity.text"]])
    assert nats[0] == pytest.approx(nats[1], abs=0.3)
    good = space.realised(np.full(len(space), 0.1), 0.12)
    assert not Bench(stop, tiny).measure(good).stopped
    assert Bench(stop, tiny).measure(good).losses == Bench(job, tiny).measure(good).losses


def test_two_windows_are_both_read_before_anything_is_decided(tiny: Model, job: Job, rows: torch.Tensor) -> None:
    two = replace(job, texts={"text": rows[:2]})
    dense = Bench(two, tiny).measure(Architecture({}))
    assert Bench(replace(two, stop=Stop(0.2, dense.losses)), tiny).measure(Architecture({})).losses == dense.losses


def test_judges_and_several_texts_are_measured_side_by_side(
    tiny: Model, evidence: Evidence, rows: torch.Tensor, some: tuple[Architecture, ...]
) -> None:
    def kept(network: torch.nn.Module) -> float:
        weight = network.get_parameter("model.layers.0.mlp.down_proj.weight")
        return float((weight != 0).any(dim=0).double().mean())

    job = prepared(evidence, Recipe.of("magnitude"), {"a": rows[:4], "b": rows[4:]}, judges={"kept": kept})
    assert job.targets == ("perplexity.a", "perplexity.b", "kept")
    pair = Bench(job, tiny).measure(some[0])
    assert tuple(pair.quality) == job.targets
    assert pair.quality["kept"] == pytest.approx(1 - some[0].remove.get("neuron.0", 0) / 512)


def test_a_network_that_gives_no_number_has_no_quality_and_is_remembered(
    tiny: Model, evidence: Evidence, rows: torch.Tensor, tmp_path: Path, some: tuple[Architecture, ...]
) -> None:
    job = prepared(evidence, Recipe.of("magnitude"), {"a": rows}, judges={"broken": lambda _: float("nan")})
    store = PairStore(tmp_path / "pairs.jsonl", job.origin)
    (pair,) = measured(Executor(), job, tiny, some[:1], store)
    assert pair.quality == {}
    assert store.pairs() == {some[0].key: pair}


def test_what_the_store_has_is_never_measured_again(
    tiny: Model, job: Job, tmp_path: Path, some: tuple[Architecture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PairStore(tmp_path / "pairs.jsonl", job.origin)
    first = measured(Executor(), job, tiny, some[:2], store)
    lines = store.path.read_text()
    again = measured(Executor(), job, tiny, (*some, some[0]), store)
    assert again[:2] == first
    assert again[3] == first[0]
    assert store.path.read_text().startswith(lines)
    assert len(store.pairs()) == 3
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("it was measured again"))
    assert measured(Executor(), job, tiny, some, store) == again[:3]


def test_a_run_that_is_interrupted_keeps_what_it_had(
    tiny: Model, job: Job, tmp_path: Path, some: tuple[Architecture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = PairStore(tmp_path / "pairs.jsonl", job.origin), Bench.measure

    def interrupted(self: Bench, architecture: Architecture) -> object:
        if architecture == some[2]:
            raise KeyboardInterrupt
        return real(self, architecture)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measured(Executor(), job, tiny, some, store)
    assert list(store.pairs()) == [made.key for made in some[:2]]


def test_pairs_know_what_they_were_measured_with(tiny: Model, evidence: Evidence, rows: torch.Tensor, job: Job) -> None:
    other = Evidence.of_text(tiny, CALIBRATION, n_samples=32, seq_len=SEQ_LEN, seed=1)
    recipe = Recipe.of("magnitude")
    base = prepared(evidence, recipe, {"text": rows}).origin
    assert prepared(evidence, recipe, {"text": rows}).origin == base
    assert prepared(evidence, recipe, {"text": rows[:4]}).origin.text != base.text
    assert prepared(evidence, Recipe.of("magnitude", cut=Cut(head_mode="balanced")), {"text": rows}).origin != base
    assert prepared(other, recipe, {"text": rows}).origin.method != base.method
    assert prepared(evidence, recipe, {"text": rows}, sequential=True).origin.method != base.method
    assert job.origin.method != base.method
    assert prepared(evidence, Recipe.of("magnitude", cut=Cut("log")), {"text": rows}).origin == base


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": Recipe.of("sparsegpt")}, "single weights have none"),
        ({"texts": {}}, "at least one text"),
        ({"texts": {"short": torch.ones(1, 8, dtype=torch.long)}}, "short has 1 windows"),
        ({"recipe": Recipe.of("wanda", compensation="obs")}, "need a folder"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(
    evidence: Evidence, rows: torch.Tensor, change: dict[str, object], words: str
) -> None:
    given: dict[str, object] = {"recipe": Recipe.of("magnitude"), "texts": {"text": rows}} | change
    with pytest.raises(InputError, match=words):
        prepared(evidence, **given)  # type: ignore[arg-type]


def test_a_perceptron_and_another_model_are_refused(job: Job) -> None:
    with pytest.raises(InputError, match="perceptron"):
        prepared(Evidence(families.perceptron()), Recipe.of("magnitude"), {"text": torch.ones(2, 4, dtype=torch.long)})
    with pytest.raises(InputError, match="not the model that the statistics are of"):
        Bench(job, families.decoder("llama"))
    with pytest.raises(InputError, match="in memory"):
        Bench(replace(job, folder=None))


@pytest.mark.parametrize(
    ("probe", "margin", "words"), [(0.0, 1.0, "not 0"), (1.0, 1.0, "not 1"), (0.5, -1.0, "not -1")]
)
def test_a_rule_for_stopping_that_makes_no_sense_is_refused(probe: float, margin: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Stop(margin, {"text": (1.0, 2.0)}, probe)

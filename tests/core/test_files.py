"""Scores, masks, statistics and run folders on disk: round trips, and every way a file can be wrong."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from graphprune import CalibrationStats, Mask, Model, Scores, calibrate, score
from graphprune.calibration.forward import site_sizes
from graphprune.core.errors import FormatError, GraphpruneError, InputError
from graphprune.core.io import write_json
from graphprune.core.run import Run, checked_name
from tests import families

Tensors = dict[str, torch.Tensor]


def model(seed: int = 0) -> Model:
    return families.decoder("llama", seed=seed)


def a_mask(of: Model) -> Mask:
    keep = dict(Mask.full(of.units).keep)
    keep["neuron.0"] = torch.arange(24) % 3 > 0
    return Mask(keep, "magnitude", {"sparsity": 0.1, "scorer": {"norm": 1}}, of.identity)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to write a good one, and how to read one against a model."""

    save: Callable[[Model, Path], None]
    load: Callable[[Path, Model], object]
    first: str
    dtype: torch.dtype


KINDS = {
    "scores": Kind(
        lambda m, path: score(m, "magnitude").save(path),
        lambda path, m: Scores.load(path, m.units, m.identity),
        "neuron.0",
        torch.float32,
    ),
    "mask": Kind(
        lambda m, path: a_mask(m).save(path),
        lambda path, m: Mask.load(path, m.units, m.identity),
        "neuron.0",
        torch.bool,
    ),
    "stats": Kind(
        lambda m, path: calibrate(m, families.token_ids(2, 8)).save(path),
        lambda path, m: CalibrationStats.load(path, site_sizes(m), m.identity),
        "neuron.0",
        torch.float64,
    ),
}


def contents(path: Path) -> tuple[Tensors, dict[str, str]]:
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def damaged(path: Path, change: Callable[[Tensors, dict[str, str]], None]) -> None:
    tensors, metadata = contents(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


# Round trips


def test_scores_survive_a_round_trip(tmp_path: Path) -> None:
    m, path = model(), tmp_path / "scores" / "x.safetensors"
    scores = score(m, "mlprank", stats=calibrate(m, families.token_ids(2, 8)), gamma=0.5)
    scores.save(path)
    loaded = Scores.load(path, m.units, m.identity)
    assert (loaded.method, loaded.options, loaded.model, loaded.inputs) == (
        "mlprank",
        scores.options,
        m.identity,
        scores.inputs,
    )
    assert loaded.values.keys() == scores.values.keys()
    assert all(torch.equal(loaded.values[name], values) for name, values in scores.values.items())


def test_a_mask_survives_a_round_trip(tmp_path: Path) -> None:
    m, path = model(), tmp_path / "masks" / "x.safetensors"
    mask = a_mask(m)
    mask.save(path)
    loaded = Mask.load(path, m.units, m.identity)
    assert (loaded.method, loaded.options, loaded.model) == (mask.method, mask.options, m.identity)
    assert loaded.keep.keys() == mask.keep.keys()
    assert all(torch.equal(loaded.keep[name], keep) for name, keep in mask.keep.items())


def test_statistics_survive_a_round_trip(tmp_path: Path) -> None:
    m, path = model(), tmp_path / "stats" / "x.safetensors"
    stats = calibrate(m, families.token_ids(2, 8))
    stats.save(path)
    loaded = CalibrationStats.load(path, site_sizes(m), m.identity)
    assert (loaded.n_tokens, loaded.model, loaded.options) == (16, m.identity, stats.options)
    assert loaded.squares.keys() == stats.squares.keys()
    assert all(torch.equal(loaded.squares[site], values) for site, values in stats.squares.items())


@pytest.mark.parametrize("kind", ["scores", "mask"])
def test_the_facts_stand_beside_the_file_as_json(tmp_path: Path, kind: str) -> None:
    m, path = model(), tmp_path / "x.safetensors"
    KINDS[kind].save(m, path)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["format"] == f"graphprune.{kind}"
    assert facts["model"] == m.identity
    assert facts["units"]["neuron.0"] == [24]
    assert {name: json.loads(value) for name, value in contents(path)[1].items()} == facts


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(6)]
    for path in files:
        KINDS[kind].save(model(), path)
    assert len({path.read_bytes() for path in files}) == 1


def test_metadata_of_any_text_survives(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    odd = 'ü "quoted" \\ \n \t \x01 \x7f \u2028 😀 /'
    Mask({"neuron.0": torch.ones(3, dtype=torch.bool)}, odd, {odd: [odd, 1.5, None]}, "m").save(path)
    loaded = Mask.load(path)
    assert (loaded.method, loaded.options) == (odd, {odd: [odd, 1.5, None]})


def test_files_can_be_read_by_everyone(tmp_path: Path) -> None:
    for kind in KINDS.values():
        path = tmp_path / "x.safetensors"
        kind.save(model(), path)
        assert path.stat().st_mode & 0o777 == 0o644


# Damage


def set_value(name: str, value: float) -> Callable[[Tensors, dict[str, str]], None]:
    def change(tensors: Tensors, _: dict[str, str]) -> None:
        tensors[name][3] = value

    return change


def drop(tensors: Tensors, _: dict[str, str]) -> None:
    del tensors["neuron.0"]


def extra(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["neuron.7"] = tensors["neuron.0"].clone()


def shorter(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["neuron.0"] = tensors["neuron.0"][:-1].clone()


def two_dimensional(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["neuron.0"] = tensors["neuron.0"].view(4, 6).clone()


def another_dtype(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["neuron.0"] = tensors["neuron.0"].to(torch.float16)


def meta(**facts: object) -> Callable[[Tensors, dict[str, str]], None]:
    def change(_: Tensors, metadata: dict[str, str]) -> None:
        metadata.update({name: json.dumps(value) for name, value in facts.items()})

    return change


def without(name: str) -> Callable[[Tensors, dict[str, str]], None]:
    def change(_: Tensors, metadata: dict[str, str]) -> None:
        del metadata[name]

    return change


def no_json(_: Tensors, metadata: dict[str, str]) -> None:
    metadata["options"] = "{"


def no_metadata(_: Tensors, metadata: dict[str, str]) -> None:
    metadata.clear()


DAMAGE: Mapping[str, Callable[[Tensors, dict[str, str]], None]] = {
    "a missing group": drop,
    "an extra group": extra,
    "a shorter group": shorter,
    "two dimensions": two_dimensional,
    "another type": another_dtype,
    "a newer version": meta(version=99),
    "a version that is no number": meta(version="one"),
    "another kind": meta(format="graphprune.something"),
    "no format": without("format"),
    "no version": without("version"),
    "no model": without("model"),
    "no options": without("options"),
    "another model": meta(model="0" * 64),
    "options that are no object": meta(options=[1]),
    "a model that is no text": meta(model=None),
    "damaged metadata": no_json,
    "no metadata": no_metadata,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_with_damage_is_refused_by_name(tmp_path: Path, kind: str, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    KINDS[kind].save(model(), path)
    KINDS[kind].load(path, model())
    damaged(path, DAMAGE[damage])
    with pytest.raises(FormatError) as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["scores", "stats"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused(tmp_path: Path, kind: str, value: float) -> None:
    path = tmp_path / "x.safetensors"
    KINDS[kind].save(model(), path)
    damaged(path, set_value("neuron.0", value))
    with pytest.raises(FormatError, match="NaN or infinite") as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)


def test_statistics_below_zero_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    KINDS["stats"].save(model(), path)
    damaged(path, set_value("neuron.0", -1.0))
    with pytest.raises(FormatError, match="negative") as caught:
        CalibrationStats.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, "many", None])
def test_statistics_of_no_tokens_are_refused(tmp_path: Path, count: object) -> None:
    path = tmp_path / "x.safetensors"
    KINDS["stats"].save(model(), path)
    damaged(path, meta(n_tokens=count))
    with pytest.raises(FormatError, match="tokens") as caught:
        CalibrationStats.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused_by_name(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "x.safetensors"
    KINDS[kind].save(model(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FormatError, match="truncated, corrupt or no safetensors") as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text('{"format": "graphprune.mask"}' * 20)
    with pytest.raises(FormatError) as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, kind: str, other: str) -> None:
    path = tmp_path / "x.safetensors"
    KINDS[other].save(model(), path)
    if kind == other:
        KINDS[kind].load(path, model())
        return
    with pytest.raises(FormatError) as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="not there") as caught:
        KINDS[kind].load(path, model())
    assert str(path) in str(caught.value)


def test_a_mask_that_leaves_a_query_head_without_its_keys_is_refused(tmp_path: Path) -> None:
    m, path = model(), tmp_path / "x.safetensors"
    keep = dict(Mask.full(m.units).keep)
    keep["kv_head.1"] = torch.tensor([True, False])
    Mask(keep, model=m.identity).save(path)
    with pytest.raises(FormatError, match="block 1") as caught:
        Mask.load(path, m.units, m.identity)
    assert str(path) in str(caught.value)


def test_scores_are_finite_and_float32() -> None:
    for values in (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")])):
        with pytest.raises(ValueError, match=r"gave neuron\.0 a score that is NaN or infinite"):
            Scores({"neuron.0": values}, "test")
    with pytest.raises(ValueError, match="float32"):
        Scores({"neuron.0": torch.zeros(2, dtype=torch.float64)}, "test")


# Run folders


def test_a_run_is_made_for_a_model_and_opened_again(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", identity="abc", facts={"name": "tiny"})
    assert Run.open(tmp_path / "run") == run
    assert Run.open(tmp_path / "run", identity="abc") == run
    manifest = run.manifest()
    assert manifest["model"] == {"identity": "abc", "name": "tiny"}
    assert {"graphprune", "torch", "transformers", "python"} <= manifest["versions"].keys()
    with pytest.raises(FormatError, match="belongs to another model"):
        Run.open(tmp_path / "run", identity="xyz")


def test_a_step_is_found_again_by_its_inputs_while_its_outputs_are_there(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", identity="abc")
    output = run.folder / "out.txt"
    assert run.finished("step", "k1") is None
    with run.recording("step", "k1", {"option": 1}) as record:
        output.write_text("done")
        record.outputs.append(output)
        record.result["value"] = 3
    found = run.finished("step", "k1")
    assert found is not None
    assert found["value"] == 3
    assert found["seconds"] >= 0
    assert run.finished("step", "k2") is None
    assert run.finished("other", "k1") is None
    output.unlink()
    assert run.finished("step", "k1") is None


def test_a_step_that_failed_is_not_found(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", identity="abc")

    def fail() -> None:
        with run.recording("step", "k1", {}):
            raise GraphpruneError("stop")

    with pytest.raises(GraphpruneError, match="stop"):
        fail()
    assert run.finished("step", "k1") is None


def manifests() -> Iterator[Any]:
    good: dict[str, Any] = {"format": "graphprune.run", "version": 1, "model": {"identity": "abc"}, "steps": {}}
    yield pytest.param(good | {"version": 2}, FormatError, id="newer")
    yield pytest.param(good | {"version": "1"}, FormatError, id="version that is no number")
    yield pytest.param({"format": "graphprune.run", "version": 1}, FormatError, id="no model")
    yield pytest.param(good | {"model": "tiny"}, FormatError, id="model that is no object")
    yield pytest.param(good | {"steps": []}, FormatError, id="steps that are no object")
    yield pytest.param(good | {"format": "other"}, InputError, id="other program")


@pytest.mark.parametrize(("manifest", "error"), list(manifests()))
def test_a_run_with_a_damaged_manifest_is_refused(
    tmp_path: Path, manifest: dict[str, Any], error: type[GraphpruneError]
) -> None:
    write_json(tmp_path / "run" / "manifest.json", manifest)
    with pytest.raises(error, match=str(tmp_path / "run")):
        Run.open(tmp_path / "run", identity="abc")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="can't be the name of a file"):
        checked_name(name)


def test_a_plain_name_is_kept() -> None:
    for name in ("mlprank", "wanda-0.25", "a b", "ü"):
        assert checked_name(name) == name

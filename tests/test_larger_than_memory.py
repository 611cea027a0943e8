"""What each step holds of a model at a time: never much more than a block, however many there are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, calibrate, export, score
from graphprune.calibration.influence import influence
from graphprune.core.memory import give_back
from graphprune.methods import Recipe
from graphprune.models import checkpoint as reading
from graphprune.models.checkpoint import Checkpoint
from graphprune.pruning import Evidence, apply
from graphprune.solvers.sequential import Journal
from graphprune.surgery import checkpoint
from graphprune.surgery.checkpoint import save_pruned
from tests.families import causal_lm, decoder, token_ids
from tests.models.resident import Resident, block_bytes, watched

LAYERS = 8
ROWS = token_ids(3, 12)
MOST = 1.5  # blocks in memory; a step reads a layer of one a second time, or those of the next before it has let go


def deep(model_type: str = "llama") -> Model:
    return decoder(model_type, num_hidden_layers=LAYERS)


def in_shards(folder: Path) -> Model:
    """The same network as a checkpoint, about as many files as blocks."""
    network: Any = causal_lm("llama", num_hidden_layers=LAYERS)
    network.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > LAYERS // 2
    return Model.from_folder(folder)


def pruned(model: Model, folder: Path, method: str = "slimgpt", **options: Any) -> checkpoint.Saved:
    evidence = Evidence.of_text(model, ROWS)
    cutting = apply(Recipe.of(method, **options), 0.3, evidence, journal=Journal(folder / "journal"))
    return save_pruned(cutting.model, cutting.mask, folder / "pruned")


STEPS: dict[str, Callable[[Model, Path], object]] = {
    "export": lambda model, folder: export(model, folder=folder),
    "calibrate": lambda model, _: calibrate(model, ROWS),
    "influence": lambda model, _: influence(model, ROWS),
    "score by magnitude": lambda model, _: score(model, "magnitude"),
    "score by wanda": lambda model, _: score(model, "wanda", stats=calibrate(model, ROWS)),
    "score by llmrank": lambda model, _: score(model, "llmrank", stats=calibrate(model, ROWS)),
    "prune by slimgpt": pruned,
    "prune by sparsegpt": lambda model, folder: pruned(model, folder, "sparsegpt"),
    "prune by flap": lambda model, folder: pruned(model, folder, "flap"),
    "prune by magnitude": lambda model, folder: pruned(model, folder, "magnitude", compensation="obs"),
}


@pytest.mark.parametrize("step", STEPS)
def test_little_more_than_a_block_is_in_memory(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, resident = watched(deep())
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", block_bytes(model))
    STEPS[step](model, tmp_path)
    assert resident.most <= MOST * block_bytes(model), resident.most / block_bytes(model)
    assert resident.now == 0


def test_slimgpt_reads_the_model_to_prune_it_to_write_it_and_to_check_it(tmp_path: Path) -> None:
    """And what it repairs once more, as it is stored: no more than that, however many windows there are."""
    model, resident = watched(deep())
    pruned(model, tmp_path)
    repaired = ("o_proj.weight", "down_proj.weight")
    blocks = [name for name in model.shapes if name.startswith("model.layers.")]  # the checker of types reads the first
    for name in blocks:
        assert resident.reads[name] in ((3, 4) if name.endswith(repaired) else (3,)), name
    assert resident.reads["model.norm.weight"] == 3
    assert resident.reads["lm_head.weight"] == 2


def test_a_sharded_checkpoint_is_pruned_as_the_model_in_memory_is(tmp_path: Path) -> None:
    model = in_shards(tmp_path / "dense")
    found = Checkpoint(pruned(model, tmp_path / "found").folder)
    held = replace(model, folder=None, parameters={name: model.parameters[name].clone() for name in model.parameters})
    expected = Checkpoint(pruned(held, tmp_path / "expected").folder)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_free_memory_is_given_back_once_enough_has_been_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given_back = in_shards(tmp_path), list[int]()
    monkeypatch.setattr(reading, "give_back", lambda: given_back.append(1))
    monkeypatch.setattr(reading, "GIVE_BACK", 2 * block_bytes(model))
    model.verify()
    assert LAYERS // 3 <= len(given_back) < LAYERS
    give_back()  # there may be nothing to give


def test_what_counts_the_bytes_sees_those_that_are_held() -> None:
    """Also through a parameter, a view or another type that shares them; not a copy."""
    resident = Resident({"one": torch.ones(4), "other": torch.ones(6)})
    held = torch.nn.Parameter(resident["one"].view(2, 2)[1])
    assert resident.now == 16
    resident["other"].clone()
    assert resident.now == 16
    assert resident.most == 40
    del held
    assert resident.now == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system doesn't say what is mapped")
def test_a_checkpoint_maps_no_file_but_those_of_the_tensors_in_use(tmp_path: Path) -> None:
    model = in_shards(tmp_path)

    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    model.verify()
    assert mapped() == 0
    tensors = [model.parameters[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(3)]
    assert mapped() == 3
    del tensors
    assert mapped() == 0

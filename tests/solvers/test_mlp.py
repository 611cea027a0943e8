"""MLPs pruned as a whole inside the engine, against SparseGPT, the stock MLP, and what surgery makes of it."""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import prune, score
from graphprune.core.errors import InputError
from graphprune.core.mask import WEIGHT
from graphprune.core.pattern import Pattern
from graphprune.methods import PRESETS, Recipe, layers_of
from graphprune.models.model import Model, build_causal_lm
from graphprune.pruning import Cutting, Evidence, apply
from graphprune.solvers.joint import JointOptions
from graphprune.solvers.mlp import JointUnitSurgeon
from graphprune.solvers.sequential import Journal, Operated, Overlaid, operate
from graphprune.solvers.units import ByElimination, UnitSurgeon
from graphprune.surgery.checkpoint import save_pruned
from graphprune.surgery.cut import zeroed
from graphprune.surgery.removed import linear_weights
from tests.families import GATED, MODEL_TYPES, decoder, module_of, token_ids
from tests.solvers.test_blocks import given_by, read_by
from tests.solvers.test_sequential import same, tokens

methods = pytest.mark.parametrize("method", ["sparsellm", "reconstruct"])
CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}  # Hessians are summed in float32, and feed on each other
MLP = ("up_proj", "gate_proj")  # what reads the MLP's input, a gate where there is one
AS_PUBLISHED = (*GATED, "opt")  # others have neither a gate nor a ReLU


def made(
    model: Model,
    method: str = "sparsellm",
    sparsity: float | None = 0.5,
    *,
    journal: Journal | None = None,
    dtype: torch.dtype | None = torch.float32,
    **given: Any,
) -> Cutting:
    """A model pruned by a preset, some of its choices replaced."""
    recipe = Recipe.of(method, **given)
    evidence = Evidence.of_text(model, tokens(model), dtype=dtype)
    return apply(recipe, recipe.sparsity(sparsity), evidence, journal=journal)


def operated(cutting: Cutting) -> Operated:
    assert cutting.operated is not None
    return cutting.operated


def network_of(model: Model) -> Any:
    return build_causal_lm(model.config, model.parameters, None, torch.float32).eval()


def name_of(model: Model, layer: int, module: str) -> str:
    return model.decoder.parameter(layer, f"{module}.weight")


def mlp_error(model: Model, changed: Model, layer: int) -> float:
    """Of the stock MLP with changed weights, on what it reads in the changed model; its bias isn't part of the sum."""
    down, up = (name_of(model, layer, module).removesuffix(".weight") for module in ("down_proj", "up_proj"))
    X = read_by(network_of(changed), tokens(model), up)
    Y, found = (given_for(network_of(m), tokens(model), layer, X) for m in (model, changed))
    shift = model.parameters[f"{down}.bias"] if f"{down}.bias" in model.shapes else 0.0
    return float((found - Y).double().square().sum() / (Y - shift).double().square().sum())


def given_for(network: Any, rows: torch.Tensor, layer: int, X: torch.Tensor) -> torch.Tensor:
    """What a stock network's MLP gives if it reads X, whatever the rest of the network says."""
    with ExitStack() as stack:
        for module in MLP[: 2 if network.config.model_type in GATED else 1]:
            reads = module_of(network, f"model.layers.{layer}.mlp.{module}")
            stack.callback(reads.register_forward_pre_hook(lambda *_: (X,)).remove)
        return given_by(network, rows, f"model.layers.{layer}.mlp.down_proj")


def test_the_preset_is_sparsegpt_with_mlps_as_a_whole() -> None:
    preset = PRESETS["sparsellm"]
    assert (preset.scorer, preset.compensation, preset.pattern) == ("obs", "sparsellm", "unstructured")


@pytest.mark.parametrize(
    ("model_type", "variant"),
    [(model_type, "exact") for model_type in MODEL_TYPES] + [(model_type, "published") for model_type in AS_PUBLISHED],
)
def test_one_round_is_sparsegpt(model_type: str, variant: Any) -> None:
    model = decoder(model_type)
    found = made(model, joint=JointOptions(iterations=1, variant=variant))
    expected = made(model, "sparsegpt")
    assert operated(found).parameters.keys() == operated(expected).parameters.keys() == set(linear_weights(model))
    for name, weights in operated(expected).parameters.items():
        assert torch.equal(found.mask.keep[f"{WEIGHT}{name}"], expected.mask.keep[f"{WEIGHT}{name}"])
        torch.testing.assert_close(operated(found).parameters[name], weights, **CLOSE)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [(model_type, {}) for model_type in MODEL_TYPES]
    + [("llama", {"mlp_bias": True, "attention_bias": True}), ("llama", {"hidden_act": "relu"})],
    ids=str,
)
@pytest.mark.parametrize("method", ["sparsellm", "reconstruct", "published"])
def test_the_error_that_is_reported_is_the_stock_mlps(model_type: str, settings: dict[str, Any], method: str) -> None:
    model = decoder(model_type, **settings)
    if method == "published" and model_type not in AS_PUBLISHED:
        with pytest.raises(InputError, match="for gated MLPs, and for two layers with a ReLU"):
            made(model, joint=JointOptions(variant="published"))
        return
    joint = JointOptions(iterations=3, variant="published" if method == "published" else "exact")
    cutting = made(model, joint=joint, compensation="reconstruct" if method == "reconstruct" else "sparsellm")
    found = operated(cutting)
    for layer in range(2):
        first, *_, last = found.notes[f"mlp_error.{layer}"].tolist()
        assert found.errors[f"mlp_in.{layer}"] == last
        assert last == pytest.approx(mlp_error(model, cutting.model, layer), rel=2e-3, abs=1e-5)
        if method != "published":
            assert last < first


@methods
def test_the_first_blocks_mlp_errs_less_than_by_sparsegpt(method: Any) -> None:
    for seed in range(3):
        model = decoder("llama", seed=seed)
        alone, together = made(model, "sparsegpt"), made(model, compensation=method)
        assert mlp_error(model, together.model, 0) < mlp_error(model, alone.model, 0)
        for site in ("attn_in", "attn"):
            assert operated(together).errors[f"{site}.0"] < operated(alone).errors[f"{site}.0"]


@methods
@pytest.mark.parametrize("sparsity", [0.25, 0.517, 0.8])
def test_exactly_the_budget_goes(method: Any, sparsity: float) -> None:
    model = decoder("llama")
    cutting = made(model, sparsity=sparsity, compensation=method)
    names = linear_weights(model)
    total = sum(model.parameters[name].numel() for name in names)
    gone = sum(int((~cutting.mask.keep[f"{WEIGHT}{name}"]).sum()) for name in names)
    assert abs(gone - sparsity * total) <= 1
    assert sum(int((cutting.model.parameters[name] == 0).sum()) for name in names) == gone
    for name in model.parameters.keys() - set(names):
        assert torch.equal(cutting.model.parameters[name], model.parameters[name])


@methods
@pytest.mark.parametrize("scorer", ["obs", "wanda"])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(4, 8)], ids=str)
def test_patterns_hold_in_every_group_of_every_matrix(method: Any, scorer: str, pattern: Pattern) -> None:
    model = decoder("llama")
    cutting = made(model, sparsity=None, scorer=scorer, compensation=method, pattern=str(pattern))
    for name in linear_weights(model):
        keep = cutting.mask.keep[f"{WEIGHT}{name}"]
        assert bool((keep.view(len(keep), -1, pattern.of).sum(dim=2) == pattern.stay).all())
        assert not cutting.model.parameters[name][~keep].any()


def test_scores_that_compare_weights_of_a_row_still_do() -> None:
    """Every row loses equally many, also where the rows' errors count differently."""
    cutting = made(decoder("llama"), scorer="wanda", damping=0.05)
    for name in linear_weights(cutting.model):
        lost = (~cutting.mask.keep[f"{WEIGHT}{name}"]).sum(dim=1)
        assert int(lost.max() - lost.min()) <= 1
    errors = operated(cutting).notes["mlp_error.0"].tolist()
    assert errors[-1] < 0.8 * errors[0]


def test_mlps_that_are_not_named_are_pruned_layer_by_layer() -> None:
    model, options = decoder("llama", num_hidden_layers=4), JointOptions(iterations=3, variant="published")
    found = made(model, global_layers="first_half", joint=options)
    assert {name for name in operated(found).notes if name.startswith("mlp_error")} == {"mlp_error.0", "mlp_error.1"}
    assert {f"neuron.{layer}" for layer in (2, 3)} <= operated(found).errors.keys()
    assert not {f"neuron.{layer}" for layer in (0, 1)} & operated(found).errors.keys()
    journal = Journal()
    made(model, joint=options, journal=journal)
    for layer in (2, 3):
        del journal._memory[layer]
    expected = made(model, "sparsegpt", journal=journal)  # the first two blocks are what the alternation made of them
    for name, weights in operated(expected).parameters.items():
        torch.testing.assert_close(operated(found).parameters[name], weights)
        assert torch.equal(found.mask.keep[f"{WEIGHT}{name}"], expected.mask.keep[f"{WEIGHT}{name}"])


def test_a_range_names_the_mlps_that_are_solved_as_a_whole() -> None:
    found = made(decoder("llama", num_hidden_layers=4), global_layers="1-2")
    assert {name for name in operated(found).notes if name.startswith("mlp_error")} == {"mlp_error.1", "mlp_error.2"}


@methods
def test_blocks_that_are_not_named_stay_as_they_are_and_the_sparsity_is_of_the_others(method: Any) -> None:
    model = decoder("llama", num_hidden_layers=4)
    found = made(model, sparsity=0.7, compensation=method, blocks="first_half")
    touched = {name for name in linear_weights(model) if ".layers.0." in name or ".layers.1." in name}
    assert operated(found).parameters.keys() == touched
    for name in model.parameters.keys() - touched:
        assert torch.equal(found.model.parameters[name], model.parameters[name])
    zeros = sum(int((found.model.parameters[name] == 0).sum()) for name in touched)
    assert abs(zeros - 0.7 * sum(model.parameters[name].numel() for name in touched)) <= 1


@methods
def test_what_becomes_of_the_first_blocks_does_not_depend_on_those_behind_them(method: Any) -> None:
    model = decoder("llama", num_hidden_layers=4)
    whole, half = (
        operated(made(model, compensation=method, blocks=blocks)).parameters for blocks in ("all", "first_half")
    )
    assert half.keys() < whole.keys()
    assert all(torch.equal(half[name], whole[name]) for name in half)


@methods
def test_a_run_that_lost_its_last_blocks_goes_on_to_the_same_bits(method: Any, tmp_path: Path) -> None:
    model = decoder("llama", num_hidden_layers=3)
    whole = operated(made(model, compensation=method, journal=Journal(tmp_path)))
    before = {name: whole.parameters[name] for name in whole.parameters}
    for blocks in (2, 1, 0):
        for layer in range(blocks, 3):
            (tmp_path / f"block-{layer:04d}.safetensors").unlink()
        again = operated(made(model, compensation=method, journal=Journal(tmp_path)))
        assert same(again, whole)
        assert all(torch.equal(again.parameters[name], value) for name, value in before.items())


def test_half_precision_weights_stay_in_their_own_type() -> None:
    dense = decoder("llama")
    model = Model.from_parameters(dense.config, {n: dense.parameters[n].bfloat16() for n in dense.parameters})
    cutting = made(model, dtype=None)
    for name in linear_weights(model):
        assert cutting.model.parameters[name].dtype == torch.bfloat16
        assert not cutting.model.parameters[name][~cutting.mask.keep[f"{WEIGHT}{name}"]].any()
    errors = operated(cutting).notes["mlp_error.0"].tolist()
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_what_is_noted_of_units_is_the_mean_square_of_what_each_writes(model_type: str) -> None:
    model = decoder(model_type)
    cutting = made(model)
    network, notes = network_of(cutting.model), operated(cutting).notes
    for layer in range(2):
        for kind, module in (("head", "o_proj"), ("neuron", "down_proj")):
            name, group = name_of(model, layer, module), model.units[f"{kind}.{layer}"]
            X = read_by(network, tokens(model), name.removesuffix(".weight")).flatten(0, 1).double()
            W = cutting.model.parameters[name].double()
            assert notes[group.name].shape == (group.size,)
            for unit, found in enumerate(notes[group.name].tolist()):
                own = slice(unit * group.width, (unit + 1) * group.width)
                written = X[:, own] @ W[:, own].T
                assert found >= 0
                assert found == pytest.approx(float(written.square().sum(dim=1).mean()), rel=2e-3, abs=1e-9)


# What goes with units


@methods
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "opt", "gpt2", "gpt_neox"])
def test_units_go_as_before_and_what_is_left_of_the_mlp_makes_up_for_them(method: Any, model_type: str) -> None:
    model, rows = decoder(model_type), tokens(decoder(model_type))
    scores = score(model, "magnitude")

    def by(compensation: Any) -> Cutting:
        joint = None if compensation == "obs" else JointOptions(iterations=20)  # each pass is a step or two
        recipe = Recipe.of(None, compensation=compensation, joint=joint)
        return apply(recipe, 0.4, Evidence.of_text(model, rows, dtype=torch.float32), given=scores)

    repaired, found = by("obs"), by(method)
    assert all(torch.equal(found.mask.keep[name], keep) for name, keep in repaired.mask.keep.items())
    assert operated(found).errors["neuron.0"] < operated(repaired).errors["neuron.0"]
    for layer in range(2):
        first, *_, last = operated(found).notes[f"mlp_error.{layer}"].tolist()
        assert last < first
        assert last == operated(found).errors[f"neuron.{layer}"]
        assert last == pytest.approx(mlp_error(model, found.model, layer), rel=2e-3, abs=1e-5)
        keep = found.mask.keep[f"neuron.{layer}"]
        up, down = (name_of(model, layer, module) for module in ("up_proj", "down_proj"))
        assert not found.model.parameters[down][:, ~keep].any()
        assert torch.equal(found.model.parameters[up][~keep], model.parameters[up][~keep])
        assert not torch.equal(found.model.parameters[up][keep], model.parameters[up][keep])
    name = name_of(model, 0, "o_proj")
    assert torch.equal(found.model.parameters[name], repaired.model.parameters[name])


def test_the_error_to_begin_with_is_that_of_the_repair_by_least_squares() -> None:
    model = decoder("llama")
    repair = UnitSurgeon(model, ByElimination(model, {"neuron.0": 9}), "obs")
    alone = operate(model, tokens(model), repair, dtype=torch.float32)
    found = operate(model, tokens(model), JointUnitSurgeon(repair, JointOptions()), dtype=torch.float32)
    assert torch.equal(found.keep["neuron.0"], alone.keep["neuron.0"])
    errors = found.notes["mlp_error.0"].tolist()
    assert errors[0] == pytest.approx(alone.errors["neuron.0"], rel=1e-3)
    assert found.errors["neuron.0"] == errors[-1] < errors[0]
    assert all(after < before for before, after in pairwise(errors))


def test_one_round_on_units_is_their_repair() -> None:
    model = decoder("llama")
    scores, given = score(model, "magnitude"), Recipe.of(None, compensation="obs")
    one = Recipe.of(None, compensation="sparsellm", joint=JointOptions(iterations=1))
    alone, found = (
        apply(recipe, 0.4, Evidence.of_text(model, tokens(model), dtype=torch.float32), given=scores)
        for recipe in (given, one)
    )
    for name, weights in operated(alone).parameters.items():
        torch.testing.assert_close(found.model.parameters[name], weights)
    assert len(operated(found).notes["mlp_error.0"]) == 1


@methods
@pytest.mark.parametrize(
    ("model_type", "settings"), [("llama", {"mlp_bias": True}), ("qwen3", {}), ("gemma2", {}), ("opt", {})]
)
def test_the_checkpoint_says_what_the_masked_model_says(
    method: Any, model_type: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = decoder(model_type, **settings)
    recipe, evidence = Recipe.of("magnitude", compensation=method), Evidence.of_text(model, tokens(model))
    cutting, ids = apply(recipe, 0.4, evidence), token_ids(2, 10)
    smaller = prune(model, "magnitude", 0.4, compensation=method, calibration=tokens(model)).model
    masked = Overlaid(model.parameters, zeroed(cutting.model.parameters, model.units, cutting.mask))
    with torch.inference_mode():
        expected = build_causal_lm(model.config, masked, None, torch.float32).eval()(input_ids=ids).logits
        save_pruned(cutting.model, cutting.mask, tmp_path / "small")
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
        found = stock(input_ids=ids).logits
        same_again = smaller.module(dtype=torch.float32)(input_ids=ids).logits
        dense = network_of(model)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same_again, expected, rtol=1e-4, atol=1e-4)
    assert (expected - dense).abs().max() > 0.1
    assert sum(p.numel() for p in stock.parameters()) < sum(p.numel() for p in network_of(model).parameters())


def test_single_weights_are_saved_as_they_are(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = decoder("llama")
    cutting, ids = made(model), token_ids(2, 10)
    save_pruned(cutting.model, cutting.mask, tmp_path / "small")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(stock(input_ids=ids).logits, network_of(cutting.model)(input_ids=ids).logits)


# What is refused


@dataclass(frozen=True)
class Wrong:
    """Choices that don't go together, and what is said of them."""

    method: str
    given: dict[str, Any]
    words: str
    sparsity: float = 0.5


PUBLISHED, MORE = JointOptions(variant="published"), JointOptions(iterations=9)
WRONG = [
    Wrong("magnitude", {"compensation": "sparsellm", "joint": PUBLISHED}, "published variant is of sparsellm, and of"),
    Wrong("sparsegpt", {"compensation": "reconstruct", "joint": PUBLISHED}, "published variant is of sparsellm"),
    Wrong("sparsegpt", {"joint": MORE}, "rounds and penalties are of the compensations sparsellm and reconstruct"),
    Wrong("magnitude", {"joint": JointOptions(alpha=2.0)}, "rounds and penalties are of the compensations"),
    Wrong("magnitude", {"compensation": "sparsellm", "blocks": "first_half"}, "units go from all blocks"),
    Wrong("magnitude", {"compensation": "sparsellm", "global_layers": "0-0"}, "global layers are of sparsellm and"),
    Wrong("sparsegpt", {"global_layers": "first_half"}, "global layers are of sparsellm and reconstruct"),
    Wrong("sparsellm", {"global_layers": "second_half"}, "global layers are all, first_half, or a range like 0-14"),
    Wrong("sparsellm", {"global_layers": "-1-1"}, "global layers are all, first_half, or a range"),
    Wrong("sparsellm", {"global_layers": "1"}, "global layers are all, first_half, or a range"),
    Wrong("sparsellm", {"blocks": "0-1-2"}, "blocks are all, first_half, or a range like 0-14, not '0-1-2'"),
    Wrong("sparsellm", {"blocks": ""}, "blocks are all, first_half, or a range"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.method} {wrong.words[:30]}")
def test_choices_that_do_not_go_together_are_refused_before_anything_is_computed(wrong: Wrong) -> None:
    with pytest.raises(InputError, match=re.escape(wrong.words)) as refused:
        Recipe.of(wrong.method, **wrong.given).check(wrong.sparsity)
    assert "\n" not in str(refused.value)
    model = decoder("llama")
    with pytest.raises(InputError, match=re.escape(wrong.words)):
        prune(model, wrong.method, wrong.sparsity, calibration=tokens(model), **wrong.given)


@pytest.mark.parametrize("where", ["global_layers", "blocks"])
@pytest.mark.parametrize("text", ["0-2", "2-3", "1-0"])
def test_layers_that_the_model_has_not_are_refused(where: str, text: str) -> None:
    model = decoder("llama")
    with pytest.raises(InputError, match=f"the layers are 0-1, there is no {text}"):
        prune(model, "sparsellm", 0.5, calibration=tokens(model), **{where: text})  # type: ignore[arg-type]


def test_layers_are_named_by_number() -> None:
    assert layers_of("all", 5) == {0, 1, 2, 3, 4}
    assert layers_of("first_half", 5) == {0, 1}
    assert layers_of("1-3", 5) == {1, 2, 3}
    assert layers_of("4-4", 5) == {4}


@methods
def test_a_text_is_needed(method: str) -> None:
    model = decoder("llama")
    with pytest.raises(InputError, match="needs calibration"):
        prune(model, "magnitude", 0.5, compensation=method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs calibration"):
        prune(model, "sparsellm", 0.5)

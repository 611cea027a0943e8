"""Block by block repair against running the whole model and solving by least squares, layer after layer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import Model, prune, score
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import save_tensors
from graphprune.core.mask import Mask
from graphprune.core.pattern import Pattern
from graphprune.core.units import UnitGroup
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Cut
from graphprune.models.model import build_causal_lm
from graphprune.pruning import cut
from graphprune.solvers.sequential import Change, Journal, Operated, Overlaid, Seen, Surgeon, operate
from graphprune.solvers.units import Decided, UnitSurgeon
from graphprune.solvers.weights import WeightSurgeon
from graphprune.surgery.cut import zeroed
from tests.families import MODEL_TYPES, UNGATED, decoder
from tests.oracles import obs as oracle
from tests.solvers.test_blocks import read_by

TEXTS = Path(__file__).parents[2] / "graphprune" / "models" / "tiny"


def tokens(model: Model, windows: int = 6, seq_len: int = 24) -> torch.Tensor:
    vocabulary = model.shapes["model.embed_tokens.weight"][0]
    return torch.randint(vocabulary, (windows, seq_len), generator=torch.Generator().manual_seed(0))


def pruned(model: Model, sparsity: float = 0.4, **options: Any) -> Mask:
    return cut(model, score(model, "random"), sparsity, Cut(**options))


def repaired(model: Model, mask: Mask, rows: torch.Tensor, damping: float = 0.01, **options: Any) -> Operated:
    """What is left after a mask, repaired."""
    surgeon = UnitSurgeon(model, Decided(mask.keep), "obs", damping)
    return operate(model, rows, surgeon, **{"dtype": torch.float32, **options})


Solve = Callable[[UnitGroup, Any, Any], Any]


def by_running_everything(model: Model, rows: torch.Tensor, solve: Solve) -> dict[str, torch.Tensor]:
    """One layer after the other: the whole model runs with what has been changed so far, then the layer is solved.

    Args:
        model: the dense model.
        rows: calibration windows.
        solve: the new weights, from the units, the weights and what these read (columns, tokens); None leaves them.
    """
    changed: dict[str, torch.Tensor] = {}
    for layer in range(model.decoder.n_layers):
        for group in (model.units[f"head.{layer}"], model.units[f"neuron.{layer}"]):
            name = group.outgoing[0].parameter
            network = build_causal_lm(model.config, Overlaid(model.parameters, changed), None, torch.float32).eval()
            X = read_by(network, rows, name.removesuffix(".weight")).flatten(0, -2).double().numpy().T
            solved = solve(group, model.parameters[name].double().numpy(), X)
            if solved is not None:
                changed[name] = torch.from_numpy(solved).float()
    return changed


def refitting(mask: Mask, damping: float) -> Solve:
    """Least squares for the columns that stay."""

    def solve(group: UnitGroup, W: Any, X: Any) -> Any:
        keep = mask.keep[group.name].repeat_interleave(group.width)
        return None if bool(keep.all()) else oracle.ridge_refit(W, X, keep.nonzero()[:, 0].tolist(), damping)

    return solve


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_repaired_as_by_running_all_of_it(model_type: str) -> None:
    model = decoder(model_type)
    mask, rows = pruned(model), tokens(model)
    found = repaired(model, mask, rows).parameters
    expected = by_running_everything(model, rows, refitting(mask, 0.01))
    assert found.keys() == expected.keys()
    assert found
    for name, weights in expected.items():
        # activations of float32 networks, batched here and one window at a time there
        torch.testing.assert_close(found[name], weights, rtol=2e-3, atol=2e-4)
        assert (found[name] - model.parameters[name]).abs().max() > 1e-3


def test_later_layers_are_measured_behind_the_earlier_ones_repair() -> None:
    """The second block's repair depends on what has been done to the first."""
    model = decoder("llama")
    mask, rows = pruned(model), tokens(model)
    keep = dict(mask.keep) | {name: torch.ones_like(k) for name, k in mask.keep.items() if name.endswith(".0")}
    both = repaired(model, mask, rows).parameters
    alone = repaired(model, Mask(keep), rows).parameters
    name = model.units["neuron.1"].outgoing[0].parameter
    assert (both[name] - alone[name]).abs().max() > 1e-3
    assert not any(".0." in changed for changed in alone)


def test_nothing_removed_is_nothing_to_repair() -> None:
    model = decoder("llama")
    found = repaired(model, Mask.full(model.units), tokens(model))
    assert not found.parameters
    assert not found.keep


def test_the_columns_that_go_are_zero_and_the_mask_comes_back() -> None:
    model = decoder("qwen3")
    mask = pruned(model)
    found = repaired(model, mask, tokens(model))
    for group in model.units.of_kind("head", "neuron"):
        reader = group.outgoing[0]
        gone = ~mask.keep[group.name].repeat_interleave(reader.width)
        assert bool((found.parameters[reader.parameter][:, gone] == 0).all())
    assert all(torch.equal(found.keep[name], keep) for name, keep in mask.keep.items())


def test_repair_lowers_the_perplexity_of_a_trained_model(tiny: Model) -> None:
    text = (TEXTS / "evaluation.txt").read_text(encoding="utf-8")
    from graphprune.calibration.text import spread, windows

    rows = spread(windows(tiny.tokenizer, text, 128), 12)
    mask = pruned(tiny, 0.3, units="neuron")
    source = windows(tiny.tokenizer, (TEXTS / "calibration.txt").read_text(encoding="utf-8"), 128)[:16]
    weights = Overlaid(tiny.parameters, repaired(tiny, mask, source).parameters)
    values = [
        perplexity(build_causal_lm(tiny.config, zeroed(w, tiny.units, mask), None, torch.float32), rows)
        for w in (tiny.parameters, weights)
    ]
    assert values[1] < 0.8 * values[0]


def test_pruning_with_repair_gives_the_repaired_weights(tiny: Model) -> None:
    scores = score(tiny, "magnitude")
    rows = tokens(tiny, 8, 64)
    plain = prune(tiny, scores, 0.2, units="neuron")
    better = prune(tiny, scores, 0.2, units="neuron", compensation="obs", calibration=rows)
    expected = Overlaid(tiny.parameters, repaired(tiny, plain.mask, rows, dtype=None).parameters)
    excised = expected["model.layers.2.mlp.down_proj.weight"][:, plain.mask.keep["neuron.2"]]
    width = excised.shape[1]
    assert torch.equal(better.model.parameters["model.layers.2.mlp.down_proj.weight"][:, :width], excised)
    assert not torch.equal(plain.model.parameters["model.layers.2.mlp.down_proj.weight"][:, :width], excised)
    with pytest.raises(InputError, match="needs calibration"):
        prune(tiny, scores, 0.2, compensation="obs")


def test_what_cannot_be_repaired_is_refused() -> None:
    model = decoder("llama")
    mask = pruned(model)
    with pytest.raises(InputError, match="no calibration"):
        repaired(model, mask, torch.zeros(0, 8, dtype=torch.long))
    with pytest.raises(InputError, match="raise the damping"):
        repaired(model, mask, tokens(model, 1, 4), damping=0.0)


def test_too_few_tokens_are_said() -> None:
    model = decoder("llama")
    with pytest.warns(UserWarning, match="4 calibration tokens for layers of up to"):
        prune(model, score(model, "random"), 0.4, compensation="obs", calibration=tokens(model, 1, 4))


def test_the_model_that_was_given_stays_as_it_is() -> None:
    model = decoder("llama")
    before = {name: model.parameters[name].clone() for name in model.parameters}
    repaired(model, pruned(model), tokens(model))
    for name, weights in before.items():
        assert torch.equal(model.parameters[name], weights)


@dataclass
class Watched:
    """A surgeon that is watched, and may be called away after some blocks.

    Attributes:
        surgeon: who does the work.
        blocks: how many it does before it is called away.
        asked: layer and site of every operation.
    """

    surgeon: Surgeon
    blocks: int = 100
    asked: list[tuple[int, str]] = field(default_factory=list)

    def sites(self, layer: int) -> tuple[str, ...]:
        return self.surgeon.sites(layer)

    def __call__(self, seen: Seen) -> Change:
        if seen.layer >= self.blocks:
            raise KeyboardInterrupt
        self.asked.append((seen.layer, seen.site))
        return self.surgeon(seen)


def surgeon_of(model: Model, what: str) -> Surgeon:
    """One that repairs units, or one that removes single weights."""
    if what == "units":
        return UnitSurgeon(model, Decided(pruned(model, 0.5).keep), "obs")
    return WeightSurgeon(model, None, Pattern(2, 4), "obs")


def same(found: Operated, expected: Operated) -> bool:
    """To the last bit."""
    return found.errors == expected.errors and all(
        getattr(found, part).keys() == getattr(expected, part).keys()
        and all(torch.equal(value, getattr(expected, part)[name]) for name, value in getattr(found, part).items())
        for part in ("parameters", "keep", "notes")
    )


@pytest.mark.parametrize("what", ["units", "weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("model_type", "blocks"), [("llama", 0), ("llama", 1), ("llama", 2), *((name, 1) for name in UNGATED)]
)
def test_a_run_that_was_stopped_after_any_block_goes_on_to_the_same_bits(
    what: str, dtype: torch.dtype, model_type: str, blocks: int, tmp_path: Path
) -> None:
    model = decoder(model_type, num_hidden_layers=3)
    rows, surgeon = tokens(model), surgeon_of(model, what)
    whole = operate(model, rows, surgeon, dtype=dtype)
    assert len(whole.errors) == (6 if what == "units" else 12)
    with pytest.raises(KeyboardInterrupt):
        operate(model, rows, Watched(surgeon, blocks), dtype=dtype, journal=Journal(tmp_path))
    assert len(list(tmp_path.iterdir())) == blocks
    again = Watched(surgeon)
    resumed = operate(model, rows, again, dtype=dtype, journal=Journal(tmp_path))
    assert {layer for layer, _ in again.asked} == set(range(blocks, 3))
    assert same(resumed, whole)
    assert resumed.tokens == whole.tokens
    idle = Watched(surgeon)
    assert same(operate(model, rows, idle, dtype=dtype, journal=Journal(tmp_path)), whole)
    assert not idle.asked


def test_a_run_is_noted_in_memory_too() -> None:
    model, journal = decoder("llama"), Journal()
    first = operate(model, tokens(model), surgeon_of(model, "units"), journal=journal)
    assert 0 in journal
    assert 2 not in journal
    idle = Watched(surgeon_of(model, "units"))
    assert same(operate(model, tokens(model), idle, journal=journal), first)
    assert not idle.asked


def test_sites_are_operated_on_in_the_order_in_which_they_compute() -> None:
    model = decoder("llama")
    watched = Watched(surgeon_of(model, "weights"))
    operate(model, tokens(model), watched)
    assert watched.asked == [(layer, site) for layer in range(2) for site in ("attn_in", "attn", "mlp_in", "neuron")]


@pytest.mark.parametrize("damage", ["truncated", "not a number"])
def test_a_damaged_journal_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    model = decoder("llama")
    operate(model, tokens(model), surgeon_of(model, "units"), journal=Journal(tmp_path))
    path = tmp_path / "block-0001.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        save_tensors(path, {"keep.neuron.1": torch.ones(3)}, {"error.neuron": "much"})
    with pytest.raises(FormatError, match=r"block-0001\.safetensors"):
        operate(model, tokens(model), surgeon_of(model, "units"), journal=Journal(tmp_path))


@pytest.mark.parametrize(("module", "said"), [("gate_proj", "activation is NaN"), ("down_proj", "after block 0")])
def test_activations_that_are_not_finite_are_refused(module: str, said: str) -> None:
    dense = decoder("llama")
    name = dense.decoder.parameter(0, f"{module}.weight")
    parameters = {**dense.parameters, name: torch.full_like(dense.parameters[name], 3e38)}
    model = Model.from_parameters(dense.config, parameters)
    only = {group.name: pruned(dense).keep[group.name] for group in dense.units}
    if module == "down_proj":  # nothing of the block is measured, so it is only seen when it is left
        only |= {name: torch.ones_like(keep) for name, keep in only.items() if name.endswith(".0")}
    with pytest.raises(InputError, match=said):
        operate(model, tokens(model), UnitSurgeon(model, Decided(only), "obs"))


@pytest.mark.parametrize("windows", [1, 7])
def test_tokens_are_counted(windows: int) -> None:
    model = decoder("llama")
    counted = list[int]()

    @dataclass(frozen=True)
    class Counting:
        def sites(self, layer: int) -> tuple[str, ...]:
            return ("neuron",) if layer else ("attn_in", "neuron")

        def __call__(self, seen: Seen) -> Change:
            counted.append(seen.hessian.tokens)
            return Change({}, {}, 0.0)

    operated = operate(model, tokens(model, windows, 11), Counting())
    assert counted == [11 * windows] * 3
    assert operated.tokens == 11 * windows
    assert operated.errors == {"attn_in.0": 0.0, "neuron.0": 0.0, "neuron.1": 0.0}
    assert all(seconds > 0 for seconds in operated.seconds.values())


def test_what_is_reported_is_the_error_of_the_whole_models_outputs() -> None:
    """What an operated model reads at a site is what the engine saw there: earlier sites are as it left them."""
    model = decoder("qwen3")
    rows, mask = tokens(model), pruned(model)
    found = repaired(model, mask, rows)
    network = build_causal_lm(model.config, Overlaid(model.parameters, found.parameters), None, torch.float32).eval()
    assert len(found.errors) == 4
    for group in model.units.of_kind("head", "neuron"):
        name = group.outgoing[0].parameter
        X = read_by(network, rows, name.removesuffix(".weight")).flatten(0, -2).double().T
        W = model.parameters[name].double()
        error = (found.parameters[name].double() @ X - W @ X).square().sum() / (W @ X).square().sum()
        assert 0 < found.errors[f"{group.channel}.{group.layer}"] < 1
        assert found.errors[f"{group.channel}.{group.layer}"] == pytest.approx(float(error), rel=1e-4)

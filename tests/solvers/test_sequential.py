"""Block by block repair against running the whole model and solving by least squares, layer after layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphprune import Model, prune, score
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.evaluation.perplexity import perplexity
from graphprune.models.model import build_causal_lm
from graphprune.pruning import Cut, cut
from graphprune.solvers.sequential import Overlaid, repaired
from graphprune.surgery.cut import zeroed
from tests.families import MODEL_TYPES, decoder
from tests.oracles import obs as oracle

TEXTS = Path(__file__).parents[2] / "graphprune" / "models" / "tiny"


def tokens(model: Model, windows: int = 6, seq_len: int = 24) -> torch.Tensor:
    vocabulary = model.shapes["model.embed_tokens.weight"][0]
    return torch.randint(vocabulary, (windows, seq_len), generator=torch.Generator().manual_seed(0))


def pruned(model: Model, sparsity: float = 0.4, **options: Any) -> Mask:
    return cut(model, score(model, "random"), sparsity, Cut(**options))


def by_running_everything(model: Model, mask: Mask, rows: torch.Tensor, damping: float) -> dict[str, torch.Tensor]:
    """One layer after the other: the whole model runs with what has been repaired so far, then least squares."""
    parameters = {name: model.parameters[name].float() for name in model.parameters}
    changed = {}
    for layer in range(model.decoder.n_layers):
        for group in (model.units[f"head.{layer}"], model.units[f"neuron.{layer}"]):
            keep = mask.keep[group.name].repeat_interleave(group.outgoing[0].width)
            if bool(keep.all()):
                continue
            name = group.outgoing[0].parameter
            network: Any = build_causal_lm(model.config, parameters, None, torch.float32).eval()
            seen: list[torch.Tensor] = []
            module = network.get_submodule(name.removesuffix(".weight"))
            handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            with torch.inference_mode():
                network(input_ids=rows)
            handle.remove()
            X = seen[0].reshape(-1, seen[0].shape[-1]).double().numpy().T
            kept = keep.nonzero()[:, 0].tolist()
            refitted = oracle.ridge_refit(parameters[name].double().numpy(), X, kept, damping)
            changed[name] = parameters[name] = torch.from_numpy(refitted).float()
    return changed


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_repaired_as_by_running_all_of_it(model_type: str) -> None:
    model = decoder(model_type)
    mask, rows = pruned(model), tokens(model)
    found = repaired(model, mask, rows, damping=0.01, dtype=torch.float32)
    expected = by_running_everything(model, mask, rows, 0.01)
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
    both = repaired(model, mask, rows, dtype=torch.float32)
    alone = repaired(model, Mask(keep), rows, dtype=torch.float32)
    name = model.units["neuron.1"].outgoing[0].parameter
    assert (both[name] - alone[name]).abs().max() > 1e-3
    assert not any(".0." in changed for changed in alone)


def test_nothing_removed_is_nothing_to_repair() -> None:
    model = decoder("llama")
    assert repaired(model, Mask.full(model.units), tokens(model)) == {}


def test_the_columns_that_go_are_zero_and_the_rest_is_called_out_as_it_is_done() -> None:
    model, order = decoder("qwen3"), []
    mask = pruned(model)
    found = repaired(model, mask, tokens(model), finished=lambda name, _: order.append(name))
    assert order == list(found)
    for group in model.units.of_kind("head", "neuron"):
        reader = group.outgoing[0]
        gone = ~mask.keep[group.name].repeat_interleave(reader.width)
        assert bool((found[reader.parameter][:, gone] == 0).all())


def test_repair_lowers_the_perplexity_of_a_trained_model(tiny: Model) -> None:
    text = (TEXTS / "evaluation.txt").read_text(encoding="utf-8")
    from graphprune.calibration.text import spread, windows

    rows = spread(windows(tiny.tokenizer, text, 128), 12)
    mask = pruned(tiny, 0.3, units="neuron")
    source = windows(tiny.tokenizer, (TEXTS / "calibration.txt").read_text(encoding="utf-8"), 128)[:16]
    weights = Overlaid(tiny.parameters, repaired(tiny, mask, source))
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
    expected = Overlaid(tiny.parameters, repaired(tiny, plain.mask, rows))
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
        few(model, mask, damping=0.0)
    assert np.isfinite(sum(float(w.sum()) for w in few(model, mask).values()))


def few(model: Model, mask: Mask, **options: Any) -> dict[str, torch.Tensor]:
    """A repair on four tokens, which is said to be too little."""
    with pytest.warns(UserWarning, match="4 calibration tokens for layers of up to"):
        return repaired(model, mask, tokens(model, 1, 4), **options)


def test_the_model_that_was_given_stays_as_it_is() -> None:
    model = decoder("llama")
    before = {name: model.parameters[name].clone() for name in model.parameters}
    repaired(model, pruned(model), tokens(model), dtype=torch.float32)
    for name, weights in before.items():
        assert torch.equal(model.parameters[name], weights)

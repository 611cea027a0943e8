"""A network that torch prunes by our masks computes what the zeroed parameters compute."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from graphprune import prune, score
from graphprune.core.errors import InputError
from graphprune.core.io import save_tensors
from graphprune.core.mask import Mask
from graphprune.models.model import Model
from graphprune.surgery.cut import zeroed
from graphprune.surgery.torch_prune import prune_state, prune_with_torch, torch_masks
from tests.families import causal_lm, decoder, perceptron, token_ids

FAMILIES = ("llama", "gemma3_text", "opt", "gpt2", "gpt_neox")


def some(model: Model) -> Mask:
    return prune(model, score(model, "random"), 0.4, rung="masked").mask


def logits(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(token_ids(2, 8)).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_pruned_by_torch_computes_what_zeroed_parameters_compute(family: str) -> None:
    model = decoder(family)
    mask = some(model)
    expected = logits(Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask)).module())
    pruned = prune_with_torch(
        causal_lm(family), {f"{name}_mask": keep for name, keep in torch_masks(model, mask).items()}
    )
    torch.testing.assert_close(logits(pruned), expected, rtol=0, atol=0)
    assert (logits(pruned) - logits(causal_lm(family))).abs().max() > 0.01


@pytest.mark.parametrize("family", [*FAMILIES, "perceptron"])
def test_the_state_goes_into_another_network_that_torch_has_pruned(family: str, tmp_path: Path) -> None:
    is_perceptron = family == "perceptron"
    model, other = (perceptron(seed=i) if is_perceptron else decoder(family, seed=i) for i in range(2))
    mask = some(model)
    save_tensors(tmp_path / "state.safetensors", prune_state(model, mask))
    state = load_file(tmp_path / "state.safetensors")
    network = prune_with_torch(other.module(), state)
    assert {name for name in state if name.endswith("_mask")} == {f"{name}_mask" for name in torch_masks(model, mask)}
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = Model.from_parameters(model.config, zeroed(model.parameters, model.units, mask)).module()
    with torch.no_grad():
        found = network(inputs) if is_perceptron else logits(network)
        wanted = expected(inputs) if is_perceptron else logits(expected)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_masks_of_single_weights_are_those_of_the_mask() -> None:
    model = decoder("llama")
    mask = prune(model, "magnitude", pattern="2:4").mask
    found = torch_masks(model, mask)
    assert found.keys() == mask.weights.keys()
    assert all(torch.equal(found[name], keep) for name, keep in mask.weights.items())


def test_what_torch_cannot_prune_is_refused() -> None:
    model = decoder("llama")
    with pytest.raises(InputError, match="no mask among"):
        prune_with_torch(model.module(), model.parameters)
    with pytest.raises(InputError, match=r"can't be pruned at model\.nowhere\.weight"):
        prune_with_torch(model.module(), {"model.nowhere.weight_mask": torch.ones(2, 2)})

"""Lists and tables for other programs say what the mask says."""

from pathlib import Path

import pytest
import torch

from graphprune import prune, score
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.masks.exported import removed_lists, table
from graphprune.masks.given import read_given
from tests.families import decoder

MODEL = decoder("llama")


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(MODEL, "random")


@pytest.fixture(scope="module")
def mask(scores: Scores) -> Mask:
    return prune(MODEL, scores, 0.4).mask


def test_lists_have_every_layer_and_what_goes_from_it(mask: Mask) -> None:
    lists = removed_lists(mask)
    for kind, title in (("head", "heads"), ("kv_head", "kv_heads"), ("neuron", "neurons")):
        assert lists[title].keys() == {"0", "1"}
        for layer, gone in lists[title].items():
            kept = mask.keep[f"{kind}.{layer}"]
            assert sorted(set(range(len(kept))) - set(gone)) == kept.nonzero()[:, 0].tolist()
    assert any(lists["neurons"].values())


@pytest.mark.parametrize("what", ["scores", "mask"])
def test_a_table_is_read_again_as_it_was(tmp_path: Path, scores: Scores, mask: Mask, what: str) -> None:
    values = scores.values if what == "scores" else mask.keep
    path = tmp_path / "table.csv"
    path.write_text("\n".join(table(values)), encoding="utf-8")
    found = read_given(path, MODEL.units, model=MODEL.identity)
    back = found.keep if isinstance(found, Mask) else found.values
    assert back.keys() == values.keys()
    assert all(torch.equal(back[name], values[name]) for name in values)


def test_single_weights_are_in_no_list_and_no_table() -> None:
    mask = prune(MODEL, "magnitude", pattern="2:4").mask
    with pytest.raises(InputError, match="single weights"):
        removed_lists(mask)
    with pytest.raises(InputError, match="single weights"):
        list(table(mask.keep))

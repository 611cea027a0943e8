"""What masks remove, and what it costs, as figures."""

import numpy as np
import pytest
import torch

from graphprune.core.mask import Mask
from graphprune.plots import Point, quality, removed


def mask(*gone: int, size: int = 10) -> Mask:
    keep = torch.ones(size, dtype=torch.bool).index_fill(0, torch.tensor(gone, dtype=torch.long), value=False)
    return Mask({"head.0": keep[:4], "kv_head.0": keep[:2], "neuron.0": keep, "neuron.1": ~keep})


def test_a_cell_is_the_share_of_a_block_that_goes() -> None:
    figure = removed({"one": mask(0, 1, 7), "other": mask(8, 9)})
    heads, neurons = figure.data
    assert [list(row) for row in heads.z] == [[0.5], [0.0]]
    assert [list(row) for row in neurons.z] == [[0.3, 0.7], [0.2, 0.8]]
    assert list(neurons.x) == [0, 1]
    assert list(neurons.y) == ["one", "other"]
    assert neurons.text[0][0] == "3 of 10"
    assert [note.text for note in figure.layout.annotations] == ["attention heads", "neurons"]


def test_blocks_stand_in_order_however_a_file_sorts_their_names() -> None:
    gone = torch.zeros(4, dtype=torch.bool)
    keep = {f"neuron.{layer}": ~gone if layer else gone for layer in range(12)}
    (neurons,) = removed({"one": Mask(dict(sorted(keep.items())))}).data
    assert list(neurons.x) == list(range(12))
    assert [list(row) for row in neurons.z] == [[1.0] + 11 * [0.0]]
    assert list(neurons.customdata[0]) == [f"neuron.{layer}" for layer in range(12)]


def test_masks_of_different_models_share_no_figure() -> None:
    with pytest.raises(ValueError, match="'other' is of another model than 'one'"):
        removed({"one": mask(), "other": mask(size=11)})
    with pytest.raises(ValueError, match="at least one mask"):
        removed({})


def test_points_of_a_method_are_joined_in_order_of_sparsity() -> None:
    points = [Point("b", "wanda", 0.4, 40.0), Point("a", "wanda", 0.2, 30.0), Point("c", "random", 0.2, 90.0)]
    figure = quality(points, dense=25.0)
    wanda, random = figure.data
    assert (list(wanda.x), list(wanda.y), list(wanda.text)) == ([0.2, 0.4], [30.0, 40.0], ["a", "b"])
    assert random.name == "random"
    assert figure.layout.shapes[0].y0 == figure.layout.annotations[0].y == 25.0
    assert figure.layout.yaxis.type == "linear"


def test_values_far_apart_stand_on_a_logarithmic_axis() -> None:
    points = [Point("a", "wanda", 0.2, 30.0), Point("b", "magnitude", 0.2, 3e5)]
    figure = quality(points, dense=25.0)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.shapes[0].y0 == 25.0
    assert figure.layout.annotations[0].y == pytest.approx(np.log10(25.0))  # else the axis reaches to 1e25
    with pytest.raises(ValueError, match="at least one pruned model"):
        quality([])

"""Scores and masks of one's own: what can be read, and what is said of what can't."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graphprune.core.errors import FormatError, InputError
from graphprune.core.mask import Mask
from graphprune.core.scores import Scores
from graphprune.masks.given import read_given
from tests.families import decoder

MODEL = decoder("llama")
savez: Any = np.savez  # its annotations take every array for an option
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {g.name: torch.rand(g.size, generator=generator) for g in MODEL.units.of_kind("head", "neuron")}


def read(path: Path, **options: Any) -> Scores | Mask:
    return read_given(path, MODEL.units, model=MODEL.identity, shapes=MODEL.shapes, **options)


def lines(values: dict[str, torch.Tensor], column: str = "score") -> list[str]:
    rows = [f"{name}.{i},{x!r}" for name, row in values.items() for i, x in enumerate(row.tolist())]
    return [f"unit,{column}", *rows]


def written(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def in_every_format(folder: Path, values: dict[str, torch.Tensor], column: str) -> list[Path]:
    savez(folder / "mine.npz", **{name: tensor.numpy() for name, tensor in values.items()})
    save_file(values, folder / "mine.safetensors")
    return [written(folder / "mine.csv", lines(values, column)), folder / "mine.npz", folder / "mine.safetensors"]


def test_scores_are_the_same_from_every_format(tmp_path: Path, values: dict[str, torch.Tensor]) -> None:
    for path in in_every_format(tmp_path, values, "score"):
        found = read(path)
        assert isinstance(found, Scores)
        assert found.values.keys() == values.keys()
        for name, row in values.items():
            torch.testing.assert_close(found.values[name], row, rtol=0, atol=0)
        assert (found.method, found.model, found.options["file"]) == ("mine", MODEL.identity, path.name)


def test_masks_are_the_same_from_every_format_and_key_value_heads_follow(tmp_path: Path) -> None:
    keep = {name: tensor.clone() for name, tensor in Mask.full(MODEL.units).keep.items() if name.startswith("head")}
    keep["head.1"][2:] = False
    for path in in_every_format(tmp_path, keep, "keep"):
        found = read(path, name="theirs")
        assert isinstance(found, Mask)
        assert found.method == "theirs"
        assert found.keep["head.1"].tolist() == [True, True, False, False]
        assert found.keep["kv_head.1"].tolist() == [True, False]
        assert found.keep["neuron.0"].all()
        assert found.keep.keys() == Mask.full(MODEL.units).keep.keys()


def test_double_precision_big_endian_and_a_byte_order_mark_are_read(
    tmp_path: Path, values: dict[str, torch.Tensor]
) -> None:
    savez(tmp_path / "big.npz", **{name: tensor.numpy().astype(">f8") for name, tensor in values.items()})
    path = tmp_path / "mark.csv"
    path.write_text("\n\n".join(lines(values)), encoding="utf-8-sig")
    for found in (read(tmp_path / "big.npz"), read(path)):
        assert isinstance(found, Scores)
        torch.testing.assert_close(found.values["neuron.1"], values["neuron.1"])


def test_files_of_our_own_are_read_and_checked_for_the_model(tmp_path: Path, values: dict[str, torch.Tensor]) -> None:
    mine = Scores(values, "wanda", {"a": 1}, MODEL.identity)
    mine.save(tmp_path / "own.safetensors")
    found = read(tmp_path / "own.safetensors")
    assert isinstance(found, Scores)
    assert (found.method, found.options) == ("wanda", {"a": 1})
    Mask.full(MODEL.units).save(tmp_path / "mask.safetensors")
    with pytest.raises(FormatError, match="another model"):
        read(tmp_path / "mask.safetensors")


def test_single_weights_come_as_masks_in_the_shape_of_the_parameter(tmp_path: Path) -> None:
    keep = torch.ones(MODEL.shapes[Q], dtype=torch.bool)
    keep[0, 1] = False
    savez(tmp_path / "w.npz", **{f"weight.{Q}": keep.numpy()})
    found = read(tmp_path / "w.npz")
    assert isinstance(found, Mask)
    assert torch.equal(found.weights[Q], keep)
    save_file({f"weight.{Q}": keep[:1].clone()}, tmp_path / "w.safetensors")
    with pytest.raises(FormatError, match="q_proj"):
        read(tmp_path / "w.safetensors")
    save_file({f"weight.{Q}": keep.float()}, tmp_path / "s.safetensors")
    with pytest.raises(FormatError, match="single weights"):
        read(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (3, "head.0.0,1", r"line 3: head\.0\.0 has been there before, in line 2"),
        (3, "head.0.4,1", r"line 3: 'head\.0\.4' is no unit of this model: head\.0 has 4, counted from 0"),
        (4, "neuron.9.0,1", r"line 4: 'neuron\.9\.0' is no unit .* neuron\.1\.23"),
        (4, "head.0,1", r"line 4: 'head\.0' is no unit"),
        (4, "head.0.-1,1", r"line 4: 'head\.0\.-1' is no unit"),
        (5, "head.0.3,much", r"line 5: the score of head\.0\.3 is no number: 'much'"),
        (5, "head.0.3,1_000", "line 5: .* no number"),
        (5, "head.0.3,", "line 5: .* no number: ''"),
        (5, "head.0.3,nan", "line 5: the score of head.0.3 is nan, and scores are finite"),
        (5, "head.0.3,1e39", r"head\.0 has a score that is NaN, infinite or too large"),
        (5, "head.0.3,1,2", "line 5 has 3 columns, not 2"),
        (1, "name,score", "line 1: the header is `unit,score` or `unit,keep`, not 'name,score'"),
        (1, "head.0.0,1", "line 1: the header"),
        (5, '"head', "cannot be read as CSV"),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, values: dict[str, torch.Tensor], line: int, text: str, said: str
) -> None:
    rows = lines(values)
    rows[line - 1] = text
    with pytest.raises(FormatError, match=said):
        read(written(tmp_path / "mine.csv", rows))


def test_missing_units_are_named(tmp_path: Path, values: dict[str, torch.Tensor]) -> None:
    rows = lines(values)
    with pytest.raises(FormatError, match=r"head\.0\.1 is missing"):
        read(written(tmp_path / "one.csv", [row for row in rows if not row.startswith("head.0.1,")]))
    with pytest.raises(FormatError, match=r"neuron\.1\.0, neuron\.1\.1, neuron\.1\.2 and 21 more are missing"):
        read(written(tmp_path / "layer.csv", [row for row in rows if not row.startswith("neuron.1.")]))
    save_file({name: row for name, row in values.items() if name != "neuron.1"}, tmp_path / "layer.safetensors")
    with pytest.raises(FormatError, match=r"neuron\.1 is missing"):
        read(tmp_path / "layer.safetensors")
    heads = read(written(tmp_path / "heads.csv", [row for row in rows if not row.startswith("neuron")]))
    assert isinstance(heads, Scores)
    assert heads.kinds == ("head",)


def test_a_mask_that_breaks_attention_and_a_keep_that_is_no_bool_are_refused(tmp_path: Path) -> None:
    rows = ["unit,keep", *(f"head.{layer}.{i},{int((layer, i) != (1, 3))}" for layer in range(2) for i in range(4))]
    with pytest.raises(FormatError, match=r"no legal mask: block 1: .* different numbers of query heads"):
        read(written(tmp_path / "mine.csv", rows))
    rows[4] = "head.0.3,0.5"
    with pytest.raises(FormatError, match=r"line 5: whether head\.0\.3 stays is 1 or 0, not '0\.5'"):
        read(written(tmp_path / "mine.csv", rows))


def test_arrays_that_are_none_of_ours_are_refused(tmp_path: Path, values: dict[str, torch.Tensor]) -> None:
    heads = {name: row.numpy() for name, row in values.items() if name.startswith("head")}
    for change, said in (
        ({"other.0": np.ones(3)}, "other.0 is no unit group"),
        ({"head.0": np.ones(3)}, r"head\.0 has \(3,\) entries, this model has 4"),
        ({"head.0": np.ones(4, dtype=np.int64)}, r"head\.0 is torch\.int64; scores are floating point, masks bool"),
        ({"head.0": np.ones(4, dtype=bool)}, "scores and masks; give one file for each"),
        ({"head.0": np.array([1, 2, 3, np.inf])}, r"head\.0 has a score that is NaN, infinite"),
        ({"head.0": np.array([None] * 4)}, "cannot be read as .npz: .*pickle"),
        ({"head.0": np.array(["a"] * 4)}, "no array of numbers"),
    ):
        savez(tmp_path / "mine.npz", **(heads | change))
        with pytest.raises(FormatError, match=said):
            read(tmp_path / "mine.npz")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match=r"read from \.csv, \.npz, \.safetensors files"):
        read(written(tmp_path / "mine.txt", ["unit,score"]))
    for name, content in (
        ("a.npz", b"PK\x03\x04 no"),
        ("a.safetensors", b"no"),
        ("a.csv", b"\xff\xfe"),
        ("b.csv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            read(tmp_path / name)
    np.save(tmp_path / "c.npy", np.ones(3))
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    with pytest.raises(FormatError, match=r"is no \.npz file"):
        read(tmp_path / "c.npz")

"""Scores and masks that somebody else made, from CSV, `.npz` or safetensors.

CSV: a header, then a line a unit. The first column is `unit`, such as `neuron.3.17` (kind, layer, position from 0); the
second is `score` (a number, higher = keep) or `keep` (1 or true: the unit stays; 0 or false: it goes).

`.npz` and safetensors: an array a layer and kind, named `neuron.3`, with one entry a unit: floating point for scores,
bool for a mask. Masks of single weights are bool arrays named `weight.PARAMETER_NAME`, in the parameter's shape.

All units of a kind are there, in every layer, or none of them. Scores may leave kinds out; in a mask, kinds that are
left out stay. Key/value heads needn't be given: in a mask they follow their query heads.
"""

import csv
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from graphprune.core import mask as masks
from graphprune.core import scores, unit_file
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import file_digest, load_tensors
from graphprune.core.mask import WEIGHT, Mask
from graphprune.core.scores import Scores
from graphprune.core.units import HEAD, KV_HEAD, UnitTable

COLUMNS = (["unit", "score"], ["unit", "keep"])
KEEP = {"1": True, "true": True, "0": False, "false": False}
SUFFIXES = (".csv", ".npz", ".safetensors")
Tensors = dict[str, torch.Tensor]


def read_given(
    path: Path,
    units: UnitTable,
    *,
    model: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    name: str | None = None,
) -> Scores | Mask:
    """The scores or the mask in a file: a mask if its values are bool (in CSV: if its second column is `keep`).

    Args:
        path: the file; its ending says what it is.
        units: of the model that it is for.
        model: hash of that model's checkpoint.
        shapes: of the model's parameters, for masks of single weights.
        name: what the result shall say made it; the file's name without its ending, if not given. Files of our own
            say it themselves.

    Raises:
        InputError: there is no such file, or its ending is unknown.
        FormatError: it is damaged, or an entry is unknown, missing, there twice, or no number; the message names it,
            and the line in a CSV file.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: scores and masks are read from {', '.join(SUFFIXES)} files")
    if not path.is_file():
        raise InputError(f"{path} is not there")
    if path.suffix == ".safetensors" and (own := _own(path, units, model, shapes)) is not None:
        return own
    readers = {".csv": _read_csv, ".npz": _read_npz, ".safetensors": _read_safetensors}
    tensors = readers[path.suffix](path, units)
    if not tensors:
        raise FormatError(f"{path} is empty")
    kinds = {tensor.dtype == torch.bool for tensor in tensors.values()}
    if len(kinds) > 1:
        raise FormatError(f"{path} holds scores and masks; give one file for each")
    facts = {"file": path.name, "sha256": file_digest(path)}
    if kinds == {True}:
        return _mask(path, tensors, units, shapes or {}, Mask({}, name or path.stem, facts, model))
    for group, values in tensors.items():
        if group.startswith(WEIGHT):
            raise FormatError(f"{path}: {group} has scores, and those of single weights aren't kept in files")
        if not bool(torch.isfinite(values).all()):
            raise FormatError(f"{path}: {group} has a score that is NaN, infinite or too large for float32")
    unit_file.check_against(path, tensors, units, every_kind=False)
    return Scores(tensors, name or path.stem, facts, model, facts["sha256"][:16])


def _own(
    path: Path, units: UnitTable, model: str, shapes: Mapping[str, tuple[int, ...]] | None
) -> Scores | Mask | None:
    """What is in a file that graphprune wrote itself."""
    said = load_tensors(path)[1].get("format")
    if said == json.dumps(scores.FORMAT):
        return Scores.load(path, units, model)
    return Mask.load(path, units, model, shapes) if said == json.dumps(masks.FORMAT) else None


def _mask(path: Path, given: Tensors, units: UnitTable, shapes: Mapping[str, tuple[int, ...]], empty: Mask) -> Mask:
    """The whole mask of the kinds that were given."""
    of_units = {name: keep for name, keep in given.items() if not name.startswith(WEIGHT)}
    unit_file.check_against(path, of_units, units, every_kind=False)
    keep = {**Mask.full(units).keep, **given}
    for group in units.of_kind(KV_HEAD):
        if group.name not in given:
            keep[group.name] = keep[f"{HEAD}.{group.layer}"].view(group.size, -1).any(dim=1)
    mask = Mask(keep, empty.method, empty.options, empty.model)
    unit_file.check_weights(path, mask.weights, shapes)
    try:
        mask.check_legal(units)
    except ValueError as error:
        raise FormatError(f"{path} is no legal mask: {error}") from error
    return mask


def _read_csv(path: Path, units: UnitTable) -> Tensors:
    sizes, first_line = units.sizes(), dict[tuple[str, int], int]()
    values: dict[str, dict[int, float | bool]] = {}
    is_mask = False
    for line, row in _rows(path):
        if not first_line and not values and [cell.strip() for cell in row] in COLUMNS:
            is_mask = row[1].strip() == "keep"
            values[""] = {}  # the header has been there
            continue
        where = f"{path}, line {line}"
        if not values:
            raise FormatError(f"{where}: the header is `unit,score` or `unit,keep`, not {','.join(row)!r}")
        if len(row) != 2:
            raise FormatError(f"{where} has {len(row)} columns, not 2")
        group, position = _unit(where, row[0].strip(), sizes)
        if (group, position) in first_line:
            before = first_line[group, position]
            raise FormatError(f"{where}: {group}.{position} has been there before, in line {before}")
        first_line[group, position] = line
        read = _kept if is_mask else _number
        values.setdefault(group, {})[position] = read(where, f"{group}.{position}", row[1].strip())
    values.pop("", None)
    _check_complete(path, values, units)
    dtype = torch.bool if is_mask else torch.float32
    return {name: torch.tensor([row[i] for i in range(sizes[name])], dtype=dtype) for name, row in values.items()}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file that aren't blank, with their numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read as CSV: {error}") from error


def _unit(where: str, name: str, sizes: Mapping[str, int]) -> tuple[str, int]:
    group, _, position = name.rpartition(".")
    if group not in sizes or not position.isdecimal() or not position.isascii():
        raise FormatError(f"{where}: {name!r} is no unit of this model; they are called {_examples(sizes)}")
    if int(position) >= sizes[group]:
        raise FormatError(f"{where}: {name!r} is no unit of this model: {group} has {sizes[group]}, counted from 0")
    return group, int(position)


def _examples(sizes: Mapping[str, int]) -> str:
    last = dict(item for item in sizes.items() if not item[0].startswith(KV_HEAD))
    return " or ".join(f"{name}.{last[name] - 1}" for name in [*last][-2:])


def _number(where: str, unit: str, text: str) -> float:
    try:
        value = float("" if "_" in text else text)
    except ValueError:
        raise FormatError(f"{where}: the score of {unit} is no number: {text!r}") from None
    if not math.isfinite(value):
        raise FormatError(f"{where}: the score of {unit} is {text}, and scores are finite")
    return value


def _kept(where: str, unit: str, text: str) -> bool:
    if text.lower() not in KEEP:
        raise FormatError(f"{where}: whether {unit} stays is 1 or 0, not {text!r}")
    return KEEP[text.lower()]


def _check_complete(path: Path, values: Mapping[str, Mapping[int, float | bool]], units: UnitTable) -> None:
    kinds = {name.split(".")[0] for name in values}
    missing = [
        f"{group.name}.{i}"
        for group in units
        if group.kind in kinds
        for i in range(group.size)
        if i not in values.get(group.name, {})
    ]
    if missing:
        raise FormatError(f"{path}: {_named(missing)} missing")


def _named(names: Sequence[str]) -> str:
    """The first names of many, and the verb that follows them."""
    if len(names) == 1:
        return f"{names[0]} is"
    if len(names) <= 3:
        return f"{', '.join(names)} are"
    return f"{', '.join(names[:3])} and {len(names) - 3:,} more are"


def _read_npz(path: Path, units: UnitTable) -> Tensors:
    found = {}
    if not zipfile.is_zipfile(path):
        raise FormatError(f"{path} is no .npz file: those are archives, with an array for every layer and kind")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = arrays[name]
                if array.dtype.kind not in "biuf":
                    raise FormatError(f"{path}: {name} is {array.dtype}, no array of numbers")
                found[name] = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} cannot be read as .npz: {error}") from error
    return _checked(path, found, units)


def _read_safetensors(path: Path, units: UnitTable) -> Tensors:
    return _checked(path, load_tensors(path)[0], units)


def _checked(path: Path, tensors: Tensors, units: UnitTable) -> Tensors:
    """Bools as they are, floating-point numbers as float32; `weight.…` and the groups of the model alone."""
    sizes = units.sizes()
    for name, tensor in tensors.items():
        if not name.startswith(WEIGHT) and name not in sizes:
            raise FormatError(
                f"{path}: {name} is no unit group of this model; they are called {', '.join([*sizes][:3])}"
            )
        if tensor.dtype != torch.bool and not tensor.dtype.is_floating_point:
            raise FormatError(f"{path}: {name} is {tensor.dtype}; scores are floating point, masks bool")
    return {
        name: tensor if tensor.dtype == torch.bool else tensor.to(torch.float32) for name, tensor in tensors.items()
    }

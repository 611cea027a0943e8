"""Files that hold one tensor a unit group: scores and masks. safetensors, with a JSON of the same name beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphprune.core.errors import FormatError
from graphprune.core.io import load_tensors, save_tensors, write_json
from graphprune.core.units import UnitTable


def save(path: Path, kind: str, version: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Writes the tensors with their facts as metadata, and the facts once more as readable JSON."""
    described = {"format": kind, "version": version, **facts, "units": {k: list(v.shape) for k, v in tensors.items()}}
    save_tensors(path, tensors, {name: json.dumps(value) for name, value in described.items()})
    write_json(path.with_suffix(".json"), described)


def load(path: Path, kind: str, version: int, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and facts of a file.

    Raises:
        FormatError: another kind of file, a newer version, a wrong type, or a value that isn't finite.
    """
    tensors, metadata = load_tensors(path)
    try:
        facts = {name: json.loads(value) for name, value in metadata.items()}
    except ValueError as error:
        raise FormatError(f"{path} has damaged metadata: {error}") from error
    if facts.get("format") != kind:
        raise FormatError(f"{path} is no {kind} file")
    if not isinstance(facts.get("version"), int) or facts["version"] > version:
        raise FormatError(f"{path} has format version {facts.get('version')}; this program reads up to {version}")
    for name, wanted in (("method", str), ("options", dict), ("model", str)):
        if not isinstance(facts.get(name), wanted):
            raise FormatError(f"{path} has damaged metadata: its {name} is missing or no {wanted.__name__}")
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise FormatError(f"{path}: {name} is {tensor.dtype}, not {dtype}")
        if dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{path}: {name} has a value that is NaN or infinite")
    return tensors, facts


def check_against(path: Path, tensors: Mapping[str, torch.Tensor], units: UnitTable, *, every_kind: bool) -> None:
    """Checks that the tensors are those of a model's units; scores of the stream and of whole blocks are let pass.

    Raises:
        FormatError: a group is unknown, missing, or of another size.
    """
    sizes = units.sizes()
    for name, tensor in tensors.items():
        if name.startswith(("resid.", "block.")):
            continue
        if name not in sizes:
            raise FormatError(f"{path}: {name} is no unit group of this model")
        if tuple(tensor.shape) != (sizes[name],):
            raise FormatError(f"{path}: {name} has {tuple(tensor.shape)} entries, this model has {sizes[name]}")
    kinds = {name.split(".")[0] for name in tensors}
    missing = [group.name for group in units if group.name not in tensors and (every_kind or group.kind in kinds)]
    if missing:
        raise FormatError(f"{path}: {missing[0]} is missing")


def check_weights(path: Path, weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that tensors of single weights, by parameter name, are of a model's parameters.

    Raises:
        FormatError: a parameter is unknown, or of another shape.
    """
    for name, tensor in weights.items():
        if name not in shapes:
            raise FormatError(f"{path}: {name} is no parameter of this model")
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise FormatError(f"{path}: {name} is {tuple(tensor.shape)}, in this model {tuple(shapes[name])}")


def check_model(path: Path, found: str, expected: str) -> None:
    """Checks that a file belongs to a model, by the checkpoint's hash."""
    if found != expected:
        raise FormatError(f"{path} belongs to another model (checkpoint {found[:12]}, not {expected[:12]})")

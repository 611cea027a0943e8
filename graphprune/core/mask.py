"""What stays: True = stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool

from graphprune.core import unit_file
from graphprune.core.errors import FormatError
from graphprune.core.units import HEAD, KV_HEAD, UnitTable

FORMAT, VERSION = "graphprune.mask", 1
WEIGHT = "weight."


@dataclass(frozen=True)
class Mask:
    """One bool tensor a unit group, True = stays; every group of the model is there.

    Attributes:
        keep: per group name (`neuron.3`), one bool a unit; where single weights go, per `weight.PARAMETER_NAME` one
            bool a weight, in the parameter's shape.
        method: how the mask was made.
        options: scorer, allocation, sparsity and their options.
        model: hash of the checkpoint the mask is for.
    """

    keep: Mapping[str, Bool[torch.Tensor, "..."]]
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""

    @classmethod
    def full(cls, units: UnitTable) -> "Mask":
        """The mask that keeps everything."""
        return cls({group.name: torch.ones(group.size, dtype=torch.bool) for group in units})

    @property
    def weights(self) -> dict[str, Bool[torch.Tensor, "..."]]:
        """The masks of single weights, by the parameter's name."""
        return {name.removeprefix(WEIGHT): keep for name, keep in self.keep.items() if name.startswith(WEIGHT)}

    def with_weights(self, weights: Mapping[str, Bool[torch.Tensor, "..."]]) -> "Mask":
        """The same mask with masks of single weights, by the parameter's name."""
        return replace(self, keep={**self.keep, **{f"{WEIGHT}{name}": keep for name, keep in weights.items()}})

    def removed_parameters(self, units: UnitTable) -> int:
        """How many parameters go with the units that don't stay; single weights are not among them."""
        return sum(int((~self.keep[g.name]).sum()) * g.parameters_per_unit for g in units)

    def check_legal(self, units: UnitTable) -> None:
        """Checks that grouped-query attention still works.

        Raises:
            ValueError: a query head stays without its key/value head, a key/value head without query heads, or the
                key/value heads of a layer keep different numbers of query heads.
        """
        for kv_group in units.of_kind(KV_HEAD):
            layer = kv_group.layer
            heads = self.keep[f"{HEAD}.{layer}"].view(kv_group.size, -1).sum(dim=1)
            kept = self.keep[kv_group.name]
            if not torch.equal(heads > 0, kept):
                raise ValueError(f"block {layer}: query heads and key/value heads don't stay together")
            if kept.any() and heads[kept].min() != heads[kept].max():
                raise ValueError(f"block {layer}: key/value heads keep different numbers of query heads")

    def save(self, path: Path) -> None:
        facts = {"method": self.method, "options": dict(self.options), "model": self.model}
        facts["kept"] = {name: int(keep.sum()) for name, keep in self.keep.items()}
        unit_file.save(path, FORMAT, VERSION, self.keep, facts)

    @classmethod
    def load(
        cls,
        path: Path,
        units: UnitTable | None = None,
        model: str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "Mask":
        """Reads a mask and checks it against a model's units, hash and parameter shapes, where given.

        Masks of single weights are checked against the shapes alone.

        Raises:
            FormatError: the file is damaged or of another model.
        """
        keep, facts = unit_file.load(path, FORMAT, VERSION, torch.bool)
        mask = cls(keep, facts["method"], facts["options"], facts["model"])
        if model is not None:
            unit_file.check_model(path, mask.model, model)
        if units is not None:
            groups = {name: tensor for name, tensor in keep.items() if not name.startswith(WEIGHT)}
            unit_file.check_against(path, groups, units, every_kind=True)
            try:
                mask.check_legal(units)
            except ValueError as error:
                raise FormatError(f"{path} is no legal mask: {error}") from error
        if shapes is not None:
            unit_file.check_weights(path, mask.weights, shapes)
        return mask

"""How much each unit matters: higher = keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from graphprune.core import unit_file
from graphprune.core.units import UnitTable

FORMAT, VERSION = "graphprune.scores", 1
BLOCK = "block"  # of whole attentions and MLPs: `block.L.attn`, `block.L.mlp`


@dataclass(frozen=True)
class Scores:
    """One float32 tensor a unit group, higher = keep.

    Attributes:
        values: per group name (`neuron.3`), one score a unit.
        method: the scorer's name.
        options: its options, direction and normalisation among them.
        model: hash of the checkpoint that was scored.
        inputs: hash of everything the scores depend on.
    """

    values: Mapping[str, Float[torch.Tensor, " units"]]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    inputs: str = ""

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if values.dtype != torch.float32:
                raise ValueError(f"scores are float32, {name} is {values.dtype}")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"{self.method} gave {name} a score that is NaN or infinite")

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.split(".")[0] for name in self.values))

    def save(self, path: Path) -> None:
        facts = {"method": self.method, "options": dict(self.options), "model": self.model, "inputs": self.inputs}
        unit_file.save(path, FORMAT, VERSION, self.values, facts)

    @classmethod
    def load(cls, path: Path, units: UnitTable | None = None, model: str | None = None) -> "Scores":
        """Reads scores and checks them against a model's units and hash, where given.

        Raises:
            FormatError: the file is damaged or of another model.
        """
        values, facts = unit_file.load(path, FORMAT, VERSION, torch.float32)
        if model is not None:
            unit_file.check_model(path, facts["model"], model)
        if units is not None:
            unit_file.check_against(path, values, units, every_kind=False)
        return cls(values, facts["method"], facts["options"], facts["model"], str(facts.get("inputs", "")))

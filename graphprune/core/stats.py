"""What calibration measured: power per channel at every site, and where it is needed the mean, as mergeable sums."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from graphprune.core import unit_file
from graphprune.core.errors import FormatError, InputError
from graphprune.core.io import load_tensors, save_tensors

FORMAT, VERSION = "graphprune.stats", 2
SUMMED = ("attn.", "neuron.")
_SUM = "sum/"


def is_summed(site: str) -> bool:
    """Whether a site's channels are units' outputs, whose means are kept as well."""
    return site.startswith(SUMMED)


@dataclass(frozen=True)
class CalibrationStats:
    """Sums of squares over tokens, one float64 tensor a site; of the units' outputs plain sums as well.

    Sites of a decoder: ``resid.K`` (the stream; odd K only where an MLP reads what its block's attention has written),
    and for every block ``attn_in``, ``query``, ``key``, ``value`` (before rotation; after the head's own normalisation
    where there is one, and then ``query_raw`` and ``key_raw`` before it), ``attn`` (input of the output projection),
    ``attn_out``, ``mlp_in``, ``gate`` (where there is one) and ``up`` (raw outputs), ``neuron`` (input of the down
    projection), ``mlp_out``. Sites of a perceptron: ``input.0``, and for every layer ``pre`` (raw output) and
    ``neuron`` (after the activation; the last is ``output``).

    Attributes:
        squares: per site, the sum over tokens of the squared activation of each channel.
        n_tokens: how many tokens (or examples) were summed.
        model: hash of the checkpoint.
        options: text hash, windows, seed.
        sums: per `attn` and `neuron` site, the sum over tokens of each channel's activation. A file of version 1 has
            none of them.
    """

    squares: Mapping[str, Float[torch.Tensor, " channels"]]
    n_tokens: int
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sums: Mapping[str, Float[torch.Tensor, " _channels"]] = field(default_factory=dict)

    def norm(self, site: str) -> Float[torch.Tensor, " channels"]:
        """L2 norm over all tokens, per channel (float64)."""
        return self.squares[site].sqrt()

    def rms(self, site: str) -> Float[torch.Tensor, " channels"]:
        """Root mean square over tokens, per channel (float64)."""
        return (self.squares[site] / max(self.n_tokens, 1)).sqrt()

    def mean(self, site: str) -> Float[torch.Tensor, " channels"]:
        """Mean over tokens, per channel (float64).

        Raises:
            InputError: the statistics were read from a file of version 1, which holds no sums.
        """
        if site in self.squares and not self.sums:
            raise InputError("the calibration statistics are of an older version and hold no means; calibrate again")
        return self.sums[site] / max(self.n_tokens, 1)

    def variance(self, site: str) -> Float[torch.Tensor, " channels"]:
        """Variance over tokens, per channel (float64), with the number of tokens as the divisor.

        Math: ``mean(x^2) - mean(x)^2``, and 0 where rounding makes that negative.

        Raises:
            InputError: the statistics were read from a file of version 1, which holds no sums.
        """
        return (self.squares[site] / max(self.n_tokens, 1) - self.mean(site).square()).clamp(min=0)

    def merged(self, other: "CalibrationStats") -> "CalibrationStats":
        """The statistics of both samples together; sums only if both have them."""
        if self.model != other.model or self.squares.keys() != other.squares.keys():
            raise ValueError("statistics of different models can't be merged")
        squares = {site: value + other.squares[site] for site, value in self.squares.items()}
        sums = {site: value + other.sums[site] for site, value in self.sums.items() if other.sums}
        return CalibrationStats(squares, self.n_tokens + other.n_tokens, self.model, {"merged": True}, sums)

    def save(self, path: Path) -> None:
        facts = {"format": FORMAT, "version": VERSION, "n_tokens": self.n_tokens, "model": self.model}
        metadata = {name: json.dumps(value) for name, value in (facts | {"options": dict(self.options)}).items()}
        save_tensors(path, {**self.squares, **{_SUM + site: value for site, value in self.sums.items()}}, metadata)

    @classmethod
    def load(cls, path: Path, sizes: Mapping[str, int] | None = None, model: str | None = None) -> "CalibrationStats":
        """Reads statistics and checks them against a model's sites and hash, where given.

        Raises:
            FormatError: the file is damaged, of another kind, of a newer version, or of another model.
        """
        tensors, metadata = load_tensors(path)
        squares = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SUM)}
        sums = {name.removeprefix(_SUM): tensor for name, tensor in tensors.items() if name.startswith(_SUM)}
        try:
            facts = {name: json.loads(value) for name, value in metadata.items()}
            if facts["format"] != FORMAT or facts["version"] > VERSION:
                raise FormatError(f"{path} is no statistics file of version {VERSION} or older")
            n_tokens, found, options = facts["n_tokens"], facts["model"], dict(facts["options"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} has damaged metadata: {error!r}") from error
        if not isinstance(n_tokens, int) or n_tokens < 1 or not isinstance(found, str):
            raise FormatError(f"{path} has damaged metadata: {n_tokens!r} tokens of model {found!r}")
        if model is not None:
            unit_file.check_model(path, found, model)
        if sizes is not None:
            _check_sites(path, squares, sizes)
        if sums:  # all of them or none
            _check_sums(path, squares, sums)
        for name, values in tensors.items():
            if values.dtype != torch.float64:
                raise FormatError(f"{path}: {name} is {values.dtype}, not {torch.float64}")
            if not bool(torch.isfinite(values).all()):
                raise FormatError(f"{path}: {name} has a value that is NaN or infinite")
        for site, values in squares.items():
            if bool((values < 0).any()):
                raise FormatError(f"{path}: {site} has a negative sum of squares")
        return cls(squares, n_tokens, found, options, sums)


def _check_sites(path: Path, squares: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
    for site in sorted(squares.keys() | sizes.keys()):
        if site not in squares:
            raise FormatError(f"{path}: {site} is missing")
        if site not in sizes:
            raise FormatError(f"{path}: {site} is no site of this model")
        if squares[site].shape != (sizes[site],):
            raise FormatError(f"{path}: {site} has {tuple(squares[site].shape)} entries, this model has {sizes[site]}")


def _check_sums(path: Path, squares: Mapping[str, torch.Tensor], sums: Mapping[str, torch.Tensor]) -> None:
    expected = {site: values.shape for site, values in squares.items() if is_summed(site)}
    for site in sorted(expected.keys() | sums.keys()):
        if site not in sums:
            raise FormatError(f"{path}: the sum of {site} is missing")
        if site not in expected:
            raise FormatError(f"{path}: {site} is no site that has a sum")
        if sums[site].shape != expected[site]:
            raise FormatError(
                f"{path}: the sum of {site} has {tuple(sums[site].shape)} entries, not {tuple(expected[site])}"
            )

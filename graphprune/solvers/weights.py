"""Single weights: which of them go, and how the others make up for it (SparseGPT and Wanda)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphprune.core.mask import WEIGHT
from graphprune.core.pattern import Pattern
from graphprune.masks.weights import keep_highest, keep_pattern
from graphprune.models.model import Model
from graphprune.scorers.inputs import WeightInputs, WeightScorer
from graphprune.solvers.blocks import SITES, Site, readers
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.sequential import Change, Seen
from graphprune.solvers.sparsegpt import sparsegpt
from graphprune.solvers.units import TINY, Compensation, missed, output_error


@dataclass(frozen=True)
class WeightSurgeon:
    """Removes single weights of every linear layer of a decoder, true to the order in which they compute.

    Attributes:
        model: the dense model.
        scorer: what decides; None for second-order errors, chosen while the sweep repairs (SparseGPT).
        remove: how many weights of each parameter go, or the pattern in which they go.
        compensation: `obs`: the weights to the right make up for it; `none`.
        damping: of the Hessians, as a share of their mean diagonal.
        gradients: of the loss, by parameter name, for a scorer that needs them.
        blocks: those that lose any; None for all.
    """

    model: Model
    scorer: WeightScorer | None
    remove: Mapping[str, int] | Pattern
    compensation: Compensation = "none"
    damping: float = 0.01
    gradients: Mapping[str, torch.Tensor] | None = None
    blocks: frozenset[int] | None = None

    def sites(self, layer: int) -> tuple[Site, ...]:
        if self.blocks is not None and layer not in self.blocks:
            return ()
        names = {site: readers(self.model.architecture, layer, site) for site in SITES}
        found = self.remove
        loses = bool if isinstance(found, Pattern) else lambda read: any(found.get(name, 0) for name in read)
        return tuple(site for site in SITES if loses(names[site]))

    def __call__(self, seen: Seen) -> Change:
        changed, keep = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        error = whole = 0.0
        for name, dense in seen.weights.items():
            stays, W = self.solved(name, dense, seen.hessian)
            changed[name], keep[f"{WEIGHT}{name}"] = W.to(dense.dtype), stays.cpu()
            lost, had = output_error(dense, changed[name], seen.hessian)
            error, whole = error + lost, whole + had
        return Change(changed, keep, error / max(whole, TINY))

    def solved(self, name: str, dense: torch.Tensor, hessian: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
        """What stays of a matrix, and the weights that do.

        Args:
            name: of the parameter: how much of it goes.
            dense: its values.
            hessian: of what it reads.
        """
        stays = None if self.scorer is None else self.by_score(name, dense, hessian)
        if stays is not None and self.compensation == "none":
            return stays, dense * stays
        pattern = self.remove if isinstance(self.remove, Pattern) else None
        n_removed = None if isinstance(self.remove, Pattern) else self.remove[name]
        silent = hessian.squares == 0  # weights of inputs that are never there cost nothing, and those that stay, stay
        solved = sparsegpt(
            dense.float().masked_fill(silent, 0.0),
            hessian.damped(self.damping),
            n_removed=n_removed if stays is None else None,
            pattern=pattern if stays is None else None,
            keep=stays,
        )
        plain, repaired = dense * solved.keep, torch.where(silent, dense * solved.keep, solved.weights)
        if self.compensation == "none":
            return solved.keep, plain
        if stays is not None and missed(dense, plain, hessian) < missed(dense, repaired, hessian):
            return stays, plain  # the sweep is greedy: on a mask that it didn't choose it can do harm
        return solved.keep, repaired

    def by_score(self, name: str, dense: torch.Tensor, hessian: Hessian | None = None) -> torch.Tensor:
        """Which weights of a matrix stay by the scorer, which may need to know what it reads."""
        if self.scorer is None:
            raise ValueError("there is no scorer to go by")
        rms = None if hessian is None else (hessian.squares / hessian.tokens).sqrt().float()
        gradient = None if self.gradients is None else self.gradients[name].to(dense.device)
        scores = self.scorer.of_weights(dense.float(), WeightInputs(name, rms, gradient))
        if isinstance(self.remove, Pattern):
            return keep_pattern(scores, self.remove)
        return keep_highest(scores, self.remove[name], per=self.scorer.per)

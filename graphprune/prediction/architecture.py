"""How much goes from where, as a vector of sparsities and as the counts of pieces that realise it.

Math: the vector has one sparsity for the attention and one for the MLP of every block that isn't protected. Under a
budget it is moved to the vector ``clip(s_g + d, low_g, high_g)`` with the one shift ``d`` that removes the parameters
asked for, and then rounded: groups of the largest pieces first, by largest remainder, and those of the smallest fill
what is left, so that the sum is within half of the smallest piece.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from graphprune.core.errors import InfeasibleError, InputError
from graphprune.core.io import digest
from graphprune.masks.items import prunable, removable
from graphprune.methods import Cut
from graphprune.models.model import Model
from graphprune.pruning import kinds_of

Vector = Float[np.ndarray, " groups"]
Vectors = Float[np.ndarray, "candidates groups"]
Counts = Int[np.ndarray, " groups"]
BISECTIONS = 40


@dataclass(frozen=True)
class Architecture:
    """How many pieces go from every group; what isn't named loses none.

    Attributes:
        remove: by group (`head.3`, `neuron.3`), how many of its worst pieces go.
    """

    remove: Mapping[str, int]

    @property
    def key(self) -> str:
        """The same for two architectures that remove the same."""
        return digest({group: count for group, count in self.remove.items() if count})


@dataclass(frozen=True)
class Part:
    """A group whose sparsity may be chosen.

    Attributes:
        group: `head.L` or `neuron.L`.
        layer: which block.
        cost: parameters of a piece.
        size: how many pieces there are.
        low, high: how many pieces go at least and at most.
    """

    group: str
    layer: int
    cost: int
    size: int
    low: int
    high: int


@dataclass(frozen=True)
class Space:
    """All architectures that a search may choose from.

    Attributes:
        parts: the groups, in order of depth.
        prunable: what sparsity is a fraction of: all parameters of the kinds that are pruned, of protected blocks too.
    """

    parts: tuple[Part, ...]
    prunable: int

    @classmethod
    def of(
        cls, model: Model, choice: Cut | None = None, *, protected: Collection[int] = (), most: float = 1.0
    ) -> "Space":
        """The architectures of a decoder.

        Args:
            model: the decoder.
            choice: which units may go, as which pieces, and how many stay in every layer.
            protected: blocks that lose nothing.
            most: the largest share that a group may lose, floors apart.

        Raises:
            InputError: the model is a perceptron, a protected block isn't there, or nothing may go.
        """
        choice, n_layers = choice or Cut(), model.decoder.n_layers
        for layer in protected:
            if not 0 <= layer < n_layers:
                raise InputError(f"block {layer} can't be protected: {model.name} has blocks 0 to {n_layers - 1}")
        if not 0 < most <= 1:
            raise InputError(f"the largest share that a group may lose is above 0 and at most 1, not {most:g}")
        kinds = kinds_of(choice, model.units.kinds)
        pieces = removable(None, model.units, kinds, head_mode=choice.heads, floor=choice.floor)
        parts = tuple(
            Part(part.group, part.layer, part.cost, part.size, 0, min(len(part), int(most * part.size)))
            for part in pieces
            if part.layer not in protected
        )
        parts = tuple(part for part in parts if part.high)
        if not parts:
            raise InputError("nothing may go: every block is protected, or keeps all that it has")
        return cls(parts, prunable(model.units, kinds, "parameters"))

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(part.group for part in self.parts)

    @cached_property
    def costs(self) -> Counts:
        return np.array([part.cost for part in self.parts])

    @cached_property
    def sizes(self) -> Counts:
        return np.array([part.size for part in self.parts])

    @cached_property
    def lows(self) -> Counts:
        return np.array([part.low for part in self.parts])

    @cached_property
    def highs(self) -> Counts:
        return np.array([part.high for part in self.parts])

    def vector(self, architecture: Architecture) -> Vector:
        """The sparsity of every group.

        Raises:
            InputError: a group is unknown or protected, or loses more than it may.
        """
        for group, count in architecture.remove.items():
            if count and group not in self.groups:
                raise InputError(f"{group} may not lose anything: it is protected, or there is no such group")
        counts = np.array([architecture.remove.get(group, 0) for group in self.groups])
        for part, count in zip(self.parts, counts.tolist(), strict=True):
            if not 0 <= count <= part.size:
                raise InputError(f"{part.group} has {part.size} pieces, {count} can't go")
        return np.asarray(counts / self.sizes)

    def vectors(self, architectures: Collection[Architecture]) -> Vectors:
        return np.array([self.vector(architecture) for architecture in architectures]).reshape(-1, len(self))

    def removed(self, architecture: Architecture) -> int:
        """How many parameters go."""
        return sum(part.cost * architecture.remove.get(part.group, 0) for part in self.parts)

    def sparsity(self, architecture: Architecture) -> float:
        return self.removed(architecture) / self.prunable

    def narrowed(self, low: Vector, high: Vector) -> "Space":
        """The same groups between other sparsities, where these are within the old ones."""
        at_least = np.clip(np.ceil(low * self.sizes - 1e-9).astype(int), self.lows, self.highs)
        at_most = np.clip(np.floor(high * self.sizes + 1e-9).astype(int), at_least, self.highs)
        bounds = zip(self.parts, at_least.tolist(), at_most.tolist(), strict=True)
        return replace(self, parts=tuple(replace(part, low=least, high=most) for part, least, most in bounds))

    def check_reachable(self, sparsity: float) -> int:
        """How many parameters a sparsity stands for.

        Raises:
            InputError: it is no fraction.
            InfeasibleError: no architecture removes that many; the nearest sparsity is named.
        """
        if not 0 <= sparsity <= 1:
            raise InputError(f"sparsity is the fraction removed, between 0 and 1, not {sparsity:g}")
        amount, half = round(sparsity * self.prunable), int(self.costs.min()) / 2
        least, most = int(self.lows @ self.costs), int(self.highs @ self.costs)
        if not least - half <= amount <= most + half:
            nearest = (most if amount > most else least) / self.prunable
            raise InfeasibleError(
                f"sparsity {sparsity:g} is out of reach of every allocation that may be chosen: "
                f"the nearest is {nearest:.4f}"
            )
        return amount

    def realised(self, vector: Vector, sparsity: float | None = None) -> Architecture:
        """The architecture nearest to a vector: exact to one unit under a budget, else every group for itself.

        Raises:
            InfeasibleError: no architecture meets the budget.
        """
        wanted = vector * self.sizes
        if sparsity is None:
            counts = np.clip(np.rint(wanted), self.lows, self.highs).astype(int)
        else:
            counts = self._within(wanted, self.check_reachable(sparsity))
        return Architecture({group: count for group, count in zip(self.groups, counts.tolist(), strict=True) if count})

    def _within(self, wanted: Vector, amount: int) -> Counts:
        """Counts near the wanted ones that cost an amount, to within half of the smallest piece."""
        counts, left = np.zeros(len(self), dtype=int), amount
        open_ = np.ones(len(self), dtype=bool)
        for cost in sorted(set(self.costs.tolist()), reverse=True):
            here, later = open_ & (self.costs == cost), open_ & (self.costs != cost)
            shares = self._shifted(wanted, left, open_)
            whole = int(np.clip(self._count(shares, left, here, later), self.lows[here].sum(), self.highs[here].sum()))
            counts[here] = _rounded(shares[here], whole, self.lows[here], self.highs[here])
            left -= cost * int(counts[here].sum())
            open_ &= ~here
        return np.asarray(counts)

    def _count(self, shares: Vector, left: int, here: np.ndarray, later: np.ndarray) -> int:
        """How many of the pieces here go, so that those of later groups can make up the rest."""
        cost = int(self.costs[here][0])
        if not later.any():
            return round(left / cost)
        least, most = (left - int((bound * self.costs)[later].sum()) for bound in (self.highs, self.lows))
        return max(min(round(float(shares[here].sum())), most // cost), -(-least // cost))

    def _shifted(self, wanted: Vector, amount: int, open_: np.ndarray) -> Vector:
        """The wanted counts of the open groups, all sparsities shifted alike so that they cost an amount."""
        low, high = -1.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            counts = np.clip(wanted + middle * self.sizes, self.lows, self.highs)
            low, high = (middle, high) if (counts * self.costs)[open_].sum() < amount else (low, middle)
        shifted: Vector = np.clip(wanted + high * self.sizes, self.lows, self.highs)
        return shifted


def _rounded(shares: Vector, total: int, low: Counts, high: Counts) -> Counts:
    """Whole numbers near the shares with a given sum, between bounds: by largest remainder."""
    counts = np.clip(np.floor(shares + 1e-9).astype(int), low, high)
    while (missing := total - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = (counts < high) if step > 0 else (counts > low)
        if not free.any():
            break
        order = np.argsort(-step * (shares - counts), kind="stable")
        counts[[at for at in order.tolist() if free[at]][: abs(missing)]] += step
    return np.asarray(counts)

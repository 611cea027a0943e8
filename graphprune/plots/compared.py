"""Two scorers compared: how alike what they remove is over the budget, and in which blocks they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from scipy.stats import rankdata

from graphprune.core.scores import Scores
from graphprune.plots.style import GRID, INK, colour, kind_name, styled

BUDGETS = np.linspace(0.02, 0.9, 45)


@dataclass(frozen=True)
class Ranked:
    """The units of a kind that two scorers both have scores of, and the place each of them gives them.

    Attributes:
        kind: `neuron`, `head` or `resid`.
        layer: of every unit.
        position: of every unit in its group.
        scores: of both scorers.
        places: the share of the kind's units that a scorer ranks lower, ties averaged: 0 is the first to go.
    """

    kind: str
    layer: Int[np.ndarray, " units"]
    position: Int[np.ndarray, " units"]
    scores: tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]
    places: tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]

    @property
    def difference(self) -> Float[np.ndarray, " units"]:
        """How much higher the first scorer ranks a unit than the second."""
        return np.asarray(self.places[0] - self.places[1])

    def name(self, i: int) -> str:
        return f"{self.kind}.{self.layer[i]}.{self.position[i]}"


def ranked_alike(a: Scores, b: Scores, kinds: Sequence[str] | None = None) -> list[Ranked]:
    """What two scorers both rank, kind by kind.

    Raises:
        ValueError: they have no units in common, or belong to different models.
    """
    if a.model and b.model and a.model != b.model:
        raise ValueError(f"the scores of {a.method!r} and {b.method!r} belong to different models")
    result = []
    for kind in ("head", "neuron", "resid"):
        names = [n for n in a.values if n.split(".")[0] == kind and n in b.values]
        if not names or (kinds is not None and kind not in kinds):
            continue
        sizes = [len(a.values[name]) for name in names]
        scores = tuple(np.concatenate([each.values[name].double().numpy() for name in names]) for each in (a, b))
        lower = tuple((rankdata(values) - 1) / max(len(values) - 1, 1) for values in scores)
        layers = np.repeat([int(name.split(".")[1]) for name in names], sizes)
        within = np.concatenate([np.arange(size) for size in sizes])
        result.append(Ranked(kind, layers, within, (scores[0], scores[1]), (lower[0], lower[1])))
    if not result:
        raise ValueError(f"{a.method!r} and {b.method!r} have no units in common")
    return result


def overlap(a: Scores, b: Scores, *, labels: tuple[str, str], title: str = "Do they remove the same?") -> go.Figure:
    """Of the units that one scorer would remove, the share that the other would remove too, over the sparsity.

    Both remove their lowest-ranked units of a kind, over all blocks; ties by layer, then by lower id.

    Args:
        a: one scorer.
        b: the other.
        labels: what they are called.
        title: of the figure.

    Raises:
        ValueError: they have no units in common.
    """
    figure = go.Figure()
    for each in ranked_alike(a, b):
        turns = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in each.scores]
        counts = np.maximum((BUDGETS * len(each.layer)).round().astype(int), 1)
        both = np.sort(np.maximum(*turns))  # the number that each must remove before both have removed a unit
        shares = (np.searchsorted(both, counts) / counts).tolist()
        figure.add_trace(
            go.Scatter(
                x=BUDGETS, y=shares, mode="lines", name=kind_name(each.kind),
                line={"color": colour(each.kind), "width": 3, "dash": DASHES[each.kind]},
                hovertemplate="%{x:.0%} removed: %{y:.0%} in common<extra></extra>",
            )
        )  # fmt: skip
    chance = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="by chance", line={"color": GRID, "width": 2}, hoverinfo="skip"
    )
    figure.add_trace(chance)
    figure = styled(
        figure, title, f"{labels[0]} and {labels[1]}; one threshold a kind over all blocks", height=380,
        showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(title_text="sparsity", tickformat=".0%", gridcolor=GRID, range=[0, 0.92])
    return figure.update_yaxes(title_text="removed by both", tickformat=".0%", gridcolor=GRID, range=[0, 1.02])


def disagreement(a: Scores, b: Scores, *, labels: tuple[str, str], title: str = "Where do they disagree?") -> go.Figure:
    """How far apart two scorers rank the units of each block, on average, in shares of all units of the kind.

    Args:
        a: one scorer.
        b: the other.
        labels: what they are called.
        title: of the figure.

    Raises:
        ValueError: they have no units in common.
    """
    figure = go.Figure()
    for each in ranked_alike(a, b):
        layers = np.unique(each.layer)
        means = [float(np.abs(each.difference[each.layer == layer]).mean()) for layer in layers]
        figure.add_trace(
            go.Bar(
                x=layers / 2 if each.kind == "resid" else layers, y=means, name=kind_name(each.kind),
                marker={"color": colour(each.kind), "line": {"color": INK, "width": 0.5}},
                customdata=[[f"{each.kind}.{layer}"] for layer in layers],
                hovertemplate="<b>%{customdata[0]}</b><br>%{y:.1%} of all places apart<extra></extra>",
            )
        )  # fmt: skip
    figure = styled(
        figure, title, f"{labels[0]} and {labels[1]}; unrelated orders are 33 % apart", height=380, showlegend=True,
        barmode="group", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(title_text="block", showgrid=False)
    return figure.update_yaxes(title_text="mean difference of place", tickformat=".0%", gridcolor=GRID)


DASHES = {"head": "dash", "neuron": "solid", "resid": "dot"}

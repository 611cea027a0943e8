"""Masks changed by hand: what was drawn around in a figure, or scores below a threshold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from graphprune.core.errors import InputError
from graphprune.core.scores import Scores
from graphprune.plots.scatter import decades

MOST_CORNERS = 2000  # of what is drawn
Vector = Float[np.ndarray, " units"]


@dataclass(frozen=True)
class Region:
    """A part of a figure of one score over another.

    Attributes:
        xs, ys: the corners of a polygon, in scores.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    @classmethod
    def parse(cls, drawn: Mapping[str, Any] | None) -> "Region":
        """What a box (`range`) or a lasso (`lassoPoints`) encloses, as the browser says it.

        Raises:
            InputError: nothing has been drawn around, or it is damaged.
        """
        found = drawn or {}
        try:
            if found.get("range"):
                (left, right), (low, high) = found["range"]["x"], found["range"]["y"]
                xs, ys = [left, right, right, left], [low, low, high, high]
            elif found.get("lassoPoints"):
                xs, ys = found["lassoPoints"]["x"], found["lassoPoints"]["y"]
            else:
                raise InputError("draw a box or a lasso around units in the figure first")
            region = cls(tuple(map(float, xs)), tuple(map(float, ys)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("what was drawn can't be read; draw it again") from error
        if not 3 <= len(region.xs) == len(region.ys) <= MOST_CORNERS or not np.isfinite(region.xs + region.ys).all():
            raise InputError("what was drawn can't be read; draw it again")
        return region

    def holds(self, x: Vector, y: Vector) -> Bool[np.ndarray, " units"]:
        """Which points lie inside, by the even-odd rule, on axes as `plots.kept_scatter` draws them."""
        logarithmic = [decades(values) > 0 for values in (x, y)]
        points = [np.log10(v) if log else v for v, log in zip((x, y), logarithmic, strict=True)]
        corners = [
            np.log10(np.maximum(edge, np.finfo(float).tiny)) if log else np.array(edge)
            for edge, log in zip((self.xs, self.ys), logarithmic, strict=True)
        ]
        inside = np.zeros(len(x), dtype=bool)
        for x0, y0, x1, y1 in zip(*corners, *(np.roll(edge, -1) for edge in corners), strict=True):
            if y0 != y1:
                crosses = (y0 > points[1]) != (y1 > points[1])
                inside ^= crosses & (points[0] < x0 + (points[1] - y0) / (y1 - y0) * (x1 - x0))
        return inside


def enclosed(region: Region, a: Scores, b: Scores, groups: list[str]) -> dict[str, torch.Tensor]:
    """The units of some groups inside a region of the figure of two scores.

    Raises:
        InputError: there are none.
    """
    xs, ys = (np.concatenate([each.values[name].double().numpy() for name in groups]) for each in (a, b))
    return _divided(region.holds(xs, ys), a, groups)


def below(threshold: float, scores: Scores, groups: list[str]) -> dict[str, torch.Tensor]:
    """The units of some groups that score less than a threshold.

    Raises:
        InputError: there are none.
    """
    values = np.concatenate([scores.values[name].double().numpy() for name in groups])
    return _divided(values < threshold, scores, groups)


def _divided(chosen: Bool[np.ndarray, " units"], scores: Scores, groups: list[str]) -> dict[str, torch.Tensor]:
    if not chosen.any():
        raise InputError("no unit is inside")
    parts = torch.split(torch.from_numpy(chosen), [len(scores.values[name]) for name in groups])
    return {name: part for name, part in zip(groups, parts, strict=True) if bool(part.any())}

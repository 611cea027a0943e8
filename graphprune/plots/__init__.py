"""Figures: pure functions from graphs and scores to Plotly figures; nothing is written, shown, or set for others."""

from graphprune.plots.agreement import agreement as agreement
from graphprune.plots.profile import profile as profile
from graphprune.plots.ranked import ranked as ranked
from graphprune.plots.scatter import scatter as scatter
from graphprune.plots.units import Measure as Measure

__all__ = ["Measure", "agreement", "profile", "ranked", "scatter"]

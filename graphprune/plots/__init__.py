"""Figures: pure functions from artefacts to Plotly figures; nothing is written, shown, or set for others."""

from graphprune.plots.agreement import agreement as agreement
from graphprune.plots.anatomy import anatomy as anatomy
from graphprune.plots.comparison import agreement_matrix as agreement_matrix
from graphprune.plots.comparison import block_agreement as block_agreement
from graphprune.plots.comparison import overlap_curves as overlap_curves
from graphprune.plots.consequence import percolation_curves as percolation_curves
from graphprune.plots.consequence import predictive as predictive
from graphprune.plots.consequence import robustness_curves as robustness_curves
from graphprune.plots.flow import credit_map as credit_map
from graphprune.plots.flow import neighbourhood as neighbourhood
from graphprune.plots.flow import strongest_units as strongest_units
from graphprune.plots.kept import kept_and_removed as kept_and_removed
from graphprune.plots.kept import kept_scatter as kept_scatter
from graphprune.plots.paths import strongest_paths as strongest_paths
from graphprune.plots.prediction import importance as importance
from graphprune.plots.prediction import learning_curve as learning_curve
from graphprune.plots.prediction import predicted_and_measured as predicted_and_measured
from graphprune.plots.profile import profile as profile
from graphprune.plots.pruned import Point as Point
from graphprune.plots.pruned import quality as quality
from graphprune.plots.pruned import removed as removed
from graphprune.plots.ranked import ranked as ranked
from graphprune.plots.scatter import scatter as scatter
from graphprune.plots.study import study_curves as study_curves
from graphprune.plots.units import Measure as Measure

__all__ = [
    "Measure",
    "Point",
    "agreement",
    "agreement_matrix",
    "anatomy",
    "block_agreement",
    "credit_map",
    "importance",
    "kept_and_removed",
    "kept_scatter",
    "learning_curve",
    "neighbourhood",
    "overlap_curves",
    "percolation_curves",
    "predicted_and_measured",
    "predictive",
    "profile",
    "quality",
    "ranked",
    "removed",
    "robustness_curves",
    "scatter",
    "strongest_paths",
    "strongest_units",
    "study_curves",
]

"""The scorers on the same units: where they agree, where they don't, and what follows from it."""

from graphprune.comparison.agreement import compare as compare
from graphprune.comparison.result import Comparison as Comparison

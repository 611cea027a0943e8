"""Centralities of a weighted directed acyclic graph, each exact in one sweep over its edges."""

from graphprune.centrality.pagerank import pagerank as pagerank
from graphprune.centrality.result import CentralityResult as CentralityResult

CENTRALITIES = {"pagerank": pagerank}

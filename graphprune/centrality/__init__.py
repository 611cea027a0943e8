"""Centralities of a weighted directed acyclic graph: one measure a file, all of them in one table.

What can be solved by one sweep in topological order is solved so, exactly; parameters have networkx's names.
"""

from collections.abc import Callable
from difflib import get_close_matches

from graphprune.centrality.betweenness import betweenness, edge_betweenness
from graphprune.centrality.closeness import closeness
from graphprune.centrality.coreness import coreness
from graphprune.centrality.degree import in_degree, out_degree
from graphprune.centrality.distances import distances
from graphprune.centrality.eigenvector import eigenvector
from graphprune.centrality.harmonic import harmonic
from graphprune.centrality.hits import hits
from graphprune.centrality.katz import katz
from graphprune.centrality.leiden import Communities, leiden
from graphprune.centrality.pagerank import pagerank
from graphprune.centrality.path_mass import edge_path_mass, path_mass
from graphprune.centrality.reaching import reaching
from graphprune.centrality.result import CentralityResult, EdgeCentralityResult
from graphprune.centrality.strength import in_strength, out_strength
from graphprune.centrality.trophic import trophic_levels
from graphprune.core.errors import InputError

__all__ = [
    "CENTRALITIES", "CentralityResult", "Communities", "EdgeCentralityResult", "betweenness", "centrality", "closeness",
    "coreness", "distances", "edge_betweenness", "edge_path_mass", "eigenvector", "harmonic", "hits", "in_degree",
    "in_strength", "katz", "leiden", "out_degree", "out_strength", "pagerank", "path_mass", "reaching",
    "trophic_levels",
]  # fmt: skip

CENTRALITIES: dict[str, Callable[..., CentralityResult]] = {
    "in_degree": in_degree,
    "out_degree": out_degree,
    "in_strength": in_strength,
    "out_strength": out_strength,
    "pagerank": pagerank,
    "katz": katz,
    "hits": hits,
    "path_mass": path_mass,
    "closeness": closeness,
    "harmonic": harmonic,
    "betweenness": betweenness,
    "reaching": reaching,
    "trophic_levels": trophic_levels,
    "coreness": coreness,
}


def centrality(name: str) -> Callable[..., CentralityResult]:
    """A centrality by name.

    Raises:
        InputError: no centrality has that name; the nearest ones are suggested.
    """
    if name == "eigenvector":
        return eigenvector
    if name not in CENTRALITIES:
        near = get_close_matches(name, CENTRALITIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CENTRALITIES)}"
        raise InputError(f"no centrality is named {name!r}; {hint}")
    return CENTRALITIES[name]

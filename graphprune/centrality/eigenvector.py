"""Eigenvector centrality, which does not exist on a DAG."""

from typing import NoReturn

from graphprune.core.graph import ModelGraph


def eigenvector(graph: ModelGraph) -> NoReturn:  # noqa: ARG001 - whatever the graph is
    """Refuses: the adjacency matrix of a DAG is nilpotent, so its only eigenvalue is zero.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "eigenvector centrality is zero at every node of an acyclic graph, since no walk goes on for ever; "
        "use katz, pagerank, or hits"
    )

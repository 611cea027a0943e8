"""A small model's graph."""

import pytest

from graphprune.core.graph import ModelGraph
from graphprune.extraction.export import export
from graphprune.models.model import Model
from tests.families import decoder

N_BLOCKS, N_HEADS, N_NEURONS, WIDTH = 2, 4, 24, 16  # of the model


@pytest.fixture(scope="session")
def model() -> Model:
    return decoder("llama")


@pytest.fixture(scope="session")
def graph(model: Model) -> ModelGraph:
    return export(model)

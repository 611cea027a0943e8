"""What all tests share."""

import os

import pytest
import torch
from hypothesis import settings

from graphprune import Model, load_model

settings.register_profile("graphprune", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.load_profile("graphprune")
torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it does, on a busy machine much more


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The trained model that the package ships."""
    return load_model("tiny")

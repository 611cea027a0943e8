"""A graph on disk, and a copy of it that may be damaged."""

import shutil
from pathlib import Path

import pytest

from graphprune.extraction.export import export
from graphprune.models.model import Model
from tests.families import decoder


@pytest.fixture(scope="session")
def model() -> Model:
    return decoder("llama")


@pytest.fixture(scope="session")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of two shards, one a decoder block."""
    folder = tmp_path_factory.mktemp("exported")
    export(model, folder=folder, weight="signed")
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(exported, tmp_path, dirs_exist_ok=True))

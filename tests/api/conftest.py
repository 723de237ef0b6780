"""A small model for the tests of the Python API."""

from dataclasses import replace
from pathlib import Path

import pytest

import levit_cli
from levit_cli import Classifier
from tests.support.random_weights import TINY, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of ImageNet's classes."""
    return write_folder(tmp_path_factory.mktemp("model") / "hf", config=replace(TINY, num_classes=1000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Classifier:
    return levit_cli.load(folder)

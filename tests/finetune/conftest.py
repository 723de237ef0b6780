"""Fixtures for training tests: small data sets, and one torch thread, which is fastest for small networks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finetune.sets import write_architecture, write_set


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 3 classes with 12 training and 4 validation images each. Tests must not change it."""
    return write_set(tmp_path_factory.mktemp("images"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of 3 classes with 4 training and 2 validation images each, which the test may change."""
    return write_set(tmp_path / "dataset", 4, 2)


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``config.json`` of a small LeViT, for ``--from-scratch``."""
    return write_architecture(tmp_path_factory.mktemp("architecture") / "config.json")

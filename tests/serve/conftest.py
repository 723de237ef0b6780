"""Servers that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.server import Server, serving
from tests.support.extras import needs_serve
from tests.support.sample_images import write_images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all tests of this folder without the extra."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("without_extra") is None:
            item.add_marker(needs_serve)


@pytest.fixture(scope="package")
def served(tiny_folder: Path) -> Iterator[Server]:
    """A server with short limits, in fp32 and without batches."""
    with serving(
        tiny_folder, "--precision", "fp32", "--batch-size", "1", "--max-body", "1MiB", "--client-timeout", "1"
    ) as server:
        yield server


@pytest.fixture(scope="package")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """50 different images."""
    return write_images(tmp_path_factory.mktemp("photos"), 50)

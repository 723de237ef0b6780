"""Fixtures of the tests of levit gallery."""

from collections.abc import Iterator

import pytest

from tests.gallery.cases import PhotoServer


@pytest.fixture
def photo_server() -> Iterator[PhotoServer]:
    server = PhotoServer()
    yield server
    server.close()

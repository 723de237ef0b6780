"""Fixtures of the tests of levit gallery."""

from collections.abc import Iterator

import pytest

from tests.gallery.cases import PhotoServer
from tests.support.fake_hub import running


@pytest.fixture
def photo_server() -> Iterator[PhotoServer]:
    with running(PhotoServer()) as server:
        yield server

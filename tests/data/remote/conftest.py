"""A fake S3 endpoint, to which this process's s3fs is directed, and retries that take no time."""

from collections.abc import Iterator
from functools import partial

import pytest

from levit_cli.data.remote import stores
from levit_cli.data.remote.retry import Retry
from tests.support.fake_hub import running
from tests.support.fake_s3 import FakeS3

QUICK = partial(Retry, first_pause_s=0.001, total_s=5.0)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[FakeS3]:
    with running(FakeS3()) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        patch.setattr(stores, "Retry", QUICK)
        stores._store.cache_clear()
        yield server
        stores._store.cache_clear()


@pytest.fixture
def s3(s3_server: FakeS3) -> Iterator[FakeS3]:
    """A fake S3 without objects and faults."""
    s3_server.reset()
    yield s3_server
    s3_server.released.set()

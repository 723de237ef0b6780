"""Objects of S3 are downloaded through signed URLs; s3fs reads those that need its settings."""

from collections.abc import Iterator

import pytest

from levit_cli.data.remote import signed_get
from levit_cli.data.remote.signed_get import SignedGet
from levit_cli.data.remote.stores import Store, open_store
from levit_cli.errors import InputError
from tests.support.extras import needs_remote
from tests.support.fake_s3 import SECRET, FakeS3

pytestmark = needs_remote
CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def store(s3: FakeS3) -> Iterator[Store]:
    s3.add("bucket", {"a b%+é.jpg": CONTENT})
    signed_get._needs_proxy.cache_clear()
    yield open_store("s3://bucket/")[0]
    signed_get._needs_proxy.cache_clear()


def load(store: Store) -> bytes:
    (entry,) = store.tree("bucket")
    return store.load(entry)


def downloads(s3: FakeS3) -> list[str]:
    """Return the queries of the requests for objects."""
    return [request.query for request in s3.requests if request.path.startswith("/bucket/a")]


def test_an_object_is_downloaded_with_a_signed_url(s3: FakeS3, store: Store) -> None:
    assert load(store) == CONTENT
    (query,) = downloads(s3)
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in query  # buckets made after 2020 refuse signatures of version 2
    assert SECRET not in query


@pytest.mark.parametrize("setting", ["proxy", "verify", "extra arguments", "redirect"])
def test_s3fs_downloads_what_needs_its_settings(
    s3: FakeS3, store: Store, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    fs = store._fs
    if setting == "proxy":
        monkeypatch.setenv("http_proxy", s3.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        signed_get._needs_proxy.cache_clear()
        assert SignedGet(fs, 1, 1, int)("bucket", "a b%+é.jpg", 5.0) is None
        return
    if setting == "verify":
        monkeypatch.setattr(fs, "client_kwargs", {"verify": False})
    elif setting == "extra arguments":
        monkeypatch.setattr(fs, "s3_additional_kwargs", {"RequestPayer": "requester"})
    else:
        s3.faults = {"bucket/a b%+é.jpg": [307, None]}
    assert load(store) == CONTENT
    assert "X-Amz-Signature" not in downloads(s3)[-1]


def test_errors_do_not_show_the_signed_url(s3: FakeS3, store: Store) -> None:
    (entry,) = store.tree("bucket")
    for fault in ("cut", "reset", 403, 500):
        s3.faults = {"bucket/a b%+é.jpg": [fault]}
        with pytest.raises(InputError) as caught:
            store.load(entry)
        assert "Amz" not in str(caught.value)
        assert caught.value.__cause__ is None

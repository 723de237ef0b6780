"""Objects are read whole, in one version, within limits; a store that fails gives an error record."""

import pytest

from levit_cli.data.inputs import expand
from levit_cli.data.remote import stores
from levit_cli.data.remote.file import buffered
from levit_cli.data.remote.retry import Retry
from levit_cli.data.remote.stores import Entry, open_store
from levit_cli.errors import InputError
from tests.support.extras import needs_remote
from tests.support.fake_s3 import FakeS3, Fault

pytestmark = needs_remote
CONTENT = bytes(range(256)) * 100


def read(url: str = "s3://bucket/a.jpg", folder: str = "s3://bucket/") -> bytes:
    """List a folder and read one of its objects."""
    (load,) = [item.load for item in expand([folder]) if item.path == url]
    assert load is not None
    return load()


@pytest.mark.guarantee("remote-faults")
@pytest.mark.parametrize(
    "faults",
    [[503], [500, 502, 503], ["cut"], ["reset"], ["cut", "reset", 503], [404], [403], ["changed"], [429]],
    ids=str,
)
def test_an_object_is_read_after_faults_that_pass(s3: FakeS3, faults: list[Fault | None]) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    s3.faults = {"bucket/a.jpg": [*faults, None]}
    assert read() == CONTENT


@pytest.mark.guarantee("remote-faults")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (403, "the store returned 403 Forbidden"),
        (404, "the store returned 404 Not Found"),
        (503, "the store returned 503 Service Unavailable"),
        ("cut", "the store closed the connection too early"),
        ("reset", "the store closed the connection too early"),
        ("changing", "it changed while it was read"),
    ],
)
def test_an_object_that_cannot_be_read_is_a_download_error(s3: FakeS3, fault: Fault, words: str) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    s3.faults = {"bucket/a.jpg": [fault]}
    with pytest.raises(InputError, match=words) as caught:
        read()
    assert caught.value.kind == "download"
    assert caught.value.__suppress_context__
    num_reads = sum(request.path == "/bucket/a.jpg" for request in s3.requests)
    assert num_reads == (2 if fault in (403, 404) else 6)


@pytest.mark.guarantee("remote-faults")
def test_an_object_that_is_listed_but_gone(s3: FakeS3) -> None:
    s3.add("bucket", {"b.jpg": CONTENT})
    s3.listed_only = {"bucket/a.jpg": CONTENT}
    with pytest.raises(InputError, match="404 Not Found") as caught:
        read()
    assert caught.value.kind == "download"


@pytest.mark.guarantee("remote-faults")
def test_a_replaced_object_is_read_in_its_new_version(s3: FakeS3) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    s3.faults = {"bucket/a.jpg": ["changed"]}  # another content than the listed one, and the same each time
    assert read() == CONTENT + b"!"


@pytest.mark.guarantee("remote-faults")
def test_a_store_that_does_not_answer(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    s3.faults = {"bucket/a.jpg": ["stall"]}
    store, _ = open_store("s3://bucket/")
    monkeypatch.setattr(store, "_retry", Retry(total_s=0.2))
    with pytest.raises(InputError, match="did not answer in time"):
        read()


def test_an_object_above_the_limit_is_not_read(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    monkeypatch.setattr(stores, "MAX_OBJECT_BYTES", 1000)
    with pytest.raises(InputError, match="25,600 bytes or more; the limit is 1,000"):
        read()


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_limits_of_other_file_systems(scheme: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fs = fsspec.filesystem(scheme)
    fs.pipe_file(f"{tmp_path}/a.jpg", CONTENT)
    fs.pipe_file(f"{tmp_path}/empty.jpg", b"")
    base = f"{scheme}://{tmp_path}"
    assert read(f"{base}/a.jpg", f"{base}/") == CONTENT
    assert read(f"{base}/empty.jpg", f"{base}/") == b""
    monkeypatch.setattr(stores, "MAX_OBJECT_BYTES", 1000)
    with pytest.raises(InputError, match="the limit is 1,000"):
        read(f"{base}/a.jpg", f"{base}/")


def test_ranges_of_an_object(s3: FakeS3) -> None:
    s3.add("bucket", {"a.tar": CONTENT})
    store, path = open_store("s3://bucket/a.tar")
    entry = store.find(path)
    assert entry is not None
    file = buffered(store.ranges(entry), len(CONTENT))
    assert file.read(10) == CONTENT[:10]
    assert file.seek(-6, 2) == len(CONTENT) - 6
    assert file.read() == CONTENT[-6:]
    file.seek(1000)
    s3.faults = {"bucket/a.tar": [503, "cut", None]}
    file.seek(0)
    assert file.read() == CONTENT


@pytest.mark.guarantee("remote-faults")
def test_parts_of_two_versions_are_not_joined(s3: FakeS3) -> None:
    s3.add("bucket", {"a.tar": CONTENT})
    store, path = open_store("s3://bucket/a.tar")
    part = store.ranges(store.find(path) or Entry(path))
    assert part(0, 10) == CONTENT[:10]
    s3.add("bucket", {"a.tar": b"!" + CONTENT})
    with pytest.raises(InputError, match="it changed while it was read"):
        part(10, 20)


def test_a_scheme_may_be_in_upper_case(s3: FakeS3) -> None:
    s3.add("bucket", {"a.jpg": CONTENT})
    assert read("S3://bucket/a.jpg", "S3://bucket/") == CONTENT

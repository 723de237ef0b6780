"""Objects, folders and globs in stores are listed as those on disk are, page by page."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from levit_cli.data.inputs import Input, expand, from_paths
from levit_cli.data.remote import stores
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError, UnreachableError, UsageError
from tests.support.extras import needs_remote
from tests.support.fake_s3 import FakeS3

pytestmark = needs_remote

FILES = (
    *("d/a.jpg", "d/b.txt", "d/sub/c.png", "d/sub/deep/z.jpg", "d/.h/x.jpg", "d/.h/y.jpg", "d/@eaDir/y.jpg"),
    *("d/x.tar", "d-1/k.jpg", "e/[1].jpg", "e/1.jpg", "e/é\n?.jpg", "x.jpg/y.jpg", ".hidden.jpg", "t/a.dat"),
)
CASES: Mapping[str, list[str]] = {
    "d/": ["d/a.jpg", "d/sub/c.png", "d/sub/deep/z.jpg"],
    "d": ["d/a.jpg", "d/sub/c.png", "d/sub/deep/z.jpg"],
    "": [
        "d-1/k.jpg",
        "d/a.jpg",
        "d/sub/c.png",
        "d/sub/deep/z.jpg",
        "e/1.jpg",
        "e/[1].jpg",
        "e/é\n?.jpg",
        "x.jpg/y.jpg",
    ],
    "d/a.jpg": ["d/a.jpg"],
    "d/b.txt": ["d/b.txt"],  # a named object is always tried
    "x.jpg": ["x.jpg/y.jpg"],  # a folder named like an image
    "d/*.jpg": ["d/a.jpg"],
    "d/s*/c.*": ["d/sub/c.png"],
    "d/*/c.png": ["d/sub/c.png"],
    "d*": ["d-1/k.jpg", "d/a.jpg", "d/sub/c.png", "d/sub/deep/z.jpg"],
    "**/*.jpg": ["d-1/k.jpg", "d/a.jpg", "d/sub/deep/z.jpg", "e/1.jpg", "e/[1].jpg", "e/é\n?.jpg", "x.jpg/y.jpg"],
    "d/**": ["d/a.jpg", "d/sub/c.png", "d/sub/deep/z.jpg"],
    "**/deep": ["d/sub/deep/z.jpg"],
    "**/sub/**/*.*g": ["d/sub/c.png", "d/sub/deep/z.jpg"],
    "e/[1].jpg": ["e/[1].jpg"],  # exists with this name, so it is no pattern
    "e/[12].jpg": ["e/1.jpg"],
    "t/*": ["t/a.dat"],
}


def paths(url: str, skipped: Skipped | None = None) -> list[str]:
    return [item.path for item in expand([url], skipped)]


@pytest.fixture(scope="module")
def memory() -> Iterator[str]:
    """The URL of a folder in fsspec's memory file system, which lists folder by folder."""
    import fsspec

    fs = fsspec.filesystem("memory")
    for name in FILES:
        fs.pipe_file(f"/tests/{name}", b"content")
    yield "memory://tests"
    fs.rm("/tests", recursive=True)


@pytest.mark.guarantee("remote-inputs")
@pytest.mark.parametrize("name", CASES)
def test_a_bucket_is_listed_as_a_folder_is(s3: FakeS3, name: str) -> None:
    s3.add("bucket", {**dict.fromkeys(FILES, b"content"), "d/": b"", "d/sub/": b""})
    s3.page_size = 2
    assert paths(f"s3://bucket/{name}") == [f"s3://bucket/{path}" for path in CASES[name]]


@pytest.mark.parametrize("name", CASES)
def test_any_file_system_of_fsspec_is_listed(memory: str, name: str) -> None:
    expected = [f"{memory}/{path}" for path in CASES[name]]
    assert sorted(paths(f"{memory}/{name}")) == sorted(expected)


def test_what_is_skipped_is_counted_once(s3: FakeS3) -> None:
    s3.add("bucket", dict.fromkeys(FILES, b"content"))
    skipped = Skipped()
    paths("s3://bucket/d/", skipped)
    assert skipped.summary() == (
        "1 folder created by the system (@eaDir), 1 hidden file or folder, 1 archive, 1 file without an image suffix"
    )


@pytest.mark.guarantee("remote-inputs")
def test_a_listing_starts_with_its_first_page(s3: FakeS3) -> None:
    s3.add("bucket", {f"{number:04}.jpg": b"content" for number in range(30)})
    s3.page_size = 10
    inputs = expand(["s3://bucket/"])
    next(inputs)
    before = len(s3.requests)
    assert len([*inputs]) == 29
    assert len(s3.requests) == before + 2  # the other pages were requested afterwards


def test_objects_in_a_list_are_not_looked_up(s3: FakeS3) -> None:
    s3.add("bucket", {"a.jpg": b"content"})
    (item,) = from_paths(["s3://bucket/a.jpg"])
    assert not s3.requests
    assert load(item) == b"content"


def test_a_list_holds_no_patterns(s3: FakeS3) -> None:
    s3.add("bucket", {"a.jpg": b"content"})
    assert [item.path for item in from_paths(["s3://bucket/*.jpg"])] == ["s3://bucket/*.jpg"]


def load(item: Input) -> bytes:
    assert item.load is not None
    return item.load()


@pytest.mark.parametrize(("url", "kind"), [("s3://bucket/none/", "not_found"), ("s3://bucket/n*.jpg", "not_found")])
def test_what_does_not_exist_has_a_record(s3: FakeS3, url: str, kind: str) -> None:
    s3.add("bucket", {"a.jpg": b"content"})
    (item,) = expand([url])
    assert item.error is not None
    assert (item.path, item.error.kind) == (url, kind)


def test_a_named_object_that_does_not_exist_fails_when_it_is_read(s3: FakeS3) -> None:
    s3.add("bucket", {"a.jpg": b"content"})
    (item,) = expand(["s3://bucket/none.jpg"])
    with pytest.raises(InputError, match="404 Not Found") as caught:
        load(item)
    assert caught.value.kind == "download"


@pytest.mark.guarantee("remote-listing")
@pytest.mark.parametrize("fault", [403, 500])
def test_a_listing_that_fails_ends_the_run(s3: FakeS3, fault: int) -> None:
    s3.add("bucket", {f"{number}.jpg": b"content" for number in range(4)})
    s3.page_size, s3.faults = 2, {"bucket": [None, None, fault]}  # asked for the folder, then for the pages
    inputs = expand(["s3://bucket/"])
    assert [next(inputs).path, next(inputs).path] == ["s3://bucket/0.jpg", "s3://bucket/1.jpg"]
    with pytest.raises(UnreachableError, match=f"Cannot list s3://bucket/ · the store returned {fault}"):
        next(inputs)


def test_a_listing_is_repeated(s3: FakeS3) -> None:
    s3.add("bucket", {f"{number}.jpg": b"content" for number in range(4)})
    s3.page_size, s3.faults = 2, {"bucket": [503, None, 503, 503, None, None]}
    assert len(paths("s3://bucket/")) == 4


def test_offline_lists_nothing_and_reads_nothing() -> None:
    (item,) = expand(["s3://bucket/a.jpg"], offline=True)
    assert item.error is not None
    assert item.error.message == "not downloaded, because --offline is set"
    with pytest.raises(UnreachableError, match="--offline is set"):
        next(expand(["s3://bucket/"], offline=True))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "it names no bucket"),
        ("nothing://x/a.jpg", "no scheme that fsspec knows"),
        ("zip://a.zip", "names no store"),
        ("s3://KEY:secret@bucket/a.jpg", r"Cannot use s3://KEY:\*\*\*@bucket/a.jpg .* AWS_ACCESS_KEY_ID"),
    ],
)
def test_urls_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        next(expand([url]))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs"), ("sftp", "paramiko")])
def test_the_missing_package_of_a_scheme_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    def missing(_: str) -> Any:
        raise ImportError(f"Please install {package}")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(UsageError, match=f"-m pip install {package}$"):
        stores.open_store(f"{scheme}://bucket/a.jpg")


def test_secrets_are_hidden_in_the_paths_of_records() -> None:
    class NoServer(stores.Store):
        def __init__(self) -> None:
            self._base = "ftp://me:secret@host"

    assert NoServer().name("/a.jpg") == "ftp://me:***@host/a.jpg"

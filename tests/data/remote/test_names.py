"""Which texts are remote URLs, and what is hidden in names and messages."""

from pathlib import Path

import pytest

from levit_cli.data.remote.names import is_remote, one_line, url_of, without_secrets


@pytest.mark.parametrize("text", ["s3://bucket/a.jpg", "S3://bucket", "gs://b/x", "memory://a", "file:///tmp/a.jpg"])
def test_urls_of_stores_are_remote(text: str) -> None:
    assert is_remote(text)


@pytest.mark.parametrize(
    "text",
    ["a.jpg", "https://example.com/a.jpg", "HTTP://x/a.jpg", "c://x", "://x", "a b://x", "./s3://x", ""],
)
def test_paths_and_downloads_are_not_remote(text: str) -> None:
    assert not is_remote(text)


def test_an_existing_path_is_not_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_remote("s3://bucket")
    assert url_of(Path("s3://bucket")) is None


@pytest.mark.guarantee("remote-secrets")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://me:pass@host/a.jpg", "ftp://me:***@host/a.jpg"),
        ("ftp://me:p@ss@host/a@b.jpg", "ftp://me:***@host/a@b.jpg"),
        ("ftp://:pass@host/a.jpg", "ftp://:***@host/a.jpg"),
        ("s3://KEY:se/cr+et@bucket/a.jpg", "s3://KEY:***@bucket/a.jpg"),
        ("az://c/a.jpg?sv=1&sig=abc%2F&se=2", "az://c/a.jpg?sv=1&sig=***&se=2"),
        ("s3://b/a.jpg?X-Amz-Security-Token=abc", "s3://b/a.jpg?X-Amz-Security-Token=***"),
        ("failed for sftp://u:secret@h/x and ftp://u:p2@h/y", "failed for sftp://u:***@h/x and ftp://u:***@h/y"),
        ("sftp://host:22/a@b.jpg", "sftp://host:22/a@b.jpg"),
        ("hf://datasets/owner/name@main/a.jpg", "hf://datasets/owner/name@main/a.jpg"),
        ("github://owner:name@main/a.jpg", "github://owner:name@main/a.jpg"),
        ("s3://bucket/a:b@c.jpg", "s3://bucket/a:b@c.jpg"),
    ],
)
def test_passwords_and_signatures_are_hidden(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


def test_messages_are_one_printable_line() -> None:
    assert one_line("a\nb\x1b[31m ftp://u:p@h\n") == "a b [31m ftp://u:***@h"
    assert len(one_line("x" * 1000)) == 300


@pytest.mark.parametrize("url", ["s3://bucket/a/b.jsonl", "hf://datasets/o/n/x.csv", "file:///tmp/x.csv"])
def test_the_url_of_an_output_is_found_in_its_path(url: str) -> None:
    assert url_of(Path(url)) == url


@pytest.mark.parametrize("path", ["a.jsonl", "/tmp/a.jsonl", "c:/x.csv"])
def test_a_path_has_no_url(path: str) -> None:
    assert url_of(Path(path)) is None

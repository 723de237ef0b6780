import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_cli.data.inputs import expand, from_paths, is_url, read_list, walk
from tests.support.foreign_systems import IS_ROOT


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def below(root: Path, folder: str = "") -> list[str]:
    return [os.path.relpath(item.path, root) for item in walk(str(root / folder))]


def test_folder_is_walked_depth_first_in_name_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/b/c.JPEG", "c.tiff", "a.webp", "B.gif")
    assert below(tmp_path) == ["B.gif", "a/b/c.JPEG", "a/z.png", "a.webp", "b.jpg", "c.tiff"]


@pytest.mark.guarantee("symbolic-links")
def test_hidden_entries_links_and_other_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.jpg", ".git/x.jpg", "notes.txt", "kept.bmp", "noext")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "kept.bmp")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    assert below(tmp_path) == ["kept.bmp"]


@pytest.mark.guarantee("folder-named-like-an-image")
def test_folder_named_like_an_image_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/inner.png")
    assert below(tmp_path) == ["x.jpg/inner.png"]


@pytest.mark.guarantee("many-files")
def test_three_hundred_nested_folders_are_walked(tmp_path: Path) -> None:
    deep = "/".join("d" for _ in range(300))
    touch(tmp_path, f"{deep}/x.jpg")
    assert below(tmp_path) == [f"{deep}/x.jpg"]


@pytest.mark.guarantee("missing-or-unreadable")
@pytest.mark.skipif(IS_ROOT, reason="root can read every file")
def test_unreadable_folder_is_an_input_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "unreadable").mkdir(mode=0)
    (item,) = walk(str(tmp_path))
    assert item.path == str(tmp_path / "unreadable")
    assert item.error is not None
    assert item.error.kind == "permission"


def test_missing_folder_is_an_input_with_an_error(tmp_path: Path) -> None:
    (item,) = walk(str(tmp_path / "gone"))
    assert item.error is not None
    assert item.error.kind == "not_found"


@pytest.mark.guarantee("many-files")
def test_stream_starts_before_all_folders_are_walked(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    stream = walk(str(tmp_path))
    assert next(stream).path.endswith("a/1.jpg")
    (tmp_path / "b" / "2.jpg").unlink()
    assert list(stream) == []


def test_named_files_are_inputs_whatever_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "photo")
    paths = [str(tmp_path / "photo"), str(tmp_path / "missing.jpg")]
    assert [item.path for item in expand(paths)] == paths


def test_unexpanded_glob_is_expanded_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "c.png", "sub/d.jpg")
    assert [item.path for item in expand([f"{tmp_path}/*.jpg"])] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert [item.path for item in expand([f"{tmp_path}/**/*.jpg"])][-1] == f"{tmp_path}/sub/d.jpg"


@pytest.mark.guarantee("symbolic-links")
def test_recursive_glob_follows_no_link_and_lists_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "b.jpg", "sub/a.jpg", "sub/deep/c.jpg", ".hidden/d.jpg", "sub/[odd]/e.jpg")
    for name in ("one", "two", "sub/three"):  # Python's glob would follow these links in 2 ** 40 ways
        (tmp_path / name).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    every = ["b.jpg", "sub/[odd]/e.jpg", "sub/a.jpg", "sub/deep/c.jpg"]
    assert [item.path for item in expand(["**/*.jpg"])] == every
    assert [item.path for item in expand(["**/**/*.jpg"])] == every
    assert [item.path for item in expand(["s*/**/*.jpg"])] == every[1:]
    assert [item.path for item in expand([f"{tmp_path}/**/c.jpg"])] == [f"{tmp_path}/sub/deep/c.jpg"]
    assert [item.path for item in expand(["sub/**"])] == ["sub/[odd]/e.jpg", "sub/a.jpg", "sub/deep/c.jpg"]
    assert sorted(item.path for item in expand(["**"])) == [f"./{path}" for path in every]


def test_existing_file_with_glob_characters_is_not_expanded(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].jpg", "a1.jpg")
    assert [item.path for item in expand([f"{tmp_path}/a[1].jpg"])] == [f"{tmp_path}/a[1].jpg"]


def test_glob_without_a_match_is_an_input_with_an_error(tmp_path: Path) -> None:
    (item,) = expand([f"{tmp_path}/*.jpg"])
    assert item.path == f"{tmp_path}/*.jpg"
    assert item.error is not None
    assert (item.error.kind, item.error.message) == ("not_found", "no such file, and as a pattern it matches nothing")


def test_urls_and_standard_input_are_kept() -> None:
    assert [item.path for item in expand(["https://example.org/*.jpg", "-"])] == ["https://example.org/*.jpg", "-"]
    assert next(iter(expand(["-"]))).is_stdin


def test_dash_in_a_list_is_a_file() -> None:
    (item,) = from_paths(["-"])
    assert not item.is_stdin


@pytest.mark.guarantee("input-lists")
@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a\nb\n", False, ["a", "b"]),
        (b"a\r\nb\r\n", False, ["a", "b"]),
        (b"\xef\xbb\xbfa\n\n\nb", False, ["a", "b"]),
        (b"a\n b \n", False, ["a", " b "]),
        (b"a\nb\0c\0", True, ["a\nb", "c"]),
        (b"\xef\xbb\xbfa\r\0", True, ["\ufeffa\r"]),
        (b"caf\xe9\n", False, [os.fsdecode(b"caf\xe9")]),
        (b"", False, []),
        (b"\n\n", False, []),
        (b"\0\0", True, []),
    ],
)
def test_a_list_is_split_into_paths(content: bytes, null: bool, expected: list[str]) -> None:
    assert list(read_list(io.BytesIO(content), null=null)) == expected


PATHS = st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw)


class FakePipe(io.BytesIO):
    """Returns chunks of the given sizes, as a pipe may do."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        super().__init__(content)
        self._sizes = sizes

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(self._sizes.pop() if self._sizes else -1)


@pytest.mark.guarantee("input-lists")
@given(st.lists(PATHS), st.booleans(), st.lists(st.integers(1, 9)))
def test_any_paths_are_read_from_a_list_with_nul(paths: list[bytes], has_final_nul: bool, sizes: list[int]) -> None:
    content = b"\0".join(paths) + b"\0" * (has_final_nul and bool(paths))
    assert list(read_list(FakePipe(content, sizes), null=True)) == [os.fsdecode(path) for path in paths]


@given(st.lists(PATHS.filter(lambda raw: b"\n" not in raw and not raw.endswith(b"\r"))), st.lists(st.integers(1, 9)))
def test_any_lines_are_read_from_a_list(lines: list[bytes], sizes: list[int]) -> None:
    content = b"\xef\xbb\xbf" + b"".join(line + (b"\r\n\r\n" if len(line) % 2 else b"\n") for line in lines)
    assert list(read_list(FakePipe(content, sizes), null=False)) == [os.fsdecode(line) for line in lines]


@pytest.mark.guarantee("input-lists")
def test_list_is_read_correctly_one_byte_at_a_time() -> None:
    class OneByteAtATime(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(1)

    assert list(read_list(OneByteAtATime(b"\xef\xbb\xbfab\r\ncd\n"), null=False)) == ["ab", "cd"]


@pytest.mark.parametrize(
    ("text", "expected"), [("http://a", True), ("HTTPS://a", True), ("file:///a", False), ("a.jpg", False)]
)
def test_only_http_and_https_are_urls(text: str, expected: bool) -> None:
    assert is_url(text) is expected

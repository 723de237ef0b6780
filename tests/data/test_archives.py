"""Archives are read like folders, as streams, and nothing in them is ever written to disk."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import stat
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_cli.data import archives
from levit_cli.data.archives import tar
from levit_cli.data.archives.member import MAX_MEMBER_BYTES
from levit_cli.data.input import Input
from levit_cli.data.inputs import InputOptions, expand, from_paths, walk
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError
from tests.support.archives import MANY, header, header_only_tar, pax_header, tar_bytes, write_tar, write_zip

CONTENTS = {"b/z.jpg": b"z" * 700, "a.png": b"a", "c/B.JPG": bytes(range(256)) * 3, "b/a.webp": b"w" * 512}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress
}  # fmt: skip


def content_of(item: Input) -> bytes:
    assert item.error is None, item.error
    if item.content is not None:
        return item.content
    assert item.load is not None
    return item.load()


def error_of(item: Input) -> InputError:
    if item.error is not None:
        return item.error
    with pytest.raises(InputError) as caught:
        content_of(item)
    return caught.value


def listed(path: Path, skipped: Skipped | None = None) -> list[Input]:
    return [*from_paths([str(path)], skipped)]


def names_in(path: Path, skipped: Skipped | None = None) -> list[str]:
    items = listed(path, skipped)
    assert all(item.path.startswith(f"{path}!/") for item in items), items
    return [item.path.removeprefix(f"{path}!/") for item in items]


def read_all(path: Path) -> tuple[dict[str, bytes], list[InputError]]:
    """Return the content of the members, and the errors that the archive itself has."""
    contents, errors = {}, []
    for item in listed(path):
        if item.path == str(path):
            errors.append(error_of(item))
        else:
            contents[item.path.removeprefix(f"{path}!/")] = content_of(item)
    return contents, errors


# --- what is listed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_listed_in_its_order(format: int, tmp_path: Path) -> None:
    contents = CONTENTS | {f"{'d' * 90}/{'e' * 60}.jpg": b"long"}
    path = write_tar(tmp_path / "x.tar", contents, format=format)
    assert names_in(path) == [*contents]
    assert read_all(path) == (contents, [])


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_tars_are_decompressed_as_streams(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](tar_bytes(CONTENTS)))
    assert names_in(path) == [*CONTENTS]
    assert read_all(path) == (CONTENTS, [])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_listed_in_the_order_of_its_directory(compression: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.ZIP", CONTENTS, compression)
    assert names_in(path) == [*CONTENTS]
    assert read_all(path) == (CONTENTS, [])


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has Zstandard since 3.14")
def test_zstandard_is_read() -> None:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]

    file = io.BytesIO(zstd.compress(tar_bytes(CONTENTS)))
    assert [content_of(item) for item in archives.members("x", file, Skipped())] == [*CONTENTS.values()]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python has Zstandard since 3.14")
def test_zstandard_that_this_python_lacks_is_one_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    (item,) = listed(path)
    assert error_of(item).kind == "format_not_allowed"
    assert "zstd -d" in error_of(item).message


@pytest.mark.guarantee("archives")
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_what_is_skipped_in_an_archive_is_counted_as_in_a_folder(
    write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    names = [
        "a.jpg", "notes.txt", "000.cls", "000.json", "inner.tar", "inner.zip", "x.psd", ".hidden.jpg", "._a.jpg",
        "__MACOSX/a.jpg", "__MACOSX/b/c.jpg", "sub/@eaDir/x.jpg", ".git/x.jpg", ".git/y.jpg", "./b/./c.png", "folder/",
    ]  # fmt: skip
    folder, skipped, walked = tmp_path / "folder", Skipped(), Skipped()
    for name in names[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    path = write(tmp_path / "archive", dict.fromkeys(names, b"x")).rename(tmp_path / "x.tar")
    assert names_in(path, skipped) == ["a.jpg", "b/./c.png"]
    assert len([*walk(str(folder), walked)]) == 2
    assert skipped.counts == walked.counts
    assert skipped.sentence() == walked.sentence()


def test_an_archive_in_a_folder_is_skipped_and_a_named_one_is_read(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, {"x.jpg": b"x"})
    skipped = Skipped()
    assert [*expand([str(tmp_path)], skipped)] == []
    assert skipped.counts == {"archive": 2}
    paths = [f"{tmp_path}/{name}!/x.jpg" for name in ("a.tar", "b.tar")]
    assert [item.path for item in expand([f"{tmp_path}/*.tar"])] == paths
    (tmp_path / "list").write_text(f"{tmp_path}/b.tar\n{tmp_path}/a.tar\n")
    options = InputOptions((), str(tmp_path / "list"))
    assert [item.path for item in options.stream()] == paths[::-1]
    assert options.can_be_read_again


@pytest.mark.parametrize(
    "content",
    [tar_bytes({}), gzip.compress(tar_bytes({}), mtime=0), b"PK\5\6" + bytes(18)],
    ids=["tar", "gzip", "zip"],
)
def test_an_archive_without_images_is_like_an_empty_folder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    skipped = Skipped()
    assert listed(tmp_path / "x.tar", skipped) == []
    assert skipped.sentence() == f"No images in {tmp_path}/x.tar."


@pytest.mark.guarantee("archives")
def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    jpeg, other = tmp_path / "jpeg.tar", tmp_path / "tar.zip"
    jpeg.write_bytes(b"\xff\xd8\xff\xe0" + bytes(1000))
    write_tar(other, {"x.jpg": b"x"})
    assert listed(jpeg) == [Input(str(jpeg))]
    assert names_in(other) == ["x.jpg"]


@pytest.mark.parametrize("kind", ["not_found", "not_regular"])
def test_an_archive_that_cannot_be_opened_is_an_input_with_an_error(kind: str, tmp_path: Path) -> None:
    if kind == "not_regular":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(tmp_path / "x.tar")
    (item,) = listed(tmp_path / "x.tar")
    assert (item.path, error_of(item).kind) == (str(tmp_path / "x.tar"), kind)


# --- hostile names and kinds of members ------------------------------------------------------------------------------


@pytest.mark.guarantee("archive-members")
def test_names_that_climb_out_and_links_write_nothing(tmp_path: Path) -> None:
    climbing = ["../up.jpg", "/abs.jpg", "a/../../up.jpg", "twice.jpg", "twice.jpg"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number, name in enumerate(climbing):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"%d" % number))
        for name, kind in [("s.jpg", b"2"), ("h.jpg", b"1"), ("p.jpg", b"6"), ("c.jpg", b"3"), ("s.txt", b"2")]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    skipped = Skipped()
    items = listed(tmp_path / "x.tar", skipped)
    assert [item.path for item in items] == [
        f"{tmp_path}/x.tar!/{name}" for name in [*climbing, "h.jpg", "p.jpg", "c.jpg"]
    ]
    assert [content_of(item) for item in items[:5]] == [b"0", b"1", b"2", b"3", b"4"]
    assert [error_of(item).kind for item in items[5:]] == ["not_regular"] * 3
    assert skipped.counts == {"archived link": 2}
    assert [*tmp_path.iterdir()] == [tmp_path / "x.tar"]


def test_symbolic_links_in_a_zip_are_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("s.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    skipped = Skipped()
    assert listed(tmp_path / "x.zip", skipped) == []
    assert skipped.counts == {"archived link": 1}


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/."), min_size=1, max_size=150)


@pytest.mark.guarantee("archive-members")
@given(st.lists(NAMES, max_size=5, unique=True))
@settings(max_examples=50, deadline=None)
def test_any_name_is_one_input(names: list[str]) -> None:
    names = [f"{name}.jpg" for name in names if len(name.encode()) < 200]
    tarred, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with zipfile.ZipFile(zipped, "w") as zip_archive:
        for name in names:
            zip_archive.writestr(zipfile.ZipInfo(name), b"")
    for file in (tarred, zipped):
        file.seek(0)
        assert [item.path for item in archives.members("x", file, Skipped())] == [f"x!/{name}" for name in names]


def test_names_in_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(header(b"caf\xe9.jpg", 0) + header(b"new\nline\t\x1b.jpg", 0) + bytes(1024))
    assert names_in(path) == [os.fsdecode(b"caf\xe9.jpg"), "new\nline\t\x1b.jpg"]
    content = write_zip(tmp_path / "x.zip", {"x1.jpg": b"", "x2.jpg": b"", "x3.jpg": b""}).read_bytes()
    content = content.replace(b"x1.jpg", b"\x82x.jpg").replace(b"x2.jpg", "é.jpg".encode()).replace(b"x3", b"x\0")
    (tmp_path / "x.zip").write_bytes(content)
    skipped = Skipped()
    assert names_in(tmp_path / "x.zip", skipped) == ["éx.jpg", "é.jpg"]  # a NUL ends the third name
    assert skipped.counts == {"suffix": 1}


# --- damaged and huge members ----------------------------------------------------------------------------------------


@pytest.mark.guarantee("cut-archive")
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_cut_at_any_byte_gives_its_whole_members_and_one_error(format: int, tmp_path: Path) -> None:
    contents = {"a.jpg": b"a" * 600, "notes.txt": b"n" * 10, f"{'b' * 120}.jpg": b"b" * 512, "empty.jpg": b""}
    whole = tar_bytes(contents, format=format)
    path = tmp_path / "x.tar"
    path.write_bytes(whole)
    assert read_all(path) == ({name: contents[name] for name in contents if name != "notes.txt"}, [])
    ends = {}  # of the whole members' contents
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = {info.name: info.offset_data + info.size for info in archive if info.name != "notes.txt"}
        end_of_members = archive.offset
    for length in range(1, end_of_members + 1024):
        for is_stream in (False, True):
            file = io.BytesIO(whole[:length])
            read_at = None if is_stream else _reader_of(whole[:length])
            *items, last = archives.members("x.tar", file, Skipped(), read_at)
            assert (last.path, error_of(last).kind) == ("x.tar", "truncated"), length
            found = {item.path.removeprefix("x.tar!/"): content_of(item) for item in items}
            assert found == {name: contents[name] for name, end in ends.items() if end <= length}
    path.write_bytes(whole[: end_of_members + 1024])
    assert read_all(path)[1] == []


def _reader_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, count: data[offset : offset + count]


@pytest.mark.guarantee("cut-archive")
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_cut_at_any_byte_gives_one_error(compress: Callable[[bytes], bytes]) -> None:
    contents = {f"{number}.jpg": random.Random(number).randbytes(300) for number in range(4)}
    whole = compress(tar_bytes(contents))
    for length in range(6, len(whole)):
        *items, last = archives.members("x.tar.gz", io.BytesIO(whole[:length]), Skipped())
        assert (last.path, error_of(last).kind) == ("x.tar.gz", "truncated"), length
        assert [content_of(item) for item in items] == [*contents.values()][: len(items)]
    assert len(items) == 4 or compress is not gzip.compress  # what precedes the end is read


@pytest.mark.guarantee("cut-archive")
def test_a_wrong_checksum_of_gzip_is_an_error_after_all_members() -> None:
    damaged = bytearray(gzip.compress(tar_bytes(CONTENTS)))
    damaged[-5] ^= 1
    *items, last = archives.members("x.tgz", io.BytesIO(damaged), Skipped())
    assert [content_of(item) for item in items] == [*CONTENTS.values()]
    assert error_of(last).kind == "corrupt"
    assert "checksum" in error_of(last).message


@pytest.mark.guarantee("cut-archive")
@given(st.integers(0, 3000), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_never_ends_the_listing(position: int, bit: int) -> None:
    for whole in FLIPPED:
        damaged = bytearray(whole)
        damaged[position % len(whole)] ^= 1 << bit
        for read_at in (None, _reader_of(bytes(damaged))):
            for item in archives.members("x", io.BytesIO(damaged), Skipped(), read_at):
                if item.error is None and (item.content is not None or item.load is not None):
                    try:
                        content_of(item)
                    except InputError:
                        continue


def _zipped() -> bytes:
    file = io.BytesIO()
    write_zip(file, CONTENTS, zipfile.ZIP_DEFLATED)
    return file.getvalue()


FLIPPED = [compress(tar_bytes(CONTENTS)) for compress in (bytes, gzip.compress, bz2.compress, lzma.compress)]
FLIPPED.append(_zipped())


def test_a_damaged_header_ends_the_archive_with_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a", "b.jpg": b"b"})
    content = bytearray(path.read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)
    contents, (error,) = read_all(path)
    assert contents == {"a.jpg": b"a"}
    assert (error.kind, "byte 1,024" in error.message) == ("corrupt", True)


def test_concatenated_tars_are_one_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"a.jpg": b"a"}) + tar_bytes({"b.jpg": b"b"}) + b"garbage")
    assert read_all(path) == ({"a.jpg": b"a", "b.jpg": b"b"}, [])
    gz = tmp_path / "x.tar.gz"
    gz.write_bytes(gzip.compress(tar_bytes({"a.jpg": b"a"})) + gzip.compress(tar_bytes({"b.jpg": b"b"})) + bytes(99))
    assert read_all(gz) == ({"a.jpg": b"a", "b.jpg": b"b"}, [])


HUGE = 1 << 40


@pytest.mark.guarantee("archive-bombs")
@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        (header(b"a.jpg", HUGE) + b"x" * 512, ["truncated"]),
        (header(b"a.jpg", 10) + bytes(512) + header(b"x", 1 << 30, b"x") + bytes(4096), ["ok", "truncated"]),
        (header(b"x", 1 << 30, b"L") + bytes(4096), ["truncated"]),
        (header(b"x", 2 << 20, b"x") + bytes(2 << 20) + header(b"a.jpg", 0) + bytes(1024), ["too_large"]),
        (header(b"x", 2 << 20, b"L") + bytes(2 << 20) + header(b"a.jpg", 0) + bytes(1024), ["too_large"]),
        (pax_header(b"30 path=short\n") + header(b"a.jpg", 0) + bytes(1024), ["corrupt"]),
        (pax_header(b"16 size=-123456\n") + header(b"a.jpg", 0) + bytes(1024), ["corrupt"]),
        (header(b"a.jpg", 0, size_field=b"\xff" * 12) + bytes(1024), ["corrupt"]),
        (header(b"a.jpg", 0, size_field=b"-1\0") + bytes(1024), ["corrupt"]),
        (header(b"a.jpg", 0, b"S") + bytes(1024), ["format_not_allowed"]),
        (pax_header(b"22 GNU.sparse.major=1\n") + header(b"a.jpg", 0) + bytes(1024), ["format_not_allowed"]),
    ],
)  # fmt: skip
def test_headers_that_declare_too_much_take_no_memory(content: bytes, kinds: list[str], tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        items = listed(path)
        found = [error_of(item).kind if kind != "ok" else "ok" for item, kind in zip(items, kinds, strict=True)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == kinds
    assert peak < 8 << 20


@pytest.mark.guarantee("archive-bombs")
def test_a_member_above_the_limit_is_not_read(tmp_path: Path) -> None:
    size = MAX_MEMBER_BYTES + 512
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header(b"a.jpg", size))
        file.seek(size, 1)  # a hole
        file.write(tar_bytes({"b.jpg": b"b"}))
    first, second = listed(tmp_path / "x.tar")
    assert error_of(first).kind == "too_large"
    assert f"{size:,}" in error_of(first).message
    assert content_of(second) == b"b"


@pytest.mark.guarantee("archive-bombs")
@pytest.mark.parametrize(
    ("declared", "kind"), [(1000, "corrupt"), (64 << 20, "corrupt"), (MAX_MEMBER_BYTES + 1, "too_large")]
)
def test_a_zip_bomb_is_decompressed_no_further_than_declared(declared: int, kind: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": bytes(48 << 20), "b.jpg": b"b"}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<L", 48 << 20), struct.pack("<L", declared)))
    bomb, good = listed(path)
    tracemalloc.start()
    assert error_of(bomb).kind == kind
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20 or declared == 64 << 20
    assert content_of(good) == b"b"


@pytest.mark.guarantee("archive-bombs")
def test_a_bomb_in_a_compressed_tar_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBER_BYTES", 40 << 20)
    size = (40 << 20) + 1
    bomb = header(b"a.jpg", size) + bytes(size + -size % 512) + tar_bytes({"b.jpg": b"b"})
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bomb, 1))
    del bomb
    tracemalloc.start()
    first, second = listed(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error_of(first).kind == "too_large"
    assert content_of(second) == b"b"
    assert peak < 8 << 20


@pytest.mark.guarantee("archive-members")
def test_members_of_a_zip_that_cannot_be_read_are_errors_of_these_members(tmp_path: Path) -> None:
    names = ["encrypted", "method", "crc", "short", "local", "good"]
    path = write_zip(tmp_path / "x.zip", {f"{name}.jpg": name.encode() * 9 for name in names}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())

    def change(name: str, offset: int, value: bytes) -> None:
        at = content.rindex(f"{name}.jpg".encode()) - 46 + offset  # of its entry in the directory
        content[at : at + len(value)] = value

    change("encrypted", 8, b"\1")
    change("method", 10, b"\x0e")
    change("crc", 16, b"\0\0")
    change("short", 24, b"\1\0")
    change("local", 42, b"\1\0")
    path.write_bytes(content)
    *items, good = listed(path)
    kinds = ["format_not_allowed", "format_not_allowed", "corrupt", "corrupt", "corrupt"]
    assert [error_of(item).kind for item in items] == kinds
    assert "LZMA" in error_of(items[1]).message
    assert content_of(good) == b"good" * 9


def test_zip64_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as file:
        file.write(b"a" * 1000)
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(_as_zip64(content))
    assert read_all(tmp_path / "x.zip") == ({"a.jpg": b"a" * 1000}, [])


@pytest.mark.guarantee("cut-archive")
@pytest.mark.parametrize(
    ("signature", "offset", "value", "message"),
    [
        (b"PK\6\7", 8, 1 << 63, "its zip64 record is missing"),
        (b"PK\6\7", 8, (1 << 64) - 1, "its zip64 record is missing"),
        (b"PK\6\6", 32, 1 << 63, "it lists 1 member instead of 9,223,372,036,854,775,808"),
        (b"PK\6\6", 40, (1 << 64) - 1, "after the end of the file"),
        (b"PK\6\6", 48, (1 << 64) - 1, "after the end of the file"),
    ],
)
def test_numbers_of_zip64_that_are_too_large_are_damage(
    signature: bytes, offset: int, value: int, message: str, tmp_path: Path
) -> None:
    content = bytearray(_as_zip64(write_zip(tmp_path / "x.zip", {"a.jpg": b"a"}).read_bytes()))
    struct.pack_into("<Q", content, content.index(signature) + offset, value)
    (tmp_path / "x.zip").write_bytes(content)
    error = error_of(listed(tmp_path / "x.zip")[-1])
    assert error.kind == "corrupt"
    assert message in error.message


def _as_zip64(content: bytes) -> bytes:
    """Return an archive of one member with its directory in the form for archives of more than 4 GiB."""
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = bytearray(content[start:end])
    sizes = struct.unpack_from("<LL", entry, 20)
    extra = struct.pack("<HHQQQ", 1, 24, sizes[1], sizes[0], 0)
    entry[20:28] = b"\xff" * 8
    entry[42:46] = b"\xff" * 4
    name_end = 46 + int.from_bytes(entry[28:30], "little")
    entry[30:32] = len(extra).to_bytes(2, "little")
    entry[name_end:] = extra
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(entry), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:start] + bytes(entry) + end64 + locator + last


@pytest.mark.guarantee("cut-archive")
def test_a_zip_cut_at_any_byte_is_one_error(tmp_path: Path) -> None:
    whole = _zipped()
    for length in range(4, len(whole)):
        items = [*archives.members("x.zip", io.BytesIO(whole[:length]), Skipped())]
        assert [item.path for item in items] == ["x.zip"], length
        assert error_of(items[0]).kind == "truncated"


def test_a_comment_may_contain_the_signature_of_the_end(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", CONTENTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6" + bytes(30) + b"PK\5\6"
    assert read_all(path) == (CONTENTS, [])


@pytest.mark.guarantee("many-members")
@pytest.mark.parametrize("kind", ["tar", "stream", "zip"])
def test_memory_does_not_grow_with_the_members(kind: str, tmp_path: Path) -> None:
    file: io.IOBase = header_only_tar(MANY) if kind != "zip" else _zip_of_empty_members(MANY)
    items = archives.members("x", file, Skipped(), None if kind == "stream" else _nothing)  # type: ignore[arg-type]
    assert next(items).path == "x!/0.jpg"  # at once
    tracemalloc.start()
    count = 1 + sum(1 for _ in items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == MANY
    assert peak < 100_000  # 20 bytes for each member


def _nothing(_: int, __: int) -> bytes:
    return b""


def _zip_of_empty_members(count: int) -> io.BytesIO:
    names = [b"%d.jpg" % number for number in range(count)]
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, len(name), *[0] * 6) + name for name in names
    )  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[count % 65536] * 2, len(entries), 4, 0)
    return io.BytesIO(b"PK\3\4" + entries + end)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_members_can_be_read_later_and_without_an_open_file(tmp_path: Path) -> None:
    for path in (write_tar(tmp_path / "x.tar", CONTENTS), write_zip(tmp_path / "x.zip", CONTENTS)):
        assert [content_of(item) for item in reversed(listed(path))] == [*CONTENTS.values()][::-1]


def test_members_can_be_read_in_another_process(tmp_path: Path) -> None:
    """Data-loader workers are started with a copy of the inputs."""
    for path in (write_tar(tmp_path / "x.tar", CONTENTS), write_zip(tmp_path / "x.zip", CONTENTS)):
        items = pickle.loads(pickle.dumps(listed(path)))
        assert [content_of(item) for item in items] == [*CONTENTS.values()]
        assert [item.size for item in items] == [len(content) for content in CONTENTS.values()]


def test_an_archive_that_changes_while_it_is_read_gives_no_wrong_content(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", CONTENTS)
    items = listed(path)
    write_tar(tmp_path / "y.tar", dict(reversed(CONTENTS.items()))).replace(path)
    assert {error_of(item).message for item in items} == {"the archive was changed while it was read"}


class _Unseekable(io.BytesIO):
    """A binary file that counts what is read, for archives that are not on this machine."""

    num_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


def test_content_that_is_not_needed_is_not_read() -> None:
    file = _Unseekable(tar_bytes({"a.txt": bytes(10 << 20), "b.jpg": b"b", "c.txt": bytes(10 << 20)}))
    (item,) = archives.members("s3://bucket/x.tar", file, Skipped())
    assert (item.path, item.content) == ("s3://bucket/x.tar!/b.jpg", b"b")
    assert file.num_read < 1 << 20


def test_tarfile_agrees_on_everything(tmp_path: Path) -> None:
    rng = random.Random(0)
    for number in range(20):
        path = tmp_path / f"{number}.tar"
        contents = {
            "/".join("é" * rng.randrange(1, 90) for _ in range(rng.randrange(1, 4))) + f"{index}.jpg": rng.randbytes(
                rng.randrange(2000)
            )
            for index in range(8)
        }
        write_tar(path, contents, format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        assert read_all(path) == (contents, [])
        assert [*_with_tarfile(path)] == [*contents.items()]


def _with_tarfile(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            yield info.name, file.read()

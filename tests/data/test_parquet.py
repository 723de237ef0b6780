"""The images in Parquet files: columns, types, keys, and files that are damaged or built to harm."""

import base64
import io
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.inputs import InputOptions, from_paths
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError, UsageError
from tests.support.binary import environment
from tests.support.extras import needs_parquet

pytestmark = needs_parquet

IMAGES = [random.Random(number).randbytes(50 + 37 * number) for number in range(40)]
NAMES = [f"photo {number}.jpg" for number in range(40)]
Outcome = bytes | tuple[str, str]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, image: str | None = None, key: str | None = None) -> list[Input]:
    return [*from_paths([str(path)], columns=ImageColumns(image, key))]


def outcome(item: Input) -> Outcome:
    """Return the bytes of an input, or the kind and message of its error."""
    try:
        if item.error is not None:
            raise item.error
        return item.load() if item.load else item.content or b""
    except InputError as error:
        return error.kind, error.message


def outcomes(path: Path, **columns: str) -> list[Outcome]:
    return [outcome(item) for item in read(path, **columns)]


def kinds(found: list[Outcome]) -> list[str]:
    return ["ok" if isinstance(item, bytes) else item[0] for item in found]


def array_of(kind: str) -> Any:
    import pyarrow as pa

    if kind.startswith("struct"):
        rows = [{"bytes": image, "path": name} for image, name in zip(IMAGES, NAMES, strict=True)]
        content = pa.large_binary() if "large" in kind else pa.binary()
        return pa.array(rows, pa.struct({"bytes": content, "path": pa.string()}))
    types = {"binary": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view(), "dictionary": pa.binary()}
    array = pa.array(IMAGES, types[kind])
    return array.dictionary_encode() if kind == "dictionary" else array


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "several row groups": {"row_group_size": 7},
    "small pages": {"data_page_size": 1000, "write_batch_size": 3, "use_dictionary": False},
    "version 2 pages": {"data_page_version": "2.0", "compression": "zstd", "write_page_checksum": True},
    "prefixes": {"use_dictionary": False, "compression": "gzip"},
}


@pytest.mark.guarantee("parquet-input")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["binary", "large", "view", "dictionary", "struct", "struct large"])
def test_each_type_of_column_gives_its_bytes_in_any_order(kind: str, options: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": array_of(kind), "label": [1] * 40}, **OPTIONS[options])
    items = read(path)
    assert [item.path for item in items] == [f"{path}#{number}" for number in range(40)]
    order = random.Random(3).sample(range(40), 40)
    for numbers in (range(40), order, range(39, -1, -5)):
        items = read(path)
        assert [outcome(items[number]) for number in numbers] == [IMAGES[number] for number in numbers]


@pytest.mark.guarantee("parquet-input")
def test_values_with_a_common_beginning_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    images = [bytes(3000) + image for image in IMAGES]
    encoding = {"image": "DELTA_BYTE_ARRAY"}
    path = write(tmp_path / "a.parquet", {"image": pa.array(images)}, use_dictionary=False, column_encoding=encoding)
    assert outcomes(path) == images


def test_an_image_is_read_by_several_threads_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    images = [bytes([number % 251]) * 40_000 for number in range(1000)]
    path = write(tmp_path / "a.parquet", {"image": images}, row_group_size=230, use_dictionary=False)
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(outcome, read(path))] == images


@pytest.mark.guarantee("parquet-input")
def test_the_column_is_found_or_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, {"jpeg": IMAGES, "text": NAMES})
    assert outcomes(path) == IMAGES  # the only one
    write(path, {"jpeg": IMAGES[::-1], "image": IMAGES, "mask": IMAGES[::-1]})
    assert outcomes(path) == IMAGES  # the one of that name
    write(path, {"left": IMAGES, "right": IMAGES[::-1], "text": NAMES})
    assert outcomes(path, image="left") == IMAGES
    with pytest.raises(UsageError, match=r"has 2 columns that may hold images · choose one with --image-column: left"):
        read(path)
    with pytest.raises(UsageError, match=r"no column text for --image-column · its type is string · .* left, right"):
        read(path, image="text")
    with pytest.raises(UsageError, match=r"no column nothing for --key-column · its columns are left, right, text"):
        read(path, image="left", key="nothing")
    write(path, {"text": NAMES})
    (item,) = read(path)
    assert item.path == str(path)
    assert outcome(item) == ("not_an_image", "the Parquet file has no column of images; it has text")


@pytest.mark.guarantee("parquet-input", "hostile-names")
def test_keys_are_the_paths(tmp_path: Path) -> None:
    import pyarrow as pa

    keys: list[bytes | None] = [b"a.jpg", b"a.jpg", b"\xff\xfe", b"line\nbreak", b"", None, b"../../etc/passwd", b"-"]
    expected = [*(os.fsdecode(key) for key in keys[:4] if key), "#4", "#5", "../../etc/passwd", "-"]
    path = tmp_path / "a.parquet"
    for array in (pa.array(keys), pa.array(keys).dictionary_encode(), pa.array(keys, pa.large_binary())):
        write(path, {"image": IMAGES[:8], "key": array}, row_group_size=3)
        items = read(path, key="key")
        assert [item.path for item in items] == [key if key[:1] != "#" else f"{path}{key}" for key in expected]
        assert [outcome(item) for item in items] == IMAGES[:8]
    write(path, {"image": IMAGES[:3], "key": pa.array([7, None, 2**40])})
    assert [item.path for item in read(path, key="key")] == ["7", f"{path}#1", str(2**40)]
    write(path, {"image": IMAGES[:2], "key": ["x", "ü"]})
    assert [item.path for item in read(path, key="key")] == ["x", "ü"]


@pytest.mark.guarantee("parquet-input")
def test_a_row_without_bytes_is_an_error_and_its_path_is_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    rows = [{"bytes": b"a", "path": "x"}, {"bytes": None, "path": str(secret)}, None, {"bytes": b"", "path": None}]
    found = outcomes(write(tmp_path / "a.parquet", {"image": rows}))
    assert kinds(found) == ["ok", "not_found", "not_found", "ok"]
    assert f"only the path {secret}" in str(found[1][1])
    assert "its cell is null" in str(found[2][1])
    assert kinds(outcomes(write(tmp_path / "b.parquet", {"image": [b"a", None, b"c"]}))) == ["ok", "not_found", "ok"]


def test_a_file_without_rows_is_counted_as_empty(tmp_path: Path) -> None:
    import pyarrow as pa

    path = write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())})
    skipped = Skipped()
    assert [*from_paths([str(path)], skipped)] == []
    assert str(path) in skipped.sentence()


@pytest.mark.guarantee("skipped-files")
def test_in_a_folder_a_parquet_file_is_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": IMAGES})
    skipped = Skipped()
    assert [*from_paths([str(tmp_path)], skipped)] == []
    assert "1 archive" in skipped.summary()


@pytest.mark.guarantee("wrong-suffix")
def test_another_file_of_that_name_is_judged_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "photo.parquet"
    path.write_bytes(b"\xff\xd8\xff\xe0 and so on")
    assert read(path) == [Input(str(path))]
    assert outcome(read(tmp_path / "none.parquet")[0])[0] == "not_found"


def test_the_descriptors_of_many_files_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    paths = [write(tmp_path / f"{number}.parquet", {"image": IMAGES[:2]}) for number in range(5)]
    items = [item for path in paths for item in read(path)]
    for item in items[:-1]:
        outcome(item)
    del item, items
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES})
    items = read(path)
    write(path, {"image": IMAGES[::-1], "more": NAMES})
    assert outcome(items[0]) == ("corrupt", "the file was changed while it was read")


# Damage


@pytest.mark.guarantee("parquet-damaged")
def test_a_file_cut_anywhere_is_one_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet", {"image": IMAGES[:5]}).read_bytes()
    path = tmp_path / "cut.parquet"
    for length in range(4, len(whole), 5):
        path.write_bytes(whole[:length])
        (item,) = read(path)
        assert outcome(item)[0] == "truncated", length


@pytest.mark.guarantee("parquet-damaged")
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_page_fails_the_rows_from_there_to_the_end_of_its_row_group(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(
        path, {"image": IMAGES, "key": NAMES}, row_group_size=20, data_page_size=100, write_batch_size=5,
        use_dictionary=False, compression=compression, write_page_checksum=True, write_statistics=False,
    )  # fmt: skip
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES[12]) + 20 if compression == "none" else len(content) // 8] ^= 1
    path.write_bytes(content)
    found = outcomes(path)
    first = kinds(found).index("corrupt")
    assert first % 5 == 0
    assert compression != "none" or first == 10
    assert found[:first] == IMAGES[:first]
    assert kinds(found[first:20]) == ["corrupt"] * (20 - first)
    assert found[20:] == IMAGES[20:]
    assert [item.path for item in read(path, key="key")] == NAMES
    assert all("\n" not in item[1] for item in found[first:20] if isinstance(item, tuple))


@pytest.mark.guarantee("parquet-damaged")
def test_encrypted_files_are_named_as_such(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyarrow.parquet.encryption as encryption

    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

    table = pa.table({"image": IMAGES[:3], "key": NAMES[:3]})
    for plain, errors in ((False, 1), (True, 3)):
        configuration = encryption.EncryptionConfiguration("f", column_keys={"k": ["image"]}, plaintext_footer=plain)
        factory = encryption.CryptoFactory(lambda _: Keys())
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
        with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        found = outcomes(tmp_path / "a.parquet")
        assert kinds(found) == ["unsupported_mode"] * errors
        assert all("encrypted" in item[1] for item in found if isinstance(item, tuple))


def page(size: int, compressed: int, *, encoding: int = 0, kind: int = 0) -> bytes:
    """Return a page: a header that declares ``size`` bytes, and ``compressed`` bytes."""
    values = b"\x15" + varint(2) + b"\x15" + varint(encoding) + b"\x00"
    content = {0: b"\x2c" + values, 2: b"\x4c" + values}[kind]
    return (
        b"\x15"
        + varint(kind)
        + b"\x15"
        + varint(size)
        + b"\x15"
        + varint(compressed)
        + content
        + b"\0"
        + bytes(compressed)
    )


def varint(value: int) -> bytes:
    """Return an integer as Thrift's compact protocol writes it."""
    value, encoded = (value << 1) ^ (value >> 63), bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


PAGES: dict[str, tuple[bytes, int | str]] = {
    "plain": (page(300, 200) + page(500, 100), 0),
    "dictionary": (page(700, 200, kind=2) + page(500, 100, encoding=8), 700),
    "common beginnings": (page(900, 200, encoding=7) + page(500, 100), 900),
    "2 GiB": (page(2**31 - 1, 100), "too_large"),
    "1 GiB of much": (page(2**30 + 1, 100), "too_large"),
    "compressed too well": (page(2**26 + 1, 1000), "too_large"),
    "beyond the column": (page(300, 200)[:-1], "corrupt"),
    "negative": (page(-1, 100), "corrupt"),
    "negative compressed": (page(100, 0).replace(varint(100), varint(100) + b"\x15\x01\x00"), "corrupt"),
    "no header": (bytes(50), "corrupt"),
    "cut header": (page(300, 200)[:6], "corrupt"),
    "deep": (b"\x1c" * 1000, "corrupt"),
    "a list of 2^60": (b"\x19\xf5" + b"\xff" * 8 + b"\x0f", "corrupt"),
}


@pytest.mark.guarantee("parquet-damaged")
@pytest.mark.parametrize("case", PAGES)
def test_page_headers_are_checked(case: str) -> None:
    from levit_cli.data.parquet.pages import Chunk, largest_shared_bytes

    content, expected = PAGES[case]
    file = io.BytesIO(b"PAR1" + content)
    chunk = Chunk(b"image", 0, 4, 4 + len(content), is_encrypted=False)
    if isinstance(expected, int):
        assert largest_shared_bytes(file, chunk) == expected
        return
    with pytest.raises(InputError) as caught:
        largest_shared_bytes(file, chunk)
    assert caught.value.kind == expected


@pytest.mark.guarantee("parquet-damaged")
def test_a_page_that_decompresses_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from levit_cli.data.parquet import pages

    monkeypatch.setattr(pages, "MAX_TRUSTED_BYTES", 1 << 20)
    path = write(tmp_path / "a.parquet", {"image": [bytes(2 << 20)]}, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 10_000
    ((kind, message),) = outcomes(path)
    assert kind == "too_large"
    assert "a page declares 2,097," in str(message)


@pytest.mark.guarantee("parquet-damaged")
def test_a_dictionary_is_not_repeated_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of 4 MB in 2,000 rows is a small file, whose rows together have 8 GB."""
    import pyarrow as pa

    image = random.Random(1).randbytes(4 << 20)
    array = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([image]))
    path = write(tmp_path / "a.parquet", {"image": array}, dictionary_pagesize_limit=8 << 20)
    assert path.stat().st_size < 5 << 20
    before = pa.default_memory_pool().max_memory()
    items = read(path)
    assert len(items) == 2000
    assert all(outcome(item) == image for item in items[:6])
    assert pa.default_memory_pool().max_memory() - before < 64 << 20


@pytest.mark.guarantee("parquet-damaged")
def test_no_damage_ends_the_process_or_raises_another_error(tmp_path: Path) -> None:
    """pyarrow's functions for the metadata of columns abort the process for some of these files."""
    path = write(
        tmp_path / "a.parquet", {"image": array_of("struct").slice(0, 12), "key": NAMES[:12]}, row_group_size=5,
        data_page_size=100, write_batch_size=2,
    )  # fmt: skip
    code = f"""
import random
from tests.data.test_parquet import outcomes
from pathlib import Path
whole = Path({str(path)!r}).read_bytes()
damaged = Path({str(path)!r}).with_name("damaged.parquet")
rng = random.Random(2)
for _ in range(200):
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 5))):
        content[rng.randrange(4, len(content) - 4)] = rng.choice((0, 255, 127, rng.randrange(256)))
    damaged.write_bytes(content)
    outcomes(damaged)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.guarantee("parquet-damaged")
def test_a_damaged_file_runs_no_code_of_its_own(tmp_path: Path) -> None:
    """pyarrow before 14.0.1 unpickled extension types in the schema of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload()),
    }
    schema = pa.schema([pa.field("image", pa.binary(), metadata=metadata)])

    pq.write_table(pa.Table.from_arrays([pa.array(IMAGES[:2])], schema=schema), tmp_path / "a.parquet")
    outcomes(tmp_path / "a.parquet")
    assert not (tmp_path / "ran").exists()


def test_the_stream_of_inputs_takes_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"left": IMAGES[:2], "right": IMAGES[2:4], "key": NAMES[:2]})
    options = InputOptions((str(tmp_path / "*.parquet"),), columns=ImageColumns("right", "key"))
    assert [(item.path, outcome(item)) for item in options.stream()] == [*zip(NAMES, IMAGES[2:4], strict=False)]
    (tmp_path / "list").write_text(f"{path}\n")
    options = InputOptions((), str(tmp_path / "list"), columns=ImageColumns("left"))
    assert [outcome(item) for item in options.stream()] == IMAGES[:2]


def test_without_reopening_the_images_are_read_as_they_are_listed(tmp_path: Path) -> None:
    from levit_cli.data.parquet import rows

    path = write(tmp_path / "a.parquet", {"image": [*IMAGES[:5], None]}, row_group_size=2)
    with path.open("rb") as file:
        items = [*rows("s3://bucket/a.parquet", file, ImageColumns(), Skipped())]
    assert [item.path for item in items] == [f"s3://bucket/a.parquet#{number}" for number in range(6)]
    assert [item.content for item in items] == [*IMAGES[:5], None]
    assert outcome(items[5])[0] == "not_found"

"""Weight files are read completely or refused with a reason. The content decides the file type."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from levit_cli.checkpoints.weights import (
    Weights,
    read_weights,
    sha256_of,
    shards,
    unwrap,
    weight_files,
)
from levit_cli.errors import ExitCode, RefusedError

ARRAYS: dict[str, NDArray[Any]] = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / 8,
    "counter": np.array(7, np.int64),
}
Edit = Callable[[dict[str, Any]], Any]


def refusal(path: Path, **options: Any) -> str:
    """Return the error message of a refused file, which contains its path."""
    with pytest.raises(RefusedError) as caught:
        read_weights(path, **options)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- round trips


# --- safetensors


def with_header(change: Edit, body: bytes | None = None) -> bytes:
    """Return a safetensors file whose header is replaced by the result of ``change``, JSON or bytes."""
    from safetensors.numpy import save

    whole = save(ARRAYS)
    end = 8 + int.from_bytes(whole[:8], "little")
    header = change(json.loads(whole[8:end]))
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + (whole[end:] if body is None else body)


WHOLE = with_header(lambda header: header)


def with_duplicate(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode()[:-1] + b', "matrix": ' + json.dumps(header["matrix"]).encode() + b"}"


def put(name: str, **changes: Any) -> Edit:
    return lambda header: {**header, name: {**header[name], **changes}}


@pytest.mark.guarantee("corrupt-weights")
@pytest.mark.parametrize("length", [9, 40, len(WHOLE) - 49, len(WHOLE) - 1])
def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(WHOLE[:length])
    assert f"but the file has {length:,}" in refusal(tmp_path / "a.safetensors")


def test_trailing_bytes_are_refused_with_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(WHOLE + bytes(5))
    message = refusal(tmp_path / "a.safetensors")
    assert f"the header expects {len(WHOLE):,} bytes, but the file has {len(WHOLE) + 5:,}" in message


@pytest.mark.guarantee("corrupt-weights")
def test_every_flipped_bit_of_a_header_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    expected = {name: (array.dtype, array.shape, array.tolist()) for name, array in ARRAYS.items()}
    for bit in range(8 * (len(WHOLE) - 56)):
        flipped = bytearray(WHOLE)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            arrays = read_weights(path).arrays
        except RefusedError:
            continue
        actual = {name: (array.dtype, array.shape, array.tolist()) for name, array in arrays.items()}
        # Another name or another type of the same size is detected later, by the conversion of the state dict.
        assert len(actual) == len(expected)


@pytest.mark.guarantee("corrupt-weights")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ((1 << 63).to_bytes(8, "little") + WHOLE[8:], "header ends at byte 9,223,372,036,854,775,816"),
        ((200_000_000).to_bytes(8, "little") + WHOLE[8:], "header ends at byte 200,000,008"),
        (with_header(lambda header: b"{" + b"[" * 100_000), "the header is invalid"),
        (with_header(lambda header: b'{"a": "\xff"}'), "the header is invalid"),
        (with_header(lambda header: {"a": 3}, b""), "the header is invalid"),
        (with_header(lambda header: {"a": {"dtype": "F32", "shape": [1]}}, b""), "the header is invalid"),
        (with_header(with_duplicate), "lists matrix twice"),
        (with_header(put("matrix", data_offsets=[4, 56])), "invalid"),
        (with_header(put("matrix", data_offsets=[0, 56])), "invalid"),
        (with_header(put("matrix", shape=[3, 5])), "invalid"),
        (with_header(put("matrix", shape=[1 << 40, 1 << 40])), "overflow"),
        (with_header(put("matrix", shape=[-3, -4])), "invalid"),
        (with_header(put("matrix", dtype="F8_E4M3", shape=[48])), "matrix has the unsupported type F8_E4M3"),
        (with_header(put("matrix", dtype="Q4", shape=[96])), "unknown variant"),
    ],
)  # fmt: skip
def test_an_invalid_header_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert reason in refusal(tmp_path / "a.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 1 << 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E5M2", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 1 << 40), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
    }
)


@pytest.mark.guarantee("corrupt-weights")
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON | st.dictionaries(st.text(max_size=8), ENTRIES | JSON, max_size=3), st.binary(max_size=64))
def test_any_header_is_refused_or_read_safely(tmp_path: Path, header: Any, body: bytes) -> None:
    raw = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    try:
        weights = read_weights(tmp_path / "a.safetensors")
    except RefusedError:
        return
    assert sum(array.nbytes for array in weights.arrays.values()) <= 2 * len(body)  # bfloat16 is widened


# --- files that are not weight files


def old_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:96703c44\nsize 32152063\n"


@pytest.mark.guarantee("not-weights", "unsupported-archive")
@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"{}", "an unknown file type"),
        (LFS_POINTER, "a Git LFS pointer"),
        (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"<HTML><head>", "an HTML page"),
        (old_tar(), "a tar archive written by torch before 0.4"),
        (b"class Weights:\n    pass\n", "an unknown file type"),
        (bytes(1000), "an unknown file type"),
        (b"\xff" * 1000, "an unknown file type"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "an unknown file type"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_a_guess_of_their_type(
    tmp_path: Path, content: bytes, reason: str, suffix: str
) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    assert f"it looks like {reason}" in refusal(path)


@pytest.mark.guarantee("unsupported-archive")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\3\4", "damaged or not a checkpoint"),
        (zip_of({"hello.txt": b"hello"}), "damaged or not a checkpoint"),
        (zip_of({"a/data.pkl": b"", "a/version": b"3\n"}), "damaged or not a checkpoint"),
        (zip_of({"a/data.pkl": b"\x80\x02K\x07.", "a/version": b"3\n"}), "is not a state dict"),
        (zip_of({"a/data.pkl": b"\x80\x02N.", "a/constants.pkl": b"", "a/version": b"3\n"}), "a TorchScript archive"),
        (zip_of({"a/data.pkl": bytes(50_000_000)}, zipfile.ZIP_DEFLATED), "bytes unpack to 50,000,000"),
    ],
)  # fmt: skip
def test_an_archive_without_weights_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert reason in refusal(tmp_path / "a.pth")


def test_an_unreadable_path_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.pth")
    assert "directory" in refusal(tmp_path)


# --- EMA weights


# --- wrappers


@pytest.mark.guarantee("key-prefixes")
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_wrapper_prefixes_are_removed_with_a_note(prefix: str) -> None:
    weights = unwrap(Weights({f"{prefix}{name}": array for name, array in ARRAYS.items()}, notes=("before",)))
    assert weights.arrays.keys() == ARRAYS.keys()
    assert weights.notes[0] == "before"
    assert len(weights.notes) == 1 + prefix.count(".")


def test_a_prefix_of_only_some_names_is_kept() -> None:
    arrays = {"module.a": ARRAYS["matrix"], "b": ARRAYS["matrix"]}
    assert unwrap(Weights(arrays)).arrays.keys() == arrays.keys()


# --- folders and shards


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin", "other.safetensors"], "pytorch_model.bin"),
    ],
)
def test_safetensors_come_before_pickles(tmp_path: Path, present: list[str], taken: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    assert weight_files(tmp_path) == (tmp_path / taken,)


def test_a_folder_without_weights_is_refused_with_the_expected_names(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"looked for model\.safetensors, .*pytorch_model\.bin"):
        weight_files(tmp_path)


def index_of(folder: Path, content: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_each_shard_is_listed_once(tmp_path: Path) -> None:
    index = index_of(tmp_path, {"weight_map": {"a": "two", "b": "one", "c": "two"}})
    assert weight_files(index) == weight_files(tmp_path) == (tmp_path / "one", tmp_path / "two")
    assert shards(tmp_path / "model.safetensors") == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", ".", "x\0y", "a/../../b"])
def test_a_shard_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="lists a file outside its folder") as caught:
        weight_files(index_of(tmp_path, {"weight_map": {"a": "one", "b": name}}))
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 200_000, b"[]", {}, {"weight_map": 3}, {"weight_map": {}}]
)
def test_an_invalid_shard_index_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(RefusedError, match=r"shard index .*model\.safetensors\.index\.json"):
        weight_files(index_of(tmp_path, content))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    (file,) = weight_files(index_of(tmp_path, {"weight_map": {"a": "one"}}))
    assert "No such file" in refusal(file)


def test_the_hash_of_several_files_is_that_of_their_concatenation(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("ab", b"onetwo")):
        (tmp_path / name).write_bytes(content)
    assert sha256_of(tmp_path / "a", tmp_path / "b") == sha256_of(tmp_path / "ab")
    assert sha256_of(tmp_path / "a") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"

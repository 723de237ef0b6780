"""Indexes: those of ``levit embed`` and of NumPy are read, damaged ones are refused with the reason."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.embed.index import open_index, require_same_model, unit_blocks
from levit_cli.embed.npz import write_npz
from levit_cli.embed.spool import BLOCK_ROWS, Spool
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.predict.pipeline import Embedding
from tests.support.extras import needs_parquet

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
PATHS = ["a", "b", "c", "d" * 300]
META = {
    "model": {"name": "demo", "sha256": "0" * 64},
    "preprocessing": {"crop_size": [8, 8], "decode": "exact", "resizer": "simd"},
    "precision": "fp32",
    "size": 3,
}


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"vectors": VECTORS, "paths": np.array(PATHS), **arrays})
    return path


def test_an_npz_of_numpy_is_an_index_also_compressed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "b.npz", vectors=VECTORS.astype(np.float64), paths=np.array(PATHS))
    for path in (saved(tmp_path / "a.npz"), tmp_path / "b.npz"):
        index = open_index(path)
        assert index.size == 3
        assert index.meta == {}
        ((paths, vectors),) = index.blocks()
        assert paths == PATHS
        np.testing.assert_array_equal(vectors, VECTORS)


def test_a_large_index_comes_in_blocks(tmp_path: Path) -> None:
    count = 2 * BLOCK_ROWS + 5
    vectors = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float16)
    spool = Spool(tmp_path, 3, "float16")
    for number, vector in enumerate(vectors):
        spool.add(Embedding(str(number), vector))
        if number % 1000 == 0:
            spool.add(Embedding("bad", error=InputError("corrupt", "why")))
    with (tmp_path / "a.npz").open("wb") as file:
        write_npz(spool, file, META)
    spool.close()
    blocks = [*open_index(tmp_path / "a.npz").blocks()]
    assert [len(block) for _, block in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 5]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors)
    assert [path for paths, _ in blocks for path in paths] == [str(number) for number in range(count)]
    loaded = np.load(tmp_path / "a.npz", allow_pickle=False)
    np.testing.assert_array_equal(loaded["vectors"], vectors)
    assert loaded["error_kinds"].tolist() == ["corrupt"] * 9


def truncated(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-30])


def flipped(path: Path) -> None:
    saved(path)
    content = bytearray(path.read_bytes())
    content[content.index(VECTORS.tobytes()) + 5] ^= 1
    path.write_bytes(bytes(content))


def pickled(path: Path) -> None:
    np.savez(path, vectors=VECTORS, paths=np.array(PATHS, object))


def pickle_alone(path: Path) -> None:
    path.write_bytes(pickle.dumps(VECTORS))


def short(path: Path) -> None:
    array = io.BytesIO()
    np.save(array, VECTORS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vectors.npy", array.getvalue()[:-4])
        array = io.BytesIO()
        np.save(array, np.array(PATHS))
        archive.writestr("paths.npy", array.getvalue())


def huge(path: Path) -> None:
    """A header that claims more rows than any memory holds."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)})
    paths = io.BytesIO()
    np.lib.format.write_array_header_1_0(paths, {"descr": "<U9", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vectors.npy", array.getvalue())
        archive.writestr("paths.npy", paths.getvalue())


def not_unicode(path: Path) -> None:
    saved(path, paths=np.full(4, 0x110000, np.uint32).view("<U1"))


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (truncated, "truncated or damaged"),
    (flipped, "Bad CRC"),
    (pickled, "pickled objects"),
    (pickle_alone, "no npz file"),
    (short, "truncated"),
    (huge, "truncated"),
    (lambda path: path.write_bytes(b""), "no npz file"),
    (lambda path: np.savez(path, other=VECTORS), "no array paths and no array vectors"),
    (lambda path: saved(path, vectors=VECTORS[0]), "not (N, C) of floats"),
    (lambda path: saved(path, vectors=VECTORS.astype(int)), "not (N, C) of floats"),
    (lambda path: saved(path, vectors=np.asfortranarray(VECTORS)), "column by column"),
    (lambda path: saved(path, paths=np.arange(4)), "not (N,) of text"),
    (lambda path: saved(path, paths=np.array(PATHS[:3])), "3 paths and 4 vectors"),
    (lambda path: saved(path, meta=np.array("{")), "Cannot read the index"),
    (lambda path: saved(path, meta=np.array("[]")), "no JSON object"),
    (lambda path: saved(path, meta=np.array('{"model": 3}')), "as JSON objects"),
    (lambda path: saved(path, meta=np.array(json.dumps({**META, "preprocessing": [1]}))), "as JSON objects"),
    (lambda path: saved(path, meta=np.array('{"model": {"sha256": "0"}}')), "as JSON objects"),
    (not_unicode, "Unicode"),
]


@pytest.mark.guarantee("damaged-index")
@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_a_damaged_index_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(RefusedError, match="Cannot read the index") as caught:
        [*open_index(path).blocks()]
    assert message in str(caught.value)


@pytest.mark.guarantee("damaged-index")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    vectors = VECTORS.copy()
    vectors[2, 1] = value
    index = open_index(saved(tmp_path / "a.npz", vectors=vectors))
    with pytest.raises(RefusedError, match="the vector of c holds NaN"):
        [*unit_blocks(index)]


@pytest.mark.guarantee("damaged-index")
def test_vectors_without_numbers_are_refused(tmp_path: Path) -> None:
    index = open_index(saved(tmp_path / "a.npz", vectors=VECTORS[:, :0]))
    with pytest.raises(RefusedError, match="no numbers"):
        [*unit_blocks(index)]


@needs_parquet
@pytest.mark.guarantee("damaged-index")
def test_any_changed_byte_of_the_vectors_in_parquet_is_found(tmp_path: Path) -> None:
    from levit_cli.embed.parquet import write_parquet

    spool, path = Spool(tmp_path, 64, "float32"), tmp_path / "a.parquet"
    spool.add(Embedding("a", np.random.default_rng(0).standard_normal(64).astype(np.float32)))
    with path.open("wb") as file:
        write_parquet(spool, file, META)
    spool.close()
    ((_, vectors),) = open_index(path).blocks()
    content = bytearray(path.read_bytes())
    content[content.index(vectors.tobytes()) + 7] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RefusedError, match="Cannot read the index"):
        [*open_index(path).blocks()]


def line(path: str, *vector: float) -> str:
    return json.dumps({"path": path, "status": "ok", "vector": vector}) + "\n"


@pytest.mark.guarantee("damaged-index")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", "line 1"),
        (line("a", 1, 2) + line("b", 1), "line 2"),
        ('{"path": "a", "vector": "x"}\n', "line 1"),
        ('{"path": "a", "vector": [[1]]}\n', "line 1"),
        ('{"path": "a", "status": "ok", "top": []}\n', "line 1"),
    ],
)
def test_damaged_jsonl_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(RefusedError, match=message):
        open_index(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["missing.npz", "a.txt", "folder"])
def test_what_is_no_index_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError):
        open_index(tmp_path / name)


@pytest.mark.guarantee("index-of-other-model")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "demo", "sha256": "1" * 64}}, "not of demo"),
        ({"preprocessing": {"crop_size": [9, 8]}}, "crop_size"),
        ({"size": 4}, "4"),
    ],
)
def test_an_index_of_another_model_or_preprocessing_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    index = open_index(saved(tmp_path / "a.npz", meta=np.array(json.dumps(META))))
    notes: list[str] = []
    require_same_model(index, META, notes.append)
    assert notes == []
    with pytest.raises(RefusedError, match=message):
        require_same_model(index, {**META, **changes}, notes.append)


def test_an_index_that_names_no_model_is_used_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    require_same_model(open_index(saved(tmp_path / "a.npz")), META, notes.append)
    assert "does not say which model" in notes[0]
    other = {**META, "precision": "bf16"}
    require_same_model(open_index(saved(tmp_path / "b.npz", meta=np.array(json.dumps(META)))), other, notes.append)
    assert "fp32" in notes[1]

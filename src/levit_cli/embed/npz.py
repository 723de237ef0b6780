"""Write and read embeddings in NumPy's npz format: a zip archive of arrays, without pickles.

The archive is read front to back, a few thousand vectors at a time, so that an index may be larger than the memory. The
zip archive has a checksum of each array, which is verified when its end is reached.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.embed.spool import BLOCK_ROWS, Spool
from levit_cli.errors import RefusedError, reason_of
from levit_cli.system.text import count_noun

EPOCH = (1980, 1, 1, 0, 0, 0)  # equal embeddings give equal bytes
MAX_META_BYTES = 1 << 20
VECTORS, PATHS, META = "vectors", "paths", "meta"
READ_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, NotImplementedError, RuntimeError),
    *(SystemError, zipfile.BadZipFile, zlib.error),  # NumPy raises SystemError for a text that is not Unicode
)


def write_npz(spool: Spool, file: IO[bytes], meta: Mapping[str, Any]) -> None:
    """Write the arrays ``vectors``, ``paths``, ``error_paths``, ``error_kinds`` and ``meta`` to a file."""
    with zipfile.ZipFile(file, "w") as archive:
        with _member(archive, VECTORS) as member:
            _write_header(member, spool.dtype, (spool.num_vectors, spool.size))
            for block in spool.blocks():
                member.write(block.tobytes())
        _write_texts(archive, PATHS, lambda: (entry.path for entry in spool.entries() if entry.error is None))
        errors = [entry for entry in spool.entries() if entry.error is not None]
        _write_texts(archive, "error_paths", lambda: (entry.path for entry in errors))
        _write_texts(archive, "error_kinds", lambda: (entry.error.kind for entry in errors if entry.error))
        with _member(archive, META) as member:
            np.lib.format.write_array(member, np.array(json.dumps(meta, sort_keys=True)), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True)


def _write_header(member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def _write_texts(archive: zipfile.ZipFile, name: str, texts: Callable[[], Iterator[str]]) -> None:
    """Write an array of texts, which have the width of the longest one.

    Args:
        texts: returns the texts, each time from the start.
    """
    lengths = [*map(len, texts())]
    dtype = np.dtype(f"<U{max(lengths, default=1) or 1}")
    with _member(archive, name) as member:
        _write_header(member, dtype, (len(lengths),))
        remaining = texts()
        while block := [*islice(remaining, BLOCK_ROWS)]:
            member.write(np.array(block, dtype).tobytes())


class NpzIndex:
    """An index in an npz file.

    Attributes:
        num_vectors: N.
        size: C, the length of a vector.
        meta: what the file says about its model; empty for a file that ``levit embed`` did not write.

    Raises (each method):
        RefusedError: the file is damaged, or it is no index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), zipfile.ZipFile(path) as archive, ExitStack() as stack:
            self._require_arrays(archive)
            vectors = _Rows(stack.enter_context(archive.open(f"{VECTORS}.npy")))
            paths = _Rows(stack.enter_context(archive.open(f"{PATHS}.npy")))
            self._require_consistent(vectors, paths)
            self.num_vectors, self.size = vectors.shape
            self.meta: Mapping[str, Any] = self._meta(archive)

    def blocks(self) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
        """Yield the paths and vectors (B, C) of the images, in order, a few thousand at a time."""
        with self._reading(), zipfile.ZipFile(self.path) as archive, ExitStack() as stack:
            vectors = _Rows(stack.enter_context(archive.open(f"{VECTORS}.npy")))
            paths = _Rows(stack.enter_context(archive.open(f"{PATHS}.npy")))
            for block in vectors.blocks():
                yield paths.take(len(block)).tolist(), block
            paths.require_end()

    def _require_arrays(self, archive: zipfile.ZipFile) -> None:
        names = set(archive.namelist())
        if missing := [name for name in (PATHS, VECTORS) if f"{name}.npy" not in names]:
            raise ValueError(f"it has no array {' and no array '.join(missing)}")

    def _require_consistent(self, vectors: "_Rows", paths: "_Rows") -> None:
        if vectors.dtype.kind != "f" or len(vectors.shape) != 2:
            raise ValueError(f"its vectors are an array {vectors.shape} of {vectors.dtype}, not (N, C) of floats")
        if paths.dtype.kind != "U" or len(paths.shape) != 1:
            raise ValueError(f"its paths are an array {paths.shape} of {paths.dtype}, not (N,) of text")
        if len({vectors.shape[0], paths.shape[0]}) > 1:
            counts = count_noun(paths.shape[0], "path"), count_noun(vectors.shape[0], "vector")
            raise ValueError(f"it has {counts[0]} and {counts[1]}")

    def _meta(self, archive: zipfile.ZipFile) -> dict[str, Any]:
        if f"{META}.npy" not in archive.namelist():
            return {}
        with archive.open(f"{META}.npy") as member:
            meta: dict[str, Any] = json.loads(_Rows(member).text())
        return meta

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as error:
            raise RefusedError(f"Cannot read the index {self.path}", why=_reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, zipfile.BadZipFile):
        return f"it is no npz file, or it is truncated or damaged ({error})"
    return reason_of(error)


class _Rows:
    """An array of an archive that is read front to back.

    Args:
        member: the file of the array, at its start.
    """

    def __init__(self, member: IO[bytes]) -> None:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, is_fortran, self.dtype = read_header(member)
        if self.dtype.hasobject:
            raise ValueError("it holds pickled objects, which are not read, because they can run code")
        if is_fortran and len(self.shape) > 1:
            raise ValueError("its vectors are stored column by column; save numpy.ascontiguousarray(vectors)")
        self._member = member

    def take(self, rows: int) -> NDArray[Any]:
        """Return the next rows."""
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        data = self._member.read(size)
        if len(data) < size:
            raise ValueError("it is truncated")
        return np.frombuffer(data, self.dtype).reshape(shape)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all rows, a few thousand at a time."""
        for start in range(0, self.shape[0], BLOCK_ROWS):
            yield self.take(min(BLOCK_ROWS, self.shape[0] - start))
        self.require_end()

    def require_end(self) -> None:
        """Check that there are no more bytes, which also compares the checksum of the archive."""
        if self._member.read(1):
            raise ValueError("an array has more bytes than its header says")

    def text(self) -> str:
        if self.dtype.kind != "U" or self.shape or self.dtype.itemsize > MAX_META_BYTES:
            raise ValueError("its meta is no text")
        return str(np.frombuffer(self._member.read(self.dtype.itemsize), self.dtype)[0])

"""Collect the embeddings of a run in temporary files, and convert them to a format that is valid only as a whole.

The number of vectors and the longest path are known at the end only. Until then, vectors and paths are in two temporary
files next to the output, so that memory stays small however many images there are. The files have no name: a killed run
leaves nothing.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import VectorType
from levit_cli.errors import InputError, OutputError, reason_of
from levit_cli.predict.pipeline import Embedding
from levit_cli.system.output import Target, TargetFile

BLOCK_ROWS = 4096


class Entry(NamedTuple):
    """One input of the spool, without its vector."""

    path: str
    error: InputError | None


class Spool:
    """The embeddings of a run, in input order.

    Args:
        folder: the folder of the temporary files; None for that of the system.
        size: C, the length of a vector.
        dtype: the type of its numbers.

    Attributes:
        num_vectors: the number of embeddings without an error.
        num_errors: the number of the others.

    Raises (each method):
        OutputError: the temporary files cannot be written.
    """

    def __init__(self, folder: Path | None, size: int, dtype: VectorType) -> None:
        self.folder = folder if folder and folder.is_dir() else Path(tempfile.gettempdir())
        self.size, self.dtype = size, np.dtype(dtype).newbyteorder("<")
        self.num_vectors = self.num_errors = 0
        with self._writing():
            self._vectors: IO[bytes] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            self._entries: IO[bytes] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115

    def add(self, embedding: Embedding) -> None:
        error = embedding.error
        entry = [embedding.path, *([error.kind, error.message] if error else [])]
        with self._writing():
            self._entries.write(json.dumps(entry).encode() + b"\n")  # ASCII, so that any file name comes back the same
            if embedding.vector is not None:
                self._vectors.write(embedding.vector.astype(self.dtype).tobytes())
        self.num_vectors += error is None
        self.num_errors += error is not None

    def entries(self) -> Iterator[Entry]:
        """Yield all inputs, in order."""
        with self._writing():
            self._entries.seek(0)
            for line in self._entries:
                path, *error = json.loads(line)
                yield Entry(path, InputError(*error) if error else None)

    def blocks(self) -> Iterator[NDArray[np.floating]]:
        """Yield the vectors (B, C) of the inputs without an error, a few thousand at a time."""
        with self._writing():
            self._vectors.seek(0)
            row_bytes = self.size * self.dtype.itemsize
            while data := self._vectors.read(BLOCK_ROWS * row_bytes):
                yield np.frombuffer(data, self.dtype).reshape(-1, self.size)

    def close(self) -> None:
        for file in (self._vectors, self._entries):
            try:
                file.close()
            except OSError:  # closing flushes, and the disk may be full
                continue

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"Cannot write a temporary file in {self.folder}", why=reason_of(error)) from error


class SpoolWriter:
    """The ``Writer`` of a format that is made from a spool.

    Args:
        convert: writes the spool to a file.
    """

    def __init__(self, spool: Spool, target: Target, convert: Callable[[Spool, IO[bytes]], None]) -> None:
        self._spool, self._target, self._convert = spool, target, convert

    def write(self, embedding: Embedding) -> None:
        self._spool.add(embedding)

    def finish(self) -> None:
        file = TargetFile(self._target.write)
        self._convert(self._spool, file)  # type: ignore[arg-type]
        file.write_rest()
        self._spool.close()

"""Write and read embeddings in Parquet: one row per image, its vector a list of fixed length."""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from levit_cli.embed.spool import BLOCK_ROWS, Spool
from levit_cli.errors import RefusedError
from levit_cli.predict.parquet_output import (
    BYTES_COLUMN,
    META,
    MODEL_SHA256,
    ORDER_COLUMNS,
    SCHEMA_VERSION,
    first_line,
)
from levit_cli.predict.records import as_json, path_fields
from levit_cli.system.text import is_utf8

VECTOR_COLUMN = "vector"


def write_parquet(spool: Spool, file: IO[bytes], meta: Mapping[str, Any]) -> None:
    """Write the columns ``path``, ``status``, ``error_kind``, ``error_message`` and ``vector``, one row per input.

    Paths that are not UTF-8 are escaped, as in jsonl. Only then a last column holds their exact bytes in Base64.
    """
    has_bytes = any(not is_utf8(entry.path) for entry in spool.entries())
    schema = _schema(spool, meta, has_bytes=has_bytes)
    with closing(pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)) as writer:
        rows = _rows(spool)
        while block := [*islice(rows, BLOCK_ROWS)]:
            writer.write_table(pa.Table.from_pylist(block, schema))


def _schema(spool: Spool, meta: Mapping[str, Any], *, has_bytes: bool) -> Any:
    return _schema_of(spool.size, spool.dtype, meta, [], has_bytes=has_bytes)


def _schema_of(size: int, dtype: Any, meta: Mapping[str, Any], more: list[tuple[str, Any]], *, has_bytes: bool) -> Any:
    text = pa.string()
    columns = [(name, text) for name in ("path", "status", "error_kind", "error_message")]
    columns.append((VECTOR_COLUMN, pa.list_(pa.from_numpy_dtype(dtype), size)))
    columns += more + [(BYTES_COLUMN, text)] * has_bytes
    metadata = {
        SCHEMA_VERSION: b"1",
        MODEL_SHA256: meta["model"]["sha256"].encode(),
        META: json.dumps(meta, sort_keys=True).encode(),
    }
    return pa.schema(columns, metadata)


def encode_part(lines: Iterable[bytes], size: int, dtype: str, meta: Mapping[str, Any]) -> bytes:
    """Return records in jsonl, with the sort key of a run on many machines, as a Parquet file.

    Args:
        size: C, the length of a vector.
        dtype: the type of its numbers.
    """
    rows = [_part_row(json.loads(line)) for line in lines]
    has_bytes = any(BYTES_COLUMN in row for row in rows)
    schema = _schema_of(size, np.dtype(dtype), meta, [*ORDER_COLUMNS], has_bytes=has_bytes)
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _part_row(record: dict[str, Any]) -> dict[str, Any]:
    error = record.pop("error", None)
    return record if error is None else {**record, "error_kind": error["kind"], "error_message": error["message"]}


def decode_part(content: bytes) -> Iterator[bytes]:
    """Yield the records that ``encode_part`` encoded.

    Raises:
        ValueError: the content is damaged.
    """
    try:
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(first_line(error)) from error
    for row in rows:
        record = {name: value for name, value in row.items() if value is not None}
        if "error_kind" in record:
            record["error"] = {"kind": record.pop("error_kind"), "message": record.pop("error_message")}
        yield as_json(record) + b"\n"


def _rows(spool: Spool) -> Iterator[dict[str, Any]]:
    vectors = (vector for block in spool.blocks() for vector in block)
    for path, error in spool.entries():
        if error is None:
            yield {**path_fields(path), "status": "ok", VECTOR_COLUMN: next(vectors)}
        else:
            fields = {"error_kind": error.kind, "error_message": error.message}
            yield {**path_fields(path), "status": "error", **fields}


class ParquetIndex:
    """An index in a Parquet file. Attributes, methods and errors as those of ``NpzIndex``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            schema = file.schema_arrow
            self.size = _size_of(schema)
            self.meta: Mapping[str, Any] = json.loads((schema.metadata or {}).get(META, b"{}"))
            self._columns = [name for name in ("path", "status", VECTOR_COLUMN, BYTES_COLUMN) if name in schema.names]

    def blocks(self) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
        """Yield the paths and vectors (B, C) of the images, in order, a few thousand at a time."""
        with self._open() as file:
            for batch in file.iter_batches(BLOCK_ROWS, columns=self._columns, use_threads=False):
                ok = batch.filter(pc.is_valid(batch.column(VECTOR_COLUMN)))
                if ok.num_rows:
                    yield _paths(ok), _vectors(ok.column(VECTOR_COLUMN), self.size)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self.path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                yield parquet
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise RefusedError(f"Cannot read the index {self.path}", why=first_line(error)) from error


def _size_of(schema: Any) -> int:
    if missing := [name for name in ("path", VECTOR_COLUMN) if name not in schema.names]:
        raise ValueError(f"it has no column {' and no column '.join(missing)}")
    kind = schema.field(VECTOR_COLUMN).type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"its column {VECTOR_COLUMN} has the type {kind}, not a list of floats with a fixed length")
    return int(kind.list_size)


def _paths(batch: Any) -> list[str]:
    paths: list[str] = batch.column("path").to_pylist()
    if BYTES_COLUMN not in batch.schema.names:
        return paths
    encoded = batch.column(BYTES_COLUMN).to_pylist()
    return [os.fsdecode(base64.b64decode(raw)) if raw else path for path, raw in zip(paths, encoded, strict=True)]


def _vectors(column: Any, size: int) -> NDArray[np.floating]:
    vectors: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return vectors

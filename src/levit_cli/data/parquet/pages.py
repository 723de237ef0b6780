"""Read the footer of a Parquet file and the headers of its pages, and refuse pages that would take too much memory.

The footer of a Parquet file says how large a column is, but each page has a header of its own with its sizes, and only
these are used when the page is decompressed. pyarrow takes the memory that a header declares.

The footer is read here as well, to find the pages.
"""

import os
from typing import Any, BinaryIO, NamedTuple

from levit_cli.data.parquet.thrift import Thrift
from levit_cli.errors import InputError

MAX_PAGE_BYTES = 1 << 30
MAX_RATIO = 100  # of a page that is larger than MAX_TRUSTED_BYTES; images are compressed already
MAX_TRUSTED_BYTES = 64 << 20
MAX_PAGES = 1 << 20
HEADER_BYTES, MAX_HEADER_BYTES = 1 << 10, 16 << 20
MAX_FOOTER_BYTES = 64 << 20

# Fields of a page header.
UNCOMPRESSED_BYTES, COMPRESSED_BYTES, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 2, 3, 5, 7, 8
ENCODING_OF = {DATA_PAGE: 2, DATA_PAGE_V2: 4}
DELTA_BYTE_ARRAY = 7
PAGE_HEADER = {
    UNCOMPRESSED_BYTES: None,
    COMPRESSED_BYTES: None,
    DATA_PAGE: {2: None},
    DICTIONARY_PAGE: {},
    DATA_PAGE_V2: {4: None},
}
# Fields of the footer.
ROW_GROUPS, COLUMNS, NUM_ROWS, COLUMN_METADATA, ENCRYPTION = 4, 1, 3, 3, 8
PATH, TOTAL_BYTES, STORED_BYTES, DATA_AT, DICTIONARY_AT = 3, 6, 7, 9, 11
CHUNK_FIELDS = PATH, TOTAL_BYTES, STORED_BYTES, DATA_AT, DICTIONARY_AT
FOOTER = {
    ROW_GROUPS: [
        {
            COLUMNS: [{COLUMN_METADATA: dict.fromkeys(CHUNK_FIELDS), ENCRYPTION: {}}],
            NUM_ROWS: None,
        }
    ]
}


class Chunk(NamedTuple):
    """The pages of one column in one row group.

    Args:
        path: the name of the column, and those of the columns in it, joined by dots.
        num_bytes: the size of the column without compression.
        start, end: its bytes in the file.
    """

    path: bytes
    num_bytes: int
    start: int
    end: int
    is_encrypted: bool


class RowGroup(NamedTuple):
    """The size of a row group, and its columns."""

    num_rows: int
    chunks: tuple[Chunk, ...]

    def chunks_of(self, column: str) -> list[Chunk]:
        """Return the chunks of a column, or of all columns of a struct."""
        name = column.encode("utf-8", "surrogateescape")
        return [chunk for chunk in self.chunks if chunk.path == name or chunk.path.startswith(name + b".")]


def read_footer(file: BinaryIO) -> list[RowGroup]:
    """Return the row groups of a file that ends as a Parquet file does.

    Raises:
        InputError: ``corrupt``, ``truncated`` or ``too_large``.
    """
    size = file.seek(-8, os.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    if length > size:
        raise InputError("truncated", f"the Parquet file has {size + 8:,} bytes, fewer than its footer declares")
    if length > MAX_FOOTER_BYTES:
        raise InputError("too_large", f"the footer has {length:,} bytes; the limit is {MAX_FOOTER_BYTES:,}")
    file.seek(size - length)
    try:
        groups = Thrift(file.read(length)).struct(FOOTER).get(ROW_GROUPS) or []
        return [_row_group(group) for group in groups]
    except (IndexError, KeyError, TypeError, AttributeError, ValueError):
        raise InputError("corrupt", "the footer of the Parquet file is damaged") from None


def _row_group(group: dict[int, Any]) -> RowGroup:
    # an encrypted column may have no metadata that can be read
    columns = [column for column in group[COLUMNS] if COLUMN_METADATA in column]
    return RowGroup(max(0, group[NUM_ROWS]), tuple(map(_chunk, columns)))


def _chunk(column: dict[int, Any]) -> Chunk:
    fields = column[COLUMN_METADATA]
    starts = [fields[DATA_AT], fields.get(DICTIONARY_AT) or 0]
    start = min(offset for offset in starts if offset > 0)
    end = start + fields[STORED_BYTES]
    return Chunk(b".".join(fields[PATH]), fields[TOTAL_BYTES], start, end, is_encrypted=ENCRYPTION in column)


def largest_shared_bytes(file: BinaryIO, chunk: Chunk) -> int:
    """Check all pages of a column, and return the bytes that many of its values may share.

    A value in a dictionary, or the beginning of a value in the encoding ``DELTA_BYTE_ARRAY``, is stored once and may
    be repeated in each row.

    Raises:
        InputError: ``corrupt``, ``too_large``, or ``unsupported_mode`` if it is encrypted.
        OSError: the file cannot be read.
    """
    if chunk.is_encrypted:
        raise InputError("unsupported_mode", "the column of the Parquet file is encrypted")
    if not 0 <= chunk.start <= chunk.end <= file.seek(0, os.SEEK_END):
        raise InputError("corrupt", "the footer declares a column outside the file")
    shared, position = 0, chunk.start
    for _ in range(MAX_PAGES):
        if position >= chunk.end:
            return shared
        header, length = _header_at(file, position, chunk.end)
        size, compressed = _sizes(header)
        position += length + compressed
        if position > chunk.end:
            raise InputError("corrupt", f"a page declares {compressed:,} bytes, more than its column has")
        if DICTIONARY_PAGE in header or _encoding(header) == DELTA_BYTE_ARRAY:
            shared = max(shared, size)
    raise InputError("too_large", f"a column has more than {MAX_PAGES:,} pages")


def _header_at(file: BinaryIO, position: int, end: int) -> tuple[dict[int, Any], int]:
    """Return the header of a page, and its length."""
    count = HEADER_BYTES
    while True:
        file.seek(position)
        data = file.read(min(count, end - position))
        try:
            thrift = Thrift(data)
            return thrift.struct(PAGE_HEADER), thrift.position
        except IndexError:
            if len(data) < count or count >= MAX_HEADER_BYTES:
                raise _damaged() from None
        count *= 16


def _sizes(header: dict[int, Any]) -> tuple[int, int]:
    """Return the bytes of a page and those that are stored of it."""
    size, compressed = header.get(UNCOMPRESSED_BYTES), header.get(COMPRESSED_BYTES)
    if not isinstance(size, int) or not isinstance(compressed, int) or min(size, compressed) < 0:
        raise _damaged()
    if size > MAX_PAGE_BYTES or size > max(MAX_TRUSTED_BYTES, MAX_RATIO * compressed):
        limit = f"{MAX_PAGE_BYTES:,}, or {MAX_RATIO} times its {compressed:,} compressed bytes"
        raise InputError("too_large", f"a page declares {size:,} bytes; the limit is {limit}")
    return size, compressed


def _encoding(header: dict[int, Any]) -> object:
    for field, encoding in ENCODING_OF.items():
        if isinstance(page := header.get(field), dict):
            return page.get(encoding)
    return None


def _damaged() -> InputError:
    return InputError("corrupt", "the header of a page is damaged")

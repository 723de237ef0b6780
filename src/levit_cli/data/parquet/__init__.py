"""List the images in a column of a Parquet file, and read them a few rows at a time.

A row's path is that of the file and its number, ``train.parquet#17``, counted from 0, or its value in the key column.
The list needs the number of rows and the keys only. Images are read when they are needed, in the order of the rows;
rows that are not needed, because they have a record already, cost little.

The column holds bytes, or Hugging Face's struct of ``bytes`` and ``path``. The path is never opened.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError
from levit_cli.system.extras import extra
from levit_cli.system.files import open_regular, version_of

if TYPE_CHECKING:
    from levit_cli.data.parquet.reading import Listing

MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
MIN_BYTES = 12  # the magic number twice, and the length of the footer

Open = Callable[[], BinaryIO]


def rows_of_file(path: str, columns: ImageColumns, skipped: Skipped) -> Iterator[Input]:
    """Yield the images in a Parquet file on disk. A file that is none, whatever its name, is one input."""
    try:
        file = open_regular(path)
    except InputError as error:
        yield Input(path, error)
        return
    with file:
        yield from rows(path, file, columns, skipped, _reopening(path, file))


def labeled_rows_of_file(path: str, columns: ImageColumns) -> tuple[list[Input], list[str | None]]:
    """Return the images in a Parquet file on disk, and their labels; None for a row without one.

    Raises:
        InputError: it is not a Parquet file, or cannot be read.
        UsageError: as ``rows``, or the file has no label column.
    """
    with open_regular(path) as file:
        if not _begins_like_parquet(file):
            raise InputError("format_not_allowed", "it is not a Parquet file")
        listing = _listing(path, file, columns)
        labels = [*listing.labels()]
        return [*listing.inputs(_reopening(path, file))], labels


def _reopening(path: str, file: BinaryIO) -> Open:
    """Return a function that opens the file again, if it is still the same."""
    version = version_of(file)

    def reopen() -> BinaryIO:
        again = open_regular(path)
        if version_of(again) != version:
            again.close()
            raise InputError("corrupt", "the file was changed while it was read")
        return again

    return reopen


def rows(
    name: str, file: BinaryIO, columns: ImageColumns, skipped: Skipped, reopen: Open | None = None
) -> Iterator[Input]:
    """Yield the images in a Parquet file. If it cannot be read, it is one input with an error.

    Args:
        name: the path or URL of the file, which the records contain.
        file: the file, seekable.
        columns: the columns that the user chose.
        skipped: counts a file without rows.
        reopen: opens the file again, in any thread. Without it, each image is read when it is listed.

    Raises:
        UsageError: it is not clear which column holds the images, a chosen column does not exist, or the extra
            ``parquet`` is not installed.
    """
    if not _begins_like_parquet(file):
        yield Input(name)  # the content decides: it may be an image
        return
    try:
        listing = _listing(name, file, columns)
    except InputError as error:
        yield Input(name, error)
        return
    if not listing.num_rows:
        skipped.add_empty(name)
    yield from listing.inputs(reopen)


def _listing(name: str, file: BinaryIO, columns: ImageColumns) -> "Listing":
    _require_whole(file)
    with extra("parquet", f"Reading {name}"):
        from levit_cli.data.parquet.reading import Listing
    return Listing(name, file, columns)


def _begins_like_parquet(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(MAGIC)) in (MAGIC, ENCRYPTED_MAGIC)


def _require_whole(file: BinaryIO) -> None:
    """Check the end of the file.

    Raises:
        InputError: it is cut, or encrypted.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(MAGIC)))
    end = file.read(len(MAGIC))
    if size < MIN_BYTES or end not in (MAGIC, ENCRYPTED_MAGIC):
        raise InputError("truncated", f"the Parquet file ends after {size:,} bytes, without its footer")
    if end == ENCRYPTED_MAGIC:
        raise InputError("unsupported_mode", "the Parquet file is encrypted")

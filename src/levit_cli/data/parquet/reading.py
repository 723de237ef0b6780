"""Read the image column of a Parquet file with pyarrow: a few rows at a time, in bounded memory.

The rows are listed in one thread and read in others, nearly in their order. ``Cursor`` reads on from where it is, and
keeps rows that were passed until they are fetched. It starts a row group again for a row that it does not keep.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from threading import Lock
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.parquet.columns import Image, choose_columns, images_in, label_column, texts_in
from levit_cli.data.parquet.pages import RowGroup, largest_shared_bytes, read_footer
from levit_cli.errors import InputError, UsageError, reason_of

READ_BYTES = 1 << 20  # with a buffer, pyarrow reads a column in parts; without one, it reads it whole
BATCH_BYTES = 4 << 20
MIN_BATCH_ROWS, MAX_BATCH_ROWS = 16, 1024
KEY_BATCH_ROWS = 1024
KEPT_ROWS, KEPT_BYTES, MAX_KEPT_ROWS = 16, 8 << 20, 1024

Row = tuple[int, int]  # the row group, and the row in it
Open = Callable[[], BinaryIO]


class Listing:
    """The rows of a file, with their paths.

    Args:
        name: the path or URL of the file.
        file: the file; it must stay open while the rows are listed.

    Raises:
        InputError: the file cannot be read, or has no column of images.
        UsageError: it is not clear which column holds the images, or a chosen column does not exist.
    """

    def __init__(self, name: str, file: BinaryIO, columns: ImageColumns) -> None:
        self._name, self._file = name, file
        with errors_of_the_file():
            self._parquet = open_parquet(file)
            self._names = choose_columns(name, self._parquet.schema_arrow, columns)
            self._groups = read_footer(file)

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self._groups)

    def inputs(self, reopen: Open | None) -> Iterator[Input]:
        """Yield one input per row.

        Args:
            reopen: opens the file again, to read the images later. Without it, they are read now.
        """
        cursor = Cursor(reopen or (lambda: self._file), self._groups, self._names.image, owns_file=reopen is not None)
        number = 0
        for group, row_group in enumerate(self._groups):
            keys = self._keys(group)
            for index in range(row_group.num_rows):
                path = next(keys) or f"{self._name}#{number}"
                load = partial(cursor.read, (group, index))
                yield Input(path, load=load) if reopen else _loaded(path, load)
                number += 1

    def labels(self) -> Iterator[str | None]:
        """Yield the label of each row; None for a row without one.

        Raises:
            InputError: the labels cannot be read.
            UsageError: there is no label column.
        """
        with errors_of_the_file():
            column, names = label_column(self._name, self._parquet.schema_arrow)
            for group, row_group in enumerate(self._groups):
                texts = [*self._texts(group, column)]
                if len(texts) != row_group.num_rows:
                    raise _no_such_row()
                yield from (names.get(text, None if names else text) if text else None for text in texts)

    def _keys(self, group: int) -> Iterator[str | None]:
        """Yield the key of each row in a row group; None for each that has none or cannot be read."""
        if self._names.key is not None:
            with suppress(InputError), errors_of_the_file():
                yield from self._texts(group, self._names.key)
        yield from repeat(None)

    def _texts(self, group: int, column: str) -> Iterator[str | None]:
        _check_pages(self._file, self._groups[group], column)
        for array in _batches(self._parquet, group, column, KEY_BATCH_ROWS):
            yield from texts_in(array)


def _loaded(path: str, load: Callable[[], bytes]) -> Input:
    try:
        return Input(path, content=load())
    except InputError as error:
        return Input(path, load=partial(_fail, error))


def _fail(error: InputError) -> bytes:
    raise InputError(error.kind, error.message)


class Cursor:
    """Reads the images of rows, in any thread.

    Args:
        open_file: opens the file; called at the first read.
        groups: the row groups of the file.
        column: the name of the image column.
        owns_file: whether the file is closed after the last row, or when the cursor is no longer used.
    """

    def __init__(self, open_file: Open, groups: list[RowGroup], column: str, *, owns_file: bool) -> None:
        self._open_file, self._groups, self._column, self._owns_file = open_file, groups, column, owns_file
        self._last = (len(groups) - 1, groups[-1].num_rows - 1) if groups else None
        self._lock = Lock()
        self._file: BinaryIO | None = None
        self._parquet: Any = None
        self._group, self._next = -1, 0  # the row group, and the row in it that is read next
        self._batch_rows = 1
        self._batches: Iterator[Any] = iter(())
        self._error: InputError | None = None  # why the rest of the row group cannot be read
        self._kept: dict[Row, Image] = {}
        self._num_kept_bytes = 0

    def __del__(self) -> None:
        self._close()

    def read(self, row: Row) -> bytes:
        """Return the image of a row.

        Raises:
            InputError: the row cannot be read or holds no image.
        """
        with self._lock:
            image = self._find(row)
            if row == self._last:
                self._close()
        if isinstance(image, InputError):
            raise InputError(image.kind, image.message)
        return image

    def _close(self) -> None:
        file, self._file, self._parquet, self._batches, self._group = self._file, None, None, iter(()), -1
        if file is not None and self._owns_file:
            file.close()

    def _find(self, row: Row) -> Image:
        if row in self._kept:
            return self._take(row)
        group, index = row
        try:
            if group != self._group:
                self._pass_end(group)
                self._start(group, largest=MAX_BATCH_ROWS)
            elif index < self._next:
                self._start(group, largest=MAX_BATCH_ROWS)
            while index >= self._next and self._error is None:
                self._read_batch(first_needed=index)
        except InputError as error:
            self._close()  # the next row tries again: the file may have been unreachable
            return error
        return self._take(row) if index < self._next else self._error or _no_such_row()

    def _take(self, row: Row) -> Image:
        image = self._kept.pop(row)
        self._num_kept_bytes -= _size(image)
        return image

    def _pass_end(self, group: int) -> None:
        """Read the last rows of the row group before, which other threads may be about to fetch."""
        if group == self._group + 1 and self._group >= 0:
            left = self._groups[self._group].num_rows - self._next
            while 0 < left <= MIN_BATCH_ROWS and self._error is None and self._next >= 0:
                before = self._next
                self._read_batch(first_needed=before)
                left -= self._next - before

    def _start(self, group: int, largest: int) -> None:
        """Go to the first row of a row group.

        Raises:
            InputError: the file cannot be opened.
        """
        if self._parquet is None:
            self._file = self._open_file()
            with errors_of_the_file():
                self._parquet = open_parquet(self._file)
        assert self._file is not None
        self._group, self._next, self._error = group, 0, None
        try:
            with errors_of_the_file():
                self._batch_rows = min(largest, _batch_rows(self._file, self._groups[group], self._column))
                self._batches = _batches(self._parquet, group, self._column, self._batch_rows)
        except InputError as error:  # other row groups may be intact
            self._error = error

    def _read_batch(self, first_needed: int) -> None:
        """Read the next rows, and keep those from ``first_needed`` on that may be fetched soon."""
        self._forget_old()
        try:
            with errors_of_the_file():
                array = next(self._batches, None)
                images = [] if array is None else images_in(array)
        except InputError as error:
            if self._batch_rows > 1:  # find the first row that cannot be read
                self._start(self._group, largest=1)
            else:
                self._error = error
        else:
            if not images:
                self._error = _no_such_row()
            for image in images:
                if self._next >= first_needed - KEPT_ROWS:
                    self._kept[self._group, self._next] = image
                    self._num_kept_bytes += _size(image)
                self._next += 1

    def _forget_old(self) -> None:
        while len(self._kept) > KEPT_ROWS and (self._num_kept_bytes > KEPT_BYTES or len(self._kept) > MAX_KEPT_ROWS):
            self._take(next(iter(self._kept)))


def _size(image: Image) -> int:
    return len(image) if isinstance(image, bytes) else 0


def _no_such_row() -> InputError:
    return InputError("corrupt", "the row group has fewer rows than it declares")


def open_parquet(file: BinaryIO) -> Any:
    return pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True)


@contextmanager
def errors_of_the_file() -> Iterator[None]:
    """Convert what pyarrow raises for a damaged file into an ``InputError``."""
    try:
        yield
    except (InputError, UsageError):
        raise
    except MemoryError:
        raise InputError("too_large", "not enough memory to read it") from None
    except Exception as error:
        text = (reason_of(error).strip().splitlines() or [type(error).__name__])[0][:200]
        is_encrypted = "encrypt" in text.lower() or "decrypt" in text.lower()
        if isinstance(error, pa.ArrowNotImplementedError) or is_encrypted or "codec" in text.lower():
            raise InputError("unsupported_mode", f"the Parquet file needs what is not supported: {text}") from error
        raise InputError("corrupt", f"the Parquet file cannot be read: {text}") from error


def _batches(parquet: Any, group: int, column: str, batch_rows: int) -> Iterator[Any]:
    """Return the arrays of a column in a row group, at most ``batch_rows`` rows each."""
    batches = parquet.iter_batches(batch_rows, row_groups=[group], columns=[column], use_threads=False)
    return (batch.column(column) for batch in batches)


def _batch_rows(file: BinaryIO, group: RowGroup, column: str) -> int:
    """Return the number of rows that have about ``BATCH_BYTES``.

    Raises:
        InputError: a page is damaged or too large.
    """
    average = max(1, sum(chunk.num_bytes for chunk in group.chunks_of(column)) // max(1, group.num_rows))
    rows = max(MIN_BATCH_ROWS, min(MAX_BATCH_ROWS, BATCH_BYTES // average))
    shared = _check_pages(file, group, column)
    return max(1, min(rows, MIN_BATCH_ROWS * BATCH_BYTES // 4 // shared)) if shared else rows


def _check_pages(file: BinaryIO, group: RowGroup, column: str) -> int:
    """Check all pages of a column in a row group, and return the bytes that its values may share."""
    return max((largest_shared_bytes(file, chunk) for chunk in group.chunks_of(column)), default=0)

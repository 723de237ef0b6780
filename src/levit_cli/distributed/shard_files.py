"""Read the records of a shard's output, a few at a time, with their paths.

A file is open only while it is read, so that there may be more shards than files that a process may open.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from levit_cli.choices import Format
from levit_cli.errors import UsageError, reason_of
from levit_cli.predict.records import path_of, split_delimited
from levit_cli.system.extras import extra

READ_BYTES = 1 << 16


@dataclass(frozen=True)
class ShardFile:
    """The output of one shard.

    Args:
        format: jsonl, csv, tsv or parquet.
    """

    path: Path
    format: Format

    @property
    def header(self) -> bytes:
        """The line before the first record of csv and tsv; otherwise nothing."""
        return next(self._raw(), b"") if self.format in ("csv", "tsv") else b""

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the path and the record of each input. Records of Parquet are returned as jsonl.

        Raises:
            UsageError: the file cannot be read or has other content.
        """
        count = 0
        as_read: Format = "jsonl" if self.format == "parquet" else self.format
        try:
            for record in islice(self._raw(), int(as_read != "jsonl"), None):
                count += 1
                yield path_of(record, as_read), record
        except ValueError as error:
            why = f"record {max(count, 1)}: {error}"[:300]
            raise UsageError(f"{self.path} is damaged", why=why) from error
        except OSError as error:
            raise UsageError(f"Cannot read {self.path}", why=reason_of(error)) from error

    def _raw(self) -> Iterator[bytes]:
        if self.format != "parquet":
            return _split(self.path, _lines if self.format == "jsonl" else split_delimited)
        with extra("parquet", "Merging Parquet"):
            from levit_cli.predict.parquet_output import records_in
        return records_in(self.path)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _split(path: Path, split: Callable[[BinaryIO], Iterator[bytes]]) -> Iterator[bytes]:
    """Yield the complete records of a file, about ``READ_BYTES`` each time that it is opened."""
    position, is_at_end = 0, False
    while not is_at_end:
        records, size = [], 0
        with path.open("rb") as file:
            file.seek(position)
            is_at_end = True
            for record in split(file):
                records.append(record)
                size += len(record)
                if size >= READ_BYTES:
                    is_at_end = False
                    break
        position += size
        yield from records

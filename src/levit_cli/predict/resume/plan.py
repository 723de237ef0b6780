"""Index the existing records of an output, and plan which inputs still have to be classified.

Only the offset, a hash of the path and the status of each record are held in memory: about 20 MB for a million records.
The records themselves stay in the file.
"""

import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.predict.pipeline import Result
from levit_cli.predict.records import R, RecordFormat

HASH_KEY = os.urandom(16)  # random, so that no file names can be chosen to collide
Range = tuple[int, int]  # numbers of records: the first, and one after the last


class DamagedError(ValueError):
    """The file does not have the expected format; the message says where and why."""


class ExistingRecords:
    """The complete records of a file, numbered from 0.

    Args:
        file: the file, at its start; it is read to its last complete record.

    Attributes:
        offsets: the offset of each record, and then the end of the last one.
        hashes: the hashes of the records' paths.
        is_ok: 1 for a result, 0 for an error record.
        end: the number of bytes up to the end of the last complete record.

    Raises:
        DamagedError: the file has other content than records of this format and an incomplete record at its end.
    """

    def __init__(self, file: BinaryIO, format: RecordFormat[R]) -> None:
        self.offsets = array("Q")
        self.hashes = array("Q")
        self.is_ok = bytearray()
        records = format.split(file)
        self.end = _require_header(records, format)
        for number, record in enumerate(records):
            self._add(_decode(format, record, number), len(record))
        self.offsets.append(self.end)

    def __len__(self) -> int:
        return len(self.hashes)

    def _add(self, result: Result, length: int) -> None:
        self.offsets.append(self.end)
        self.hashes.append(hash_of(result.path))
        self.is_ok.append(result.error is None)
        self.end += length


def _require_header(records: Iterator[bytes], format: RecordFormat[R]) -> int:
    """Check the header and return its length; 0 if there is no complete header."""
    header = next(records, b"") if format.header else b""
    if header and header != format.header:
        raise DamagedError(f"it begins with {header[:80]!r} instead of {format.header[:80]!r}")
    return len(header)


def _decode(format: RecordFormat[R], record: bytes, number: int) -> R:
    try:
        return format.decode(record)
    except ValueError as error:
        raise DamagedError(f"record {number + 1}: {error}") from error


def hash_of(path: str) -> int:
    """Return a 64-bit hash of a path."""
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8, key=HASH_KEY).digest(), "big")


class PendingSlot(NamedTuple):
    """The place of a new record: after the kept records, and instead of an error record if it replaces one."""

    kept: list[Range]
    replaced: int | None = None


@dataclass
class Plan:
    """The inputs that still have to be classified. One thread iterates over it, another takes the pending slots.

    An input with a prediction keeps its record; an input with an error record is tried again. The records usually have
    the order of the inputs. If they do not, because files were added or removed, they are looked up by path. A path
    that is listed several times has several records.

    Attributes:
        pending: one slot for each input that was yielded, and one for the end of the file.
        num_kept: the number of kept records so far.
        is_fully_listed: False once a folder could not be listed; its files may still have records.
        shares_inputs: True once an input has a record, and from the start if no record is a prediction.
    """

    existing: ExistingRecords
    inputs: Iterable[Input]
    pending: deque[PendingSlot] = field(default_factory=deque)
    num_kept: int = 0
    is_fully_listed: bool = True
    shares_inputs: bool = False
    _next: int = 0
    _index: "_Index | None" = None

    def __post_init__(self) -> None:
        self.shares_inputs = not any(self.existing.is_ok)

    def __iter__(self) -> Iterator[Input]:
        kept: list[Range] = []
        for item in self.inputs:
            self.is_fully_listed &= item.error is None
            number = self._find(item.path)
            self.shares_inputs |= number is not None
            if number is not None and self.existing.is_ok[number]:
                _extend(kept, number)
                self.num_kept += 1
            else:
                self.pending.append(PendingSlot(kept, number))
                kept = []
                yield item
        self.pending.append(PendingSlot(kept))

    def _find(self, path: str) -> int | None:
        """Return the number of the record of an input, each record at most once; None if there is none."""
        if self._index is not None:
            return self._index.take(hash_of(path))
        if self._next == len(self.existing):
            return None
        key = hash_of(path)
        if self.existing.hashes[self._next] == key:
            self._next += 1
            return self._next - 1
        self._index = _Index(self.existing, self._next)
        return self._index.take(key)


def _extend(ranges: list[Range], number: int) -> None:
    if ranges and ranges[-1][1] == number:
        ranges[-1] = (ranges[-1][0], number + 1)
    else:
        ranges.append((number, number + 1))


class _Index:
    """Finds records by the hash of their path; it returns records of the same path in file order."""

    def __init__(self, existing: ExistingRecords, first: int) -> None:
        has_records = len(existing) > first
        hashes = np.frombuffer(existing.hashes, np.uint64)[first:] if has_records else np.empty(0, np.uint64)
        self._order: NDArray[np.intp] = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.uint64] = hashes[self._order]
        self._order += first
        self._num_taken = np.zeros(len(hashes), np.uint32)  # per path, at the position of its first record

    def take(self, key: int) -> int | None:
        """Return the next record with this hash; None if all are taken."""
        first = int(np.searchsorted(self._hashes, np.uint64(key)))
        if first == len(self._hashes) or self._hashes[first] != key:
            return None
        position = first + int(self._num_taken[first])
        if position == len(self._hashes) or self._hashes[position] != key:
            return None
        self._num_taken[first] += 1
        return int(self._order[position])


def has_any_record(existing: ExistingRecords, inputs: Iterable[Input]) -> bool:
    """Whether any input has a record. The first record is compared first, because the first input usually has it."""
    keys = (hash_of(item.path) for item in inputs)
    first = next(keys, None)
    if first is None or first == existing.hashes[0]:
        return first is not None
    index = _Index(existing, 0)
    return any(index.take(key) is not None for key in chain([first], keys))

"""The existing records of an output, and which inputs still have to be classified.

For each record, only its offset, a hash of its path, and whether it is ok are held in memory: about 20 MB for a million
records. The records themselves stay in the file.
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
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.records import RecordFormat

HASH_KEY = os.urandom(16)  # so that file names with colliding hashes cannot be prepared
Range = tuple[int, int]  # of records: the first, and one after the last


class DamagedError(ValueError):
    """The file does not have the expected format; the message says where and why."""


class ExistingRecords:
    """The complete records of a file, numbered from 0.

    Args:
        file: read from its start to its last complete record.

    Attributes:
        offsets: where each record starts, and at the end where the last one ends.
        hashes: of the records' paths.
        is_ok: 1 for a prediction, 0 for an error record.
        end: the number of bytes up to the end of the last complete record.

    Raises:
        DamagedError: the file holds something other than records of this format and a torn record at its end.
    """

    def __init__(self, file: BinaryIO, format: RecordFormat) -> None:
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

    def _add(self, prediction: Prediction, length: int) -> None:
        self.offsets.append(self.end)
        self.hashes.append(hash_of(prediction.path))
        self.is_ok.append(prediction.error is None)
        self.end += length


def _require_header(records: Iterator[bytes], format: RecordFormat) -> int:
    """Return the length of the header."""
    header = next(records, b"") if format.header else b""
    if header and header != format.header:
        raise DamagedError(f"it begins with {header[:80]!r} instead of {format.header[:80]!r}")
    return len(header)


def _decode(format: RecordFormat, record: bytes, number: int) -> Prediction:
    try:
        return format.decode(record)
    except ValueError as error:
        raise DamagedError(f"record {number + 1}: {error}") from error


def hash_of(path: str) -> int:
    """Return a 64-bit hash of a path."""
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8, key=HASH_KEY).digest(), "big")


class PendingSlot(NamedTuple):
    """Where the next new record goes: after the kept records, and instead of the replaced error record, if any."""

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
        is_complete: False once a folder could not be listed; its files may still have records.
        is_shared: True once an input has a record, and from the start if no record is a prediction.
    """

    existing: ExistingRecords
    inputs: Iterable[Input]
    pending: deque[PendingSlot] = field(default_factory=deque)
    num_kept: int = 0
    is_complete: bool = True
    is_shared: bool = False
    _next: int = 0
    _index: "_Index | None" = None

    def __post_init__(self) -> None:
        self.is_shared = not any(self.existing.is_ok)

    def __iter__(self) -> Iterator[Input]:
        kept: list[Range] = []
        for item in self.inputs:
            self.is_complete &= item.error is None
            number = self._find(item.path)
            self.is_shared |= number is not None
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
    """Finds records by the hash of their path; records of the same path in their order in the file."""

    def __init__(self, existing: ExistingRecords, first: int) -> None:
        has_records = len(existing) > first
        hashes = np.frombuffer(existing.hashes, np.uint64)[first:] if has_records else np.empty(0, np.uint64)
        self._order: NDArray[np.intp] = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.uint64] = hashes[self._order]
        self._order += first
        self._num_taken = np.zeros(len(hashes), np.uint32)  # of a path, at the position of its first record

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


def has_any(existing: ExistingRecords, inputs: Iterable[Input]) -> bool:
    """Whether any input has a record. Usually the first input has the first record, which is fast to find."""
    keys = (hash_of(item.path) for item in inputs)
    first = next(keys, None)
    if first is None or first == existing.hashes[0]:
        return first is not None
    index = _Index(existing, 0)
    return any(index.take(key) is not None for key in chain([first], keys))

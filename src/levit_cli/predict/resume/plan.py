"""The records that an earlier run left, and which inputs they are of.

A file of a million records takes some 20 MB here: of each record where it begins, a hash of its path, and whether it is
an answer or an error. The records themselves stay where they are.
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

HASH_KEY = os.urandom(16)  # so that nobody can name two files such that one is taken for the other
Range = tuple[int, int]  # of records: first, one behind the last


class DamagedError(ValueError):
    """The file is not what its format would have; the message says where and how."""


class Standing:
    """The whole records of a file, by number.

    Args:
        file: read from its start to its last whole record.

    Raises:
        DamagedError: something in it, other than a torn record at its end, is no record of this format.
    """

    def __init__(self, file: BinaryIO, format: RecordFormat) -> None:
        self.places = array("Q")  # where each record begins, and at last where they end
        self.hashes = array("Q")
        self.is_ok = bytearray()
        records = format.split(file)
        self.end = _require_header(records, format)
        for number, record in enumerate(records):
            self._add(_decoded(format, record, number), len(record))
        self.places.append(self.end)

    def __len__(self) -> int:
        return len(self.hashes)

    def _add(self, prediction: Prediction, length: int) -> None:
        self.places.append(self.end)
        self.hashes.append(hash_of(prediction.path))
        self.is_ok.append(prediction.error is None)
        self.end += length


def _require_header(records: Iterator[bytes], format: RecordFormat) -> int:
    header = next(records, b"") if format.header else b""
    if header and header != format.header:
        raise DamagedError(f"it begins with {header[:80]!r}, not with {format.header[:80]!r}")
    return len(header)


def _decoded(format: RecordFormat, record: bytes, number: int) -> Prediction:
    try:
        return format.decode(record)
    except ValueError as error:
        raise DamagedError(f"record {number + 1}: {error}") from error


def hash_of(path: str) -> int:
    """64 bits that stand for a path."""
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8, key=HASH_KEY).digest(), "big")


class Due(NamedTuple):
    """What stands in front of the next record that is written, and the failed record in whose place that comes."""

    kept: list[Range]
    replaced: int | None = None


@dataclass
class Plan:
    """The inputs that are still to be classified; iterated over on one thread, while another takes what is ``due``.

    An input whose record stands keeps it, and one whose record is an error is tried again. Records are usually in the
    order of the inputs. Where they are not, because files came or went since, they are looked up by their path; a path
    that is named several times has a record for each.

    Attributes:
        due: one for each input that the iteration has given, and one more behind the last.
        num_kept: records so far.
        is_complete: False once a folder could not be listed, whose files may have records all the same.
        is_shared: whether any input has had a record; or there is none that holds an answer, and nothing to lose.
    """

    standing: Standing
    inputs: Iterable[Input]
    due: deque[Due] = field(default_factory=deque)
    num_kept: int = 0
    is_complete: bool = True
    is_shared: bool = False
    _next: int = 0
    _index: "_Index | None" = None

    def __post_init__(self) -> None:
        self.is_shared = not any(self.standing.is_ok)

    def __iter__(self) -> Iterator[Input]:
        kept: list[Range] = []
        for item in self.inputs:
            self.is_complete &= item.error is None
            number = self._find(item.path)
            self.is_shared |= number is not None
            if number is not None and self.standing.is_ok[number]:
                _extend(kept, number)
                self.num_kept += 1
            else:
                self.due.append(Due(kept, number))
                kept = []
                yield item
        self.due.append(Due(kept))

    def _find(self, path: str) -> int | None:
        """The number of the record that stands for this mention of a path."""
        if self._index is not None:
            return self._index.take(hash_of(path))
        if self._next == len(self.standing):
            return None
        key = hash_of(path)
        if self.standing.hashes[self._next] == key:
            self._next += 1
            return self._next - 1
        self._index = _Index(self.standing, self._next)
        return self._index.take(key)


def _extend(ranges: list[Range], number: int) -> None:
    if ranges and ranges[-1][1] == number:
        ranges[-1] = (ranges[-1][0], number + 1)
    else:
        ranges.append((number, number + 1))


class _Index:
    """Records by the hash of their path, those of one path in the order in which they stand."""

    def __init__(self, standing: Standing, first: int) -> None:
        hashes = np.frombuffer(standing.hashes, np.uint64)[first:] if len(standing) > first else np.empty(0, np.uint64)
        self._order: NDArray[np.intp] = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.uint64] = hashes[self._order]
        self._order += first
        self._taken = np.zeros(len(hashes), np.uint32)  # how many of a path, at the first of them

    def take(self, key: int) -> int | None:
        place = int(np.searchsorted(self._hashes, np.uint64(key)))
        if place == len(self._hashes) or self._hashes[place] != key:
            return None
        place_of_next = place + int(self._taken[place])
        if place_of_next == len(self._hashes) or self._hashes[place_of_next] != key:
            return None
        self._taken[place] += 1
        return int(self._order[place_of_next])


def has_any(standing: Standing, inputs: Iterable[Input]) -> bool:
    """Whether any input has a record, looked for until one is found; the first is likely to have the first."""
    keys = (hash_of(item.path) for item in inputs)
    first = next(keys, None)
    if first is None or first == standing.hashes[0]:
        return first is not None
    index = _Index(standing, 0)
    return any(index.take(key) is not None for key in chain([first], keys))

"""Which inputs have a record already. An input is known by its source and its place in it.

A source is what the list of inputs names: a file, an object, an archive or a Parquet file, numbered from 0. The items
of an archive or a Parquet file are its images, numbered from 0; any other source has the item 0. Both numbers are in
each record, and sorting by them gives the order of a run on one machine.
"""

from array import array
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Key(NamedTuple):
    """The number of a source, and the number of the image in it."""

    source: int
    item: int


def hash_of(path: bytes) -> int:
    """Return a 63-bit hash of a path."""
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "big") >> 1


class DoneItems(NamedTuple):
    """The items of one source that have a record: their numbers in ascending order, and the hashes of their paths."""

    items: NDArray[np.int64]
    hashes: NDArray[np.int64]

    def hash_at(self, item: int) -> int | None:
        """Return the hash of the path of an item that has a record; otherwise None."""
        place = int(np.searchsorted(self.items, item))
        return int(self.hashes[place]) if place < len(self.items) and self.items[place] == item else None


class Done:
    """The inputs that had a record when the run began or began again, for other processes: 24 bytes each."""

    def __init__(self, sources: NDArray[np.int64], items: NDArray[np.int64], hashes: NDArray[np.int64]) -> None:
        order = np.lexsort((items, sources))
        self._sources, self._items, self._hashes = sources[order], items[order], hashes[order]

    def of(self, source: int) -> DoneItems:
        start, stop = np.searchsorted(self._sources, [source, source + 1])
        return DoneItems(self._items[start:stop], self._hashes[start:stop])


def _set_bit(bits: bytearray, number: int) -> bool:
    """Set a bit; return whether it was not set."""
    place, bit = divmod(number, 8)
    if place >= len(bits):
        bits.extend(bytes(max(place + 1 - len(bits), len(bits))))  # at least doubled
    is_new = not bits[place] >> bit & 1
    bits[place] |= 1 << bit
    return is_new


class Progress:
    """The records that were written so far, each at most once.

    Attributes:
        num_failed: the number of error records.
    """

    def __init__(self) -> None:
        self._sources, self._items, self._hashes = array("q"), array("q"), array("q")
        self._first = bytearray()  # one bit per source: whether its item 0 has a record
        self._others: dict[int, bytearray] = {}  # per archive, one bit for each of its other items
        self._num_items: dict[int, int] = {}  # of archives and Parquet files that were read to their end
        self._num_sources: int | None = None
        self._num_containers = 0
        self.num_failed = 0

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, key: Key, path_hash: int) -> bool:
        """Remember a record; return False if there is one for this input already."""
        if not self._mark(key):
            return False
        self._sources.append(key.source)
        self._items.append(key.item)
        self._hashes.append(path_hash)
        return True

    def _mark(self, key: Key) -> bool:
        if not key.item:
            return _set_bit(self._first, key.source)
        return _set_bit(self._others.setdefault(key.source, bytearray()), key.item)

    def end_source(self, source: int, num_items: int) -> None:
        """Remember how many images an archive or a Parquet file has."""
        self._num_items[source] = num_items

    def end_list(self, num_sources: int, num_containers: int) -> None:
        """Remember the number of all sources, and how many of them are archives or Parquet files."""
        self._num_sources, self._num_containers = num_sources, num_containers

    @property
    def num_inputs(self) -> int | None:
        """The number of all inputs; None if not all were listed."""
        if self._num_sources is None or self._num_containers != len(self._num_items):
            return None
        return self._num_sources - self._num_containers + sum(self._num_items.values())

    def snapshot(self) -> Done:
        return Done(*(np.array(numbers, np.int64) for numbers in (self._sources, self._items, self._hashes)))

"""Read the entries of an uncompressed zip archive, the container that ``torch.save`` writes.

The reader accepts only what torch writes: stored entries, each listed once, that do not overlap, with matching headers
and checksums. An entry's size is compared with the file before memory for it is allocated.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.errors import RefusedError, reason_of

MAGIC = b"PK\3\4"
LOCAL = struct.Struct("<4s5H3L2H")  # "PK\3\4", the header before each entry
CENTRAL = struct.Struct("<4s6H3L5H2L")  # "PK\1\2", one record of the central directory
END = struct.Struct("<4s4H2LH")  # "PK\5\6", the end of the file
LOCATOR = struct.Struct("<4sLQL")  # "PK\6\7", the location of END64, before END
END64 = struct.Struct("<4sQ2H2L4Q")  # "PK\6\6", the end with 64-bit sizes
IN_ZIP64 = 0xFFFFFFFF  # the value is in the extra field with ZIP64_ID
ZIP64_ID = 1
ENCRYPTED, SIZES_FOLLOW = 1, 8  # bits of a header's flags
MAX_ENTRIES = 1 << 16  # a training checkpoint of a LeViT has about 3,000
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Location of an entry's content.

    Args:
        header: offset of the local header.
        start: offset of the content.
    """

    name: str
    header: int
    start: int
    size: int
    crc: int


class Archive:
    """A zip archive that is open for reading. Every entry's checksum is verified when it is read.

    An archive in which all checksums are 0 has none: torch.serialization.set_crc32_options(False) leaves them out.

    Raises:
        RefusedError: by all methods, if the archive is damaged or is not like those of ``torch.save``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise RefusedError(f"Cannot read {path}", why=reason_of(error)) from error
        try:
            self._size = path.stat().st_size
            self.entries = self._entries()
        except BaseException:
            self._file.close()
            raise
        self.has_checksums = any(entry.crc for entry in self.entries.values())
        self._verified: set[str] = set()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return the content of an entry as a writable array."""
        entry = self.entries[name]
        content = np.empty(entry.size, np.uint8)
        self._file.seek(entry.start)
        if self._file.readinto(content.data) != entry.size:
            raise damaged(self.path, "the file became shorter while it was read")
        self._require_checksum(entry, zlib.crc32(content.data))
        return content

    def verify_rest(self) -> None:
        """Verify the checksums of the entries that were not read, without holding them in memory."""
        for entry in self.entries.values():
            if entry.name not in self._verified:
                self._require_checksum(entry, self._checksum(entry))

    def _checksum(self, entry: Entry) -> int:
        checksum = 0
        self._file.seek(entry.start)
        for start in range(0, entry.size, BLOCK_BYTES):
            checksum = zlib.crc32(self._file.read(min(BLOCK_BYTES, entry.size - start)), checksum)
        return checksum

    def _require_checksum(self, entry: Entry, checksum: int) -> None:
        if self.has_checksums and checksum != entry.crc:
            raise RefusedError(
                f"{self.path} is damaged",
                why=f"its entry {entry.name} has a wrong checksum",
                hint="download the file again",
            )
        self._verified.add(entry.name)

    def _entries(self) -> dict[str, Entry]:
        directory, count, end = self._directory()
        records = list(_records(self.path, directory, count))
        _require_plain(self.path, self._size, records)
        entries: dict[str, Entry] = {}
        for record in records:
            if record.name in entries:
                raise damaged(self.path, f"it lists the entry {record.name} twice")
            entries[record.name] = self._located(record)
        _require_apart(self.path, entries, end)
        return entries

    def _directory(self) -> tuple[bytes, int, int]:
        """Return the central directory, its number of records and its offset."""
        end = self._size - END.size
        signature, *_, count, length, start, comment = self._unpack(END, end)
        if signature != b"PK\5\6" or comment:
            raise damaged(self.path, "the end of the archive is missing", hint="download the file again")
        if end >= LOCATOR.size and self._unpack(LOCATOR, end - LOCATOR.size)[0] == b"PK\6\7":
            end -= LOCATOR.size + END64.size
            signature, *_, count, length, start = self._unpack(END64, end)
            if signature != b"PK\6\6":
                raise damaged(self.path, "the 64-bit end of the archive is missing")
        if start + length != end:
            raise damaged(self.path, f"its directory ends at byte {start + length:,}, not {end:,}")
        if not 0 < count <= MAX_ENTRIES:
            raise damaged(self.path, f"it has {count:,} entries; an archive of weights has 1 to {MAX_ENTRIES:,}")
        self._file.seek(start)
        return self._file.read(length), count, start

    def _located(self, record: "_Record") -> Entry:
        """Return the entry of a directory record, after a check that its local header agrees."""
        signature, _, flags, method, _, _, crc, packed, size, name, extra = self._unpack(LOCAL, record.header)
        name_bytes = self._file.read(name)  # follows the header
        agree = all(
            local in (stored, IN_ZIP64) or (local == 0 and flags & SIZES_FOLLOW)
            for local, stored in ((packed, record.size), (size, record.size))
        ) and (crc == record.crc or (crc == 0 and flags & SIZES_FOLLOW))
        if signature != MAGIC or method or flags & ENCRYPTED or name_bytes != record.raw_name or not agree:
            raise damaged(self.path, f"the two headers of its entry {record.name} contradict each other")
        start = record.header + LOCAL.size + name + extra
        return Entry(record.name, record.header, start, record.size, record.crc)

    def _unpack(self, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
        if not 0 <= offset <= self._size - layout.size:
            raise damaged(self.path, "it is truncated", hint="download the file again")
        self._file.seek(offset)
        return layout.unpack(self._file.read(layout.size))


@dataclass(frozen=True)
class _Record:
    """One record of the central directory."""

    name: str
    raw_name: bytes
    header: int
    packed: int
    size: int
    crc: int
    plain: bool  # neither compressed nor encrypted


def damaged(path: Path, why: str, hint: str = "") -> RefusedError:
    """Return the error for an archive that cannot be read."""
    return RefusedError(f"{path} is damaged or not a checkpoint", why=why, hint=hint)


def _records(path: Path, directory: bytes, count: int) -> Iterator[_Record]:
    position = 0
    for _ in range(count):
        if position + CENTRAL.size > len(directory):
            break
        fields = CENTRAL.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, header = fields
        start, position = position + CENTRAL.size, position + CENTRAL.size + sum(lengths)
        if signature != b"PK\1\2" or position > len(directory):
            break
        raw_name = directory[start : start + lengths[0]]
        extra = directory[start + lengths[0] : start + lengths[0] + lengths[1]]
        size, packed, header = _with_zip64(path, extra, size, packed, header)
        plain = method == 0 and size == packed and not flags & ENCRYPTED
        yield _Record(raw_name.decode("utf-8", "replace"), raw_name, header, packed, size, crc, plain)
    else:
        if position == len(directory):
            return
    raise damaged(path, "its directory is invalid")


def _with_zip64(path: Path, extra: bytes, *values: int) -> list[int]:
    """Return the values with those that do not fit 32 bits taken from the extra field."""
    content = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        content, extra = (extra[4 : 4 + length], b"") if kind == ZIP64_ID else (content, extra[4 + length :])
    large = iter(struct.unpack_from(f"<{len(content) // 8}Q", content))
    try:
        return [next(large) if value == IN_ZIP64 else value for value in values]
    except StopIteration:
        raise damaged(path, "a 64-bit size is missing in its directory") from None


def _require_plain(path: Path, size: int, records: list[_Record]) -> None:
    """Refuse a TorchScript program, a zip bomb, and compressed or encrypted entries."""
    if any(record.name.rpartition("/")[2] == "constants.pkl" for record in records):
        raise RefusedError(
            f"{path} is refused: it is a TorchScript archive",
            why="it holds a program, not only weights",
            hint="ask the author for the state dict, preferably as safetensors",
        )
    unpacked = sum(record.size for record in records)
    if unpacked > size:  # torch never compresses its archives
        raise RefusedError(f"{path} is refused: its {size:,} bytes unpack to {unpacked:,}", hint="use safetensors")
    for record in records:
        if not record.plain:
            raise RefusedError(
                f"{path} is refused: its entry {record.name} is compressed or encrypted",
                why="torch.save writes neither",
                hint="save it again with torch.save, or as safetensors",
            )


def _require_apart(path: Path, entries: dict[str, Entry], end: int) -> None:
    """Refuse entries that overlap each other or the directory."""
    ordered = sorted(entries.values(), key=lambda entry: entry.header)
    limits = [*(entry.header for entry in ordered[1:]), end]
    for entry, limit in zip(ordered, limits, strict=True):
        if entry.start + entry.size > limit:
            raise damaged(path, f"its entry {entry.name} overlaps what follows it")

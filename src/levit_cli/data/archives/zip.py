"""Read the members of a zip archive in the order of its central directory, without keeping the directory in memory.

Python's ``zipfile`` keeps an object for each member, and decompresses more than a member's header says.
"""

import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import BinaryIO, NamedTuple

from levit_cli.data.archives.member import (
    MAX_MEMBER_BYTES,
    ArchiveError,
    Member,
    MemberKind,
    ReadAt,
    too_large,
    unreadable,
)
from levit_cli.errors import InputError
from levit_cli.system.text import count_noun

SIGNATURES = (b"PK\3\4", b"PK\5\6")  # of an archive with and without members
END = Struct("<4s4H2LH")  # disks, disk of the directory, members on it, members, size, offset, length of the comment
END64_LOCATOR = Struct("<4sLQL")  # disk, offset, number of disks
END64 = Struct("<4sQ2H2L4Q")  # size of the record, versions, disks, members on it, members, size, offset
ENTRY = Struct("<4s6H3L5H2L")
LOCAL_HEADER = Struct("<4s5H3L2H")
MAX_COMMENT_BYTES = 0xFFFF
UNKNOWN = 0xFFFFFFFF  # the value is in the zip64 field
ZIP64_FIELD = 1
ENCRYPTED, UTF8 = 0x41, 0x800  # flags
STORED, DEFLATED = 0, 8
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES encryption"}
UNIX = 3  # the system that made the archive; its modes are in the upper half of the attributes


class _Directory(NamedTuple):
    """The central directory: its members, and the range of its bytes."""

    num_members: int
    start: int
    stop: int
    modulus: int  # of the number of members: archives without zip64 store it in 16 bits


@dataclass(frozen=True)
class _Entry:
    """An entry of the central directory."""

    name: str
    system: int
    flags: int
    method: int
    crc: int
    compressed_bytes: int
    num_bytes: int
    mode: int
    offset: int

    @property
    def kind(self) -> MemberKind:
        if self.name.endswith("/"):
            return "folder"
        return "link" if self.system == UNIX and stat.S_ISLNK(self.mode) else "file"


def is_zip(head: bytes) -> bool:
    return head.startswith(SIGNATURES)


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the members of an archive.

    Args:
        file: a seekable file.

    Raises:
        ArchiveError: the central directory is missing or damaged. The members before the damage were yielded.
    """
    archive_bytes = file.seek(0, 2)
    directory = _directory(file, archive_bytes)
    position, count = directory.start, 0
    while position < directory.stop:
        entry, position = _entry(file, position)
        count += 1
        yield Member(entry.name, entry.kind, entry.num_bytes, _content(entry, archive_bytes))
    if (count - directory.num_members) % directory.modulus:
        raise _damaged(f"it lists {count_noun(count, 'member')} instead of {directory.num_members:,}")


def _directory(file: BinaryIO, archive_bytes: int) -> _Directory:
    tail_at = max(archive_bytes - END.size - MAX_COMMENT_BYTES, 0)
    file.seek(tail_at)
    tail = file.read(END.size + MAX_COMMENT_BYTES)
    start = _start_of_end(tail)
    if start < 0:
        raise ArchiveError("truncated", "the archive ends without its directory, which is at the end of a zip archive")
    _, disk, _, _, num_members, size, offset, _ = END.unpack_from(tail, start)
    file.seek(max(tail_at + start - END64_LOCATOR.size, 0))
    locator, modulus = file.read(END64_LOCATOR.size), 1 << 16
    if locator.startswith(b"PK\6\7"):
        file.seek(min(END64_LOCATOR.unpack(locator)[2], archive_bytes))  # a file has no offset above 2**63
        end64, modulus = file.read(END64.size), 1 << 64
        if not end64.startswith(b"PK\6\6") or len(end64) < END64.size:
            raise _damaged("its zip64 record is missing")
        _, _, _, _, disk, _, _, num_members, size, offset = END64.unpack(end64)
    if disk:
        raise ArchiveError("format_not_allowed", "this is one part of a zip archive of several files")
    if offset + size > archive_bytes:
        raise _damaged("it would be after the end of the file")
    return _Directory(num_members, offset, offset + size, modulus)


def _start_of_end(tail: bytes) -> int:
    """Return the offset of the end record; -1 if there is none. The comment after it may contain its signature."""
    last = start = tail.rfind(b"PK\5\6", 0, len(tail) - END.size + 4)
    while start >= 0:
        if start + END.size + END.unpack_from(tail, start)[-1] == len(tail):
            return start
        start = tail.rfind(b"PK\5\6", 0, start)
    return last  # something follows the archive


def _entry(file: BinaryIO, position: int) -> tuple[_Entry, int]:
    """Return the entry at a position, and the position of the next one."""
    file.seek(position)  # the content of a member may have been read meanwhile
    fixed = file.read(ENTRY.size)
    if not fixed.startswith(b"PK\1\2") or len(fixed) < ENTRY.size:
        raise _damaged(f"there is no entry at byte {position:,}")
    (
        _, made_by, _, flags, method, _, _, crc, compressed_bytes, num_bytes, name_bytes, extra_bytes, comment_bytes,
        _, _, attributes, offset,
    ) = ENTRY.unpack(fixed)  # fmt: skip
    variable = file.read(name_bytes + extra_bytes)
    if len(variable) < name_bytes + extra_bytes:
        raise _damaged(f"the entry at byte {position:,} is cut")
    num_bytes, compressed_bytes, offset = _zip64(variable[name_bytes:], (num_bytes, compressed_bytes, offset))
    name = _decoded(variable[:name_bytes], is_utf8=bool(flags & UTF8))
    entry = _Entry(
        name, made_by >> 8, flags, method, crc, compressed_bytes, num_bytes, attributes >> 16, offset
    )  # fmt: skip
    return entry, position + ENTRY.size + name_bytes + extra_bytes + comment_bytes


def _zip64(extra: bytes, values: tuple[int, ...]) -> list[int]:
    """Return the values, those that are too large for 32 bits from the zip64 field."""
    field = b""
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == ZIP64_FIELD:
            field = extra[4 : 4 + length]
            break
        extra = extra[4 + length :]
    known = []
    for value in values:
        if value == UNKNOWN and len(field) >= 8:
            value, field = int.from_bytes(field[:8], "little"), field[8:]
        known.append(value)
    return known


def _decoded(name: bytes, *, is_utf8: bool) -> str:
    """Return a name as text. It ends at a NUL.

    Names that are not marked as UTF-8 should be in code page 437, but many programs, such as macOS's, write UTF-8.
    """
    name = name.partition(b"\0")[0]
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape") if is_utf8 else name.decode("cp437")


def _damaged(what: str) -> ArchiveError:
    return ArchiveError("corrupt", f"the directory of the zip archive is damaged: {what}")


def _content(entry: _Entry, archive_bytes: int) -> Callable[[ReadAt], bytes]:
    if entry.flags & ENCRYPTED:
        return unreadable("format_not_allowed", "it is encrypted")
    if entry.method not in (STORED, DEFLATED):
        method = METHODS.get(entry.method, f"method {entry.method}")
        return unreadable("format_not_allowed", f"it is compressed with {method}, which is not read")
    if max(entry.num_bytes, entry.compressed_bytes) > MAX_MEMBER_BYTES:
        return too_large(max(entry.num_bytes, entry.compressed_bytes))
    if entry.offset + LOCAL_HEADER.size + entry.compressed_bytes > archive_bytes:
        return unreadable("truncated", "the archive ends within it")
    return partial(_read, entry=entry)


def _read(read_at: ReadAt, entry: _Entry) -> bytes:
    header = read_at(entry.offset, LOCAL_HEADER.size)
    if not header.startswith(SIGNATURES[0]) or len(header) < LOCAL_HEADER.size:
        raise InputError("corrupt", "the archive does not contain it where its directory says")
    *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    data = read_at(entry.offset + LOCAL_HEADER.size + name_bytes + extra_bytes, entry.compressed_bytes)
    if len(data) < entry.compressed_bytes:
        raise InputError("truncated", "the archive ends within it")
    if entry.method == DEFLATED:
        data = _inflated(data, entry.num_bytes)
    if len(data) != entry.num_bytes:
        raise InputError("corrupt", f"it has {len(data):,} bytes; the archive says {entry.num_bytes:,}")
    if zlib.crc32(data) != entry.crc:
        raise InputError("corrupt", "its checksum is wrong")
    return data


def _inflated(data: bytes, num_bytes: int) -> bytes:
    """Decompress data that should have ``num_bytes``, and no more than that."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise InputError("corrupt", f"its compressed data is damaged: {error}") from None
    if len(content) > num_bytes:
        raise InputError("corrupt", f"it has more than the {num_bytes:,} bytes that the archive says")
    if not inflater.eof:
        raise InputError("truncated", "its compressed data ends too early")
    return content

"""Read the members of a tar archive, once and front to back: v7, ustar, pax and GNU headers.

Nothing is kept of the members that were read, and no header makes the reader take more than ``MAX_HEADER_BYTES``,
whatever it declares. Python's ``tarfile`` keeps all members and reads headers of any size into memory.

An archive ends with two blocks of zeros. If they are missing, it was cut, even if its last member is complete.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Protocol

from levit_cli.data.archives.member import (
    MAX_MEMBER_BYTES,
    ArchiveError,
    Member,
    MemberKind,
    ReadAt,
    too_large,
    unreadable,
)
from levit_cli.errors import InputError, InputErrorKind

BLOCK_BYTES = 512
ZEROS = bytes(BLOCK_BYTES)
CHUNK_BYTES = 1 << 18
MAX_HEADER_BYTES = 1 << 20
OCTAL = re.compile(rb"[0-7]*")
DECIMAL = re.compile(rb"[0-9]{1,20}")

# Types of members. All others have a content, as POSIX demands.
SYMBOLIC_LINK, FOLDERS, GNU_SPARSE = b"2", (b"5", b"D"), b"S"
WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_NOT_REGULAR: InputErrorKind = "not_regular"
_DEVICE = (_NOT_REGULAR, "it is a pipe or device")
UNREADABLE: dict[bytes, tuple[InputErrorKind, str]] = {
    b"1": (_NOT_REGULAR, "it is a hard link; its content is that of another member"),
    **dict.fromkeys((b"3", b"4", b"6"), _DEVICE),
    GNU_SPARSE: ("format_not_allowed", "it is stored as a sparse file, which is not read"),
    b"M": ("truncated", "it begins in another volume of the archive"),
}
# Extended headers, which describe the next member.
PAX_HEADERS, GNU_LONG_NAME = (b"x", b"X"), b"L"
EXTENDED = (*PAX_HEADERS, GNU_LONG_NAME, b"g", b"K")  # g: of all members, K: the target of a link


class Readable(Protocol):
    """A binary file, as far as it is needed to read it front to back."""

    def read(self, size: int = -1, /) -> bytes: ...


class ForwardReader:
    """Reads a file front to back.

    Args:
        seekable: the file as a seekable file, to skip without reading; None for a stream.
    """

    def __init__(self, file: Readable, seekable: BinaryIO | None = None) -> None:
        self._file, self._seekable = file, seekable
        self.position = 0
        self._peeked = b""
        self.num_bytes = seekable.seek(0, 2) if seekable else None
        if seekable:
            seekable.seek(0)

    def read(self, count: int) -> bytes:
        """Return ``count`` bytes, or fewer at the end. Memory is taken for bytes that exist only."""
        parts, missing = [], count
        while missing and (data := self._read_some(min(missing, CHUNK_BYTES))):
            parts.append(data)
            missing -= len(data)
        self.position += count - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, count: int) -> bytes:
        if not self._peeked:
            return self._file.read(count)
        data, self._peeked = self._peeked[:count], self._peeked[count:]
        return data

    def peek(self, count: int) -> bytes:
        """Return the next bytes of a stream without taking them."""
        self._peeked = self.read(count)
        self.position -= len(self._peeked)
        return self._peeked

    def read_at(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset``, which is not before the current position.

        Raises:
            ArchiveError: the file ends before.
        """
        self.skip_to(offset)
        data = self.read(count)
        if len(data) < count:
            raise self.is_cut()
        return data

    def skip_to(self, offset: int) -> None:
        """Skip to an offset.

        Raises:
            ArchiveError: the file ends before.
        """
        self.require(offset)
        if self._seekable is not None:
            if offset != self.position:
                self.position = self._seekable.seek(offset)
            return
        while self.position < offset:
            if not self.read(min(offset - self.position, CHUNK_BYTES)):
                raise self.is_cut()

    def require(self, end: int) -> None:
        """Check that the file has at least ``end`` bytes, if its size is known.

        Raises:
            ArchiveError: the file ends before.
        """
        if self.num_bytes is not None and end > self.num_bytes:
            self.position = self.num_bytes
            raise self.is_cut()

    def is_cut(self) -> ArchiveError:
        """Return the error of an archive that ends before it should."""
        return ArchiveError("truncated", f"the archive ends after {self.position:,} bytes, before its end marker")


@dataclass
class _Header:
    """A header block, completed by the extended headers before it.

    Args:
        content_at: the offset of the content.
        problem: why the content cannot be read.
    """

    content_at: int
    name: bytes
    type: bytes
    size: int
    problem: InputError | None = None

    @property
    def content_bytes(self) -> int:
        return 0 if self.type in WITHOUT_CONTENT else self.size


def members(source: ForwardReader) -> Iterator[Member]:
    """Yield the members of an archive in their order. Each one's content can be read until the next one is taken.

    Raises:
        ArchiveError: the archive is cut or damaged. The members before that were yielded.
    """
    extended = _Extended()
    for header in _headers(source):
        if header.type not in EXTENDED:
            extended.apply_to(header)
            extended = _Extended()
        end = header.content_at + header.content_bytes
        source.require(end)
        if header.type in EXTENDED:
            extended.add(source, header)
        else:
            yield _member(header)
        source.skip_to(end + -end % BLOCK_BYTES)


def is_header(block: bytes) -> bool:
    """Whether these bytes begin with the header of a member, or with the end of an archive without members."""
    if len(block) < BLOCK_BYTES:
        return False
    block = block[:BLOCK_BYTES]
    return block == ZEROS or block[257:262] == b"ustar" or _has_checksum(block)


def _headers(source: ForwardReader) -> Iterator[_Header]:
    """Yield the headers. The caller skips the content before it takes the next one.

    Archives can be concatenated: after the end of one, the next may follow. Anything else after an end is ignored.
    """
    num_zeros = 0
    while block := source.read(BLOCK_BYTES):
        if block == ZEROS:
            num_zeros += 1
        elif num_zeros >= 2 and not _has_checksum(block):
            return
        elif len(block) < BLOCK_BYTES:
            break
        else:
            num_zeros = 0
            yield _header(block, source)
    if num_zeros < 2:
        raise source.is_cut()


def _header(block: bytes, source: ForwardReader) -> _Header:
    at = source.position - BLOCK_BYTES
    if not _has_checksum(block):
        raise ArchiveError("corrupt", f"the header at byte {at:,} is damaged, so what follows cannot be read")
    name, prefix = _text(block[:100]), _text(block[345:500])
    if prefix and block[257:263] == b"ustar\0":  # GNU has other fields there
        name = prefix + b"/" + name
    size = _number(block[124:136])
    if size is None:
        raise ArchiveError("corrupt", f"the header at byte {at:,} has an invalid size")
    type_flag = block[156:157]
    if type_flag == GNU_SPARSE:
        _skip_sparse_map(source, is_continued=bool(block[482]))
    return _Header(source.position, name, type_flag, size)


def _skip_sparse_map(source: ForwardReader, *, is_continued: bool) -> None:
    while is_continued:
        block = source.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise source.is_cut()
        is_continued = bool(block[504])


def _has_checksum(block: bytes) -> bool:
    """Whether this is a whole block with a valid checksum. Old programs summed signed bytes."""
    stored = _number(block[148:156]) if len(block) == BLOCK_BYTES else None
    if not stored:
        return False
    others = block[:148] + block[156:]
    total = sum(others) + 8 * ord(" ")
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in others)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int | None:
    """Return a number in octal digits or in GNU's binary form; None if it is invalid or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = _text(field).strip(b" ")
    return int(digits or b"0", 8) if OCTAL.fullmatch(digits) else None


class _Extended:
    """What the extended headers before a member say about it."""

    def __init__(self) -> None:
        self._attributes: dict[bytes, bytes] = {}
        self._problem: InputError | None = None

    def add(self, source: ForwardReader, header: _Header) -> None:
        """Read the content of an extended header."""
        if header.size > MAX_HEADER_BYTES:
            message = f"its extended header has {header.size:,} bytes; the limit is {MAX_HEADER_BYTES:,}"
            self._problem = InputError("too_large", message)
        elif header.type == GNU_LONG_NAME:
            self._attributes[b"path"] = source.read_at(header.content_at, header.size)
        elif header.type in PAX_HEADERS:
            attributes = _pax_attributes(source.read_at(header.content_at, header.size))
            if attributes is None:
                self._problem = InputError("corrupt", "its extended header is damaged")
            else:
                self._attributes |= attributes

    def apply_to(self, header: _Header) -> None:
        """Complete the header of a member."""
        attributes = self._attributes
        header.problem = self._problem
        header.name = _text(attributes.get(b"GNU.sparse.name") or attributes.get(b"path") or header.name)
        if (size := attributes.get(b"size")) is not None:
            if DECIMAL.fullmatch(size):
                header.size = int(size)
            else:
                header.problem = InputError("corrupt", "its extended header has an invalid size")
        if any(name.startswith(b"GNU.sparse.") for name in attributes):
            header.type = GNU_SPARSE


def _pax_attributes(data: bytes) -> dict[bytes, bytes] | None:
    """Return the attributes in a pax header, each ``LENGTH NAME=VALUE`` and a newline; None if it is damaged."""
    attributes, position = {}, 0
    while position < len(data) and data[position]:
        length, space, _ = data[position : position + 20].partition(b" ")
        end = position + int(length) if space and DECIMAL.fullmatch(length) else 0
        if not position + len(length) + 2 <= end <= len(data) or data[end - 1] != ord("\n"):
            return None
        name, _, value = data[position + len(length) + 1 : end - 1].partition(b"=")
        attributes[name] = value
        position = end
    return attributes


def _member(header: _Header) -> Member:
    name = header.name.decode("utf-8", "surrogateescape")
    if header.type in FOLDERS or (header.type == b"\0" and name.endswith("/")):
        return Member(name, "folder", 0, unreadable("not_regular", "it is a folder"))
    kind: MemberKind = "link" if header.type == SYMBOLIC_LINK else "file"
    return Member(name, kind, header.content_bytes, _content(header))


def _content(header: _Header) -> Callable[[ReadAt], bytes]:
    if header.problem is not None:
        return unreadable(header.problem.kind, header.problem.message)
    if header.type in UNREADABLE:
        return unreadable(*UNREADABLE[header.type])
    if header.size > MAX_MEMBER_BYTES:
        return too_large(header.size)
    return partial(_read, offset=header.content_at, size=header.size)


def _read(read_at: ReadAt, offset: int, size: int) -> bytes:
    data = read_at(offset, size)
    if len(data) < size:
        raise InputError("truncated", "the archive ends within it")
    return data

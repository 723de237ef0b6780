"""Decompress a file front to back: gzip, bzip2, xz, and Zstandard where Python has it.

All data before a cut or damaged place is returned before the error is raised, and a checksum that is wrong is an error
of the whole file, after its data. Python's ``gzip`` would discard the end of the data.
"""

import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from levit_cli.data.archives.member import ArchiveError
from levit_cli.errors import InputErrorKind

CHUNK_BYTES = 1 << 16
MAX_DICTIONARY_BYTES = 256 << 20  # xz -9 needs 65 MiB
MAX_GZIP_HEADER_BYTES = 1 << 20
GZIP, BZIP2, XZ, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
EXTRA, NAME, COMMENT, HEADER_CRC = 4, 8, 16, 2  # flags in the header of gzip


class Decompressor(Protocol):
    """The interface of Python's incremental decompressors."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def decompressor_for(head: bytes) -> Callable[[], Decompressor] | None:
    """Return what decompresses a file that begins with these bytes; None if it is not compressed.

    Raises:
        ArchiveError: this Python cannot decompress it.
    """
    if head.startswith(GZIP):
        return _Gzip
    for magic, start in ((BZIP2, _bzip2), (XZ, _xz), (ZSTANDARD, _zstandard)):
        if head.startswith(magic):
            return start()
    return None


def _bzip2() -> Callable[[], Decompressor]:
    try:
        import bz2
    except ImportError:
        raise _missing("bzip2") from None
    return bz2.BZ2Decompressor


def _xz() -> Callable[[], Decompressor]:
    try:
        import lzma
    except ImportError:
        raise _missing("xz") from None
    return lambda: lzma.LZMADecompressor(memlimit=MAX_DICTIONARY_BYTES)


def _zstandard() -> Callable[[], Decompressor]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        message = "Zstandard archives need Python 3.14 or newer; decompress it first, for example with zstd -d"
        raise ArchiveError("format_not_allowed", message) from None
    decompressor: Callable[[], Decompressor] = zstd.ZstdDecompressor
    return decompressor


def _missing(name: str) -> ArchiveError:
    return ArchiveError("format_not_allowed", f"this Python was built without {name}; decompress the archive first")


class DecompressedFile:
    """The decompressed content of a file. A file of several compressed streams is one content."""

    def __init__(self, file: BinaryIO, start: Callable[[], Decompressor]) -> None:
        self._file, self._start = file, start
        self._stream = start()
        self._rest = b""  # bytes of the file that were read and not passed to the decompressor
        self._magic = b""

    def read(self, size: int = CHUNK_BYTES, /) -> bytes:
        """Return at most ``size`` bytes, and none at the end.

        Raises:
            ArchiveError: the file is cut or damaged.
        """
        while not self._stream.eof or self._next_stream():
            is_at_end = False
            data, self._rest = self._rest, b""
            if not data and self._stream.needs_input:
                data = self._file.read(CHUNK_BYTES)
                is_at_end = not data
                self._magic = self._magic or data[:2]
            if content := self._decompress(data, size):
                return content
            if is_at_end and not self._stream.eof:
                raise ArchiveError("truncated", "the compressed data ends before its end marker")
        return b""

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            return self._stream.decompress(data, size)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ArchiveError("corrupt", f"the compressed data is damaged: {error}") from None
        except MemoryError:
            raise ArchiveError("too_large", "decompressing it needs too much memory") from None
        except Exception as error:  # the errors of lzma and zstd are exceptions of their own
            kind: InputErrorKind = "too_large" if "emory" in str(error) else "corrupt"
            raise ArchiveError(kind, f"the compressed data cannot be decompressed: {error}") from None

    def _next_stream(self) -> bool:
        """Start the next stream of the file, if there is one. What else follows a stream is ignored."""
        rest = self._stream.unused_data.lstrip(b"\0")
        if len(rest) < len(self._magic):
            rest = (rest + self._file.read(CHUNK_BYTES)).lstrip(b"\0")
        if not rest.startswith(self._magic) or not self._magic:
            return False
        self._stream, self._rest = self._start(), rest
        return True


class _Gzip:
    """Decompresses one stream of gzip."""

    def __init__(self) -> None:
        self.eof, self.unused_data = False, b""
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._pending, self._has_header = b"", False
        self._crc, self._num_bytes = 0, 0

    @property
    def needs_input(self) -> bool:
        if not self._has_header:
            return True
        return len(self._pending) < 8 if self._inflater.eof else not self._pending

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        self._pending += data
        if not self._has_header:
            length = _gzip_header_bytes(self._pending)
            if length is None:
                return b""
            self._pending, self._has_header = self._pending[length:], True
        if not self._inflater.eof:
            content = self._inflater.decompress(self._pending, max_length)
            self._pending = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            self._crc = zlib.crc32(content, self._crc)
            self._num_bytes += len(content)
            if content:
                return content
        if self._inflater.eof and len(self._pending) >= 8:
            self._finish()
        return b""

    def _finish(self) -> None:
        crc, num_bytes = (int.from_bytes(self._pending[start : start + 4], "little") for start in (0, 4))
        if crc != self._crc or num_bytes != self._num_bytes & 0xFFFFFFFF:
            raise ValueError("its checksum is wrong")
        self.eof, self.unused_data = True, self._pending[8:]


def _gzip_header_bytes(data: bytes) -> int | None:
    """Return the length of the header; None if more bytes are needed."""
    if len(data) < 10:
        return None
    if not data.startswith(GZIP) or data[2] != zlib.DEFLATED:
        raise ValueError("its header is invalid")
    flags, end = data[3], 10
    if flags & EXTRA:
        end += 2 + int.from_bytes(data[10:12], "little")
    for flag in (NAME, COMMENT):
        if flags & flag:
            end = data.find(b"\0", end) + 1
            if not end:
                if len(data) > MAX_GZIP_HEADER_BYTES:
                    raise ValueError("its header is too large")
                return None
    if flags & HEADER_CRC:
        end += 2
    return end if end <= len(data) else None

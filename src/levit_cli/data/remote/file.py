"""A remote object as a binary file, for readers of archives and tables."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 4 << 20  # one request; an archive that is read front to back needs few


class _RemoteFile(io.RawIOBase):
    """A seekable file that reads ranges of an object.

    Args:
        read: returns the bytes from an offset to another.
        size: of the object.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        end = min(self._position + len(target), self._size)
        if end <= self._position:
            return 0
        data = self._read(self._position, end)
        target[: len(data)] = data
        self._position += len(data)
        return len(data)


def buffered(read: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """Return a binary file that reads ranges of an object, several megabytes at a time."""
    return cast("BinaryIO", io.BufferedReader(_RemoteFile(read, size), BUFFER_BYTES))

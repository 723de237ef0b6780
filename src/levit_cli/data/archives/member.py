"""What the readers of tar and zip archives have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from levit_cli.errors import InputError, InputErrorKind

MAX_MEMBER_BYTES = 256 << 20
ReadAt = Callable[[int, int], bytes]  # (offset, number of bytes) -> the bytes, fewer at the end of the file
MemberKind = Literal["file", "folder", "link"]


class ArchiveError(Exception):
    """An archive cannot be read, or not beyond this point.

    Args:
        error: the error of the archive's own record.
    """

    def __init__(self, kind: InputErrorKind, message: str) -> None:
        super().__init__(message)
        self.error = InputError(kind, message)


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Args:
        name: its name in the archive; bytes that are not UTF-8 are surrogates, as in file names.
        num_bytes: the size of its content, as the archive says.
        read: returns its content, given a function that reads from the archive. It raises ``InputError``.
    """

    name: str
    kind: MemberKind
    num_bytes: int
    read: Callable[[ReadAt], bytes]


def unreadable(kind: InputErrorKind, message: str) -> Callable[[ReadAt], bytes]:
    """Return the ``read`` of a member whose content cannot be read."""
    return partial(_fail, kind, message)


def _fail(kind: InputErrorKind, message: str, _: ReadAt) -> bytes:
    raise InputError(kind, message)


def too_large(num_bytes: int) -> Callable[[ReadAt], bytes]:
    """Return the ``read`` of a member with more than ``MAX_MEMBER_BYTES``."""
    return unreadable("too_large", f"it has {num_bytes:,} bytes; the limit for a member is {MAX_MEMBER_BYTES:,}")

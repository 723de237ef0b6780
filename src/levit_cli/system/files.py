"""Open files for reading without waiting for pipes and devices."""

import os
import stat
from typing import BinaryIO

from levit_cli.errors import InputError, reason_of

NOT_REGULAR = "it is a folder, pipe, socket or device"


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; never wait for a pipe or a device.

    Raises:
        InputError: ``not_found``, ``permission`` or ``not_regular``.
    """
    try:
        descriptor = _open_without_waiting(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("not_found", "no such file") from None
    except PermissionError:
        raise InputError("permission", "no permission to read the file") from None
    except (OSError, ValueError) as error:  # ENXIO: a socket; ValueError: a NUL in the name
        why = reason_of(error)  # str of an OSError would include the path
        raise InputError("not_regular" if _is_special(path) else "not_found", why) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("not_regular", NOT_REGULAR)
    return open(descriptor, "rb")


def _open_without_waiting(path: str) -> int:
    """Open a file. Opening a FIFO that has no writer would wait forever."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if hasattr(os, "O_NONBLOCK"):
        return os.open(path, flags | os.O_NONBLOCK)
    if _is_special(path):  # on Windows also names such as NUL, and folders, which it does not open
        raise InputError("not_regular", NOT_REGULAR)
    return os.open(path, flags)


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def version_of(file: BinaryIO) -> tuple[int, ...]:
    """Return what tells an open file from a later version of it: device, number, size and time of modification."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

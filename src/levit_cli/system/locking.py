"""Lock an open file against other runs, until it is closed or the process ends.

POSIX systems have ``flock``. Windows locks ranges of bytes, which no other process can then read, so one byte far after
the usual contents is locked there. Where neither exists, files are not locked.
"""

import errno
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

IN_USE = "another run is writing to it"
LOCKED_BYTE = (1 << 31) - 2  # the largest offset that the C runtime of Windows can lock, minus one
HELD_BY_OTHERS = (errno.EACCES, errno.EDEADLK)


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


posix, windows = _module("fcntl"), _module("msvcrt")


def lock(descriptor: int) -> None:
    """Lock an open file, if the system and the file system support locks.

    Raises:
        BlockingIOError: another process has locked it.
    """
    if posix is not None:
        _lock_file(posix, descriptor, posix.LOCK_EX)
    elif windows is not None:
        _lock_byte(windows, descriptor, windows.LK_NBLCK)


def is_locked(path: Path) -> bool:
    """Return whether another process has locked a file."""
    with suppress(FileNotFoundError, PermissionError, IsADirectoryError), path.open("rb") as file:
        try:
            if posix is not None:
                _lock_file(posix, file.fileno(), posix.LOCK_SH)
            elif windows is not None:
                _lock_byte(windows, file.fileno(), windows.LK_NBLCK)
                _lock_byte(windows, file.fileno(), windows.LK_UNLCK)
        except BlockingIOError:
            return True
    return False


def close(descriptor: int) -> None:
    """Unlock and close a file. Windows releases the locks of a closed file only after a while."""
    if posix is None and windows is not None:
        with suppress(OSError):
            _lock_byte(windows, descriptor, windows.LK_UNLCK)
    os.close(descriptor)


def _lock_file(fcntl: ModuleType, descriptor: int, mode: int) -> None:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, IN_USE) from None
    except OSError:  # no locks, as on old network file systems
        return


def _lock_byte(msvcrt: ModuleType, descriptor: int, mode: int) -> None:
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, mode, 1)
    except OSError as error:
        if error.errno in HELD_BY_OTHERS:
            raise BlockingIOError(errno.EAGAIN, IN_USE) from None
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)

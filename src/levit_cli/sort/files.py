"""Copy, link and move files without ever replacing one.

``place`` gives a file a second name and fails if the name is taken, in one step of the file system, so there is no
moment between a check and a write. Contents are written to a temporary file first, which is then placed.
"""

import ctypes
import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from levit_cli.errors import IS_WINDOWS
from levit_cli.system.atomic import NEW_FILE_FLAGS, sync_folder, temporary_name, write_all

CHUNK_BYTES = 1 << 22
# What file systems without hard links answer; also links to files of others, and too many links of one file.
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
# What copy_file_range answers where it cannot be used.
NO_KERNEL_COPY = {*NO_HARD_LINKS, errno.EXDEV, errno.EBADF, errno.ETXTBSY}
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCL = -100, 1, 4
FAT_INTERVAL_NS = 2_000_000_000  # FAT stores times in steps of 2 seconds
SETS_TIMES_OF_LINKS = os.utime in os.supports_follow_symlinks

Poll = Callable[[], None]


def place(source: str, target: str) -> None:
    """Give a file the name ``target`` as well. Where hard links are not supported, rename it.

    Raises:
        FileExistsError: the name is taken.
        OSError: EXDEV if ``target`` is on another file system.
    """
    if IS_WINDOWS:
        os.rename(source, target)  # fails if the target exists
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _rename_without_replacing(source, target)


def _rename_without_replacing(source: str, target: str) -> None:
    names = os.fsencode(source), os.fsencode(target)
    library = _library()
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, RENAME_EXCL)
        else:
            failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE)
    except AttributeError:
        raise OSError(errno.ENOTSUP, "the file system supports no hard links") from None
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def temporary_of(target: str) -> str:
    """Return the name of the temporary file that becomes ``target``."""
    return os.path.join(os.path.dirname(target), temporary_name(os.path.basename(target)))


def copy_to_temporary(source: str, target: str, poll: Poll) -> str:
    """Copy a file to the temporary file of ``target``, with its times, mode and extended attributes; return its name.

    Where the file system can, the copy shares its blocks with the source.

    Args:
        poll: called after each few megabytes; may raise an exception.

    Raises:
        OSError: the source cannot be read, was changed meanwhile, or the copy cannot be written.
    """
    temporary = temporary_of(target)
    remove(temporary)  # a killed run left it
    with open(source, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file any more")
        descriptor = os.open(temporary, NEW_FILE_FLAGS, 0o600)
        try:
            try:
                copied = _copy_content(file.fileno(), descriptor, poll)
            finally:
                os.close(descriptor)
            if not _is_unchanged(before, os.fstat(file.fileno()), copied):
                raise OSError(errno.EBUSY, "it was changed while it was copied")
            shutil.copystat(source, temporary)
        except BaseException:
            with suppress(OSError):
                remove(temporary)
            raise
    return temporary


def _copy_content(source: int, target: int, poll: Poll) -> int:
    copied = 0
    while count := _copy_chunk(source, target):
        copied += count
        poll()
    return copied


def _copy_chunk(source: int, target: int) -> int:
    """Copy the next bytes, in the kernel if possible; return their number."""
    if hasattr(os, "copy_file_range"):
        try:
            if count := os.copy_file_range(source, target, CHUNK_BYTES):
                return int(count)
        except OSError as error:
            if error.errno not in NO_KERNEL_COPY:
                raise
    chunk = os.read(source, CHUNK_BYTES)
    write_all(target, chunk)
    return len(chunk)


def _is_unchanged(before: os.stat_result, after: os.stat_result, copied: int) -> bool:
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and copied == after.st_size


def link_in_temporary(text: str, target: str, mtime_ns: int) -> str:
    """Make the temporary file of ``target`` a symbolic link with a time of modification; return its name."""
    temporary = temporary_of(target)
    remove(temporary)  # a killed run left it
    os.symlink(text, temporary)
    try:
        if SETS_TIMES_OF_LINKS:
            os.utime(temporary, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    except OSError:
        remove(temporary)
        raise
    return temporary


def sync_files(paths: Iterable[str]) -> None:
    """Write files and folders to the disk, so that they survive a power failure.

    Where the system can, all of a file system is written at once, which is much faster than file by file.
    """
    by_device: dict[int, list[str]] = {}
    for path in paths:
        by_device.setdefault(os.stat(path).st_dev, []).append(path)
    for group in by_device.values():
        if not _is_synced(group[0]):
            for path in group:
                _sync(path)


def _is_synced(path: str) -> bool:
    """Write all of a file system to the disk, if the system can; return whether that was done."""
    syncfs = getattr(_library(), "syncfs", None) if sys.platform == "linux" else None
    if syncfs is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _sync(path: str) -> None:
    if os.path.isdir(path):
        sync_folder(Path(path))
        return
    if IS_WINDOWS and not os.access(path, os.W_OK):
        return  # a read-only file cannot be synced there
    descriptor = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a file if it exists.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a file, or of a symbolic link itself; None if there is none."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_same_file(path: str, other: str) -> bool:
    """Return whether one file has both names. A symbolic link is a file of its own.

    Two paths of a single name, as through a link to its folder, are not two names: removing one would lose the file.
    """
    first, second = status_of(path), status_of(other)
    is_same = first is not None and second is not None and os.path.samestat(first, second)
    return is_same and not is_same_name(path, other)


def is_same_name(path: str, other: str) -> bool:
    """Return whether two paths lead to the same entry of the same folder."""
    (parent, name), (other_parent, other_name) = os.path.split(path), os.path.split(other)
    try:
        return name == other_name and os.path.samefile(parent, other_parent)
    except OSError:
        return False


def same_content(path: str, other: str) -> bool:
    """Return whether two regular files have equal bytes.

    Raises:
        OSError: one of them cannot be read.
    """
    with open(path, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        statuses = os.fstat(first.fileno()), os.fstat(second.fileno())
        if len({status.st_size for status in statuses}) > 1:
            return False
        while chunk := first.read(CHUNK_BYTES):
            if not _continues_with(second, chunk):
                return False
        return not second.read(1)


def _continues_with(file: io.FileIO, chunk: bytes) -> bool:
    rest = memoryview(chunk)
    while rest:
        other = file.read(len(rest))
        if not other or other != rest[: len(other)]:
            return False
        rest = rest[len(other) :]
    return True

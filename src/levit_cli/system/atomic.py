"""Replace files atomically: write a temporary file in the same folder, sync it, rename it over the old one."""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from levit_cli.errors import IS_WINDOWS, OutputError, reason_of

REPLACE_ATTEMPTS = 20  # on Windows, where a virus scanner may have a new file open for a moment
REPLACE_INTERVAL_S = 0.05
CLOSED = -1  # no descriptor has this number
NEW_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically. If that fails, the old file is unchanged.

    If ``path`` is a symbolic link, its target is replaced and the link is kept. A device or a pipe cannot be replaced
    and is written to directly.

    Raises:
        OutputError: the disk is full, or the folder is read-only or missing.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        with writing(path), target.open("wb") as device:
            device.write(content)
        return
    with writing(path):
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".levit-", suffix=".part")
    try:
        with writing(path):
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.chmod(temporary, 0o666 & ~_umask())
            _replace(temporary, target)
    finally:
        with suppress(OSError):  # already renamed, or the disk failed
            os.unlink(temporary)
    sync_folder(target.parent)


def replace_text(path: Path, content: str) -> None:
    """Replace the content of a file atomically with text, encoded as UTF-8."""
    replace_bytes(path, content.encode())


class Replacement:
    """A temporary file that is written in several steps and then replaces another file.

    Its name depends only on the name of the target, so that the next run can remove the file that a killed run left.
    The caller must guarantee exclusive access to the target.

    Attributes:
        size: bytes written so far.

    Raises (each method):
        OutputError: the disk is full, or the folder is read-only or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._temporary = path, path.with_name(temporary_name(path.name))
        self.size = 0
        with writing(path):
            remove_leftover(path)
            self.descriptor = os.open(self._temporary, NEW_FILE_FLAGS, 0o666)

    def write(self, data: bytes) -> None:
        with writing(self.path):
            write_all(self.descriptor, data)
        self.size += len(data)

    def sync(self) -> None:
        """Complete the temporary file. If the target exists, give the file its permissions."""
        with writing(self.path):
            with suppress(FileNotFoundError):
                os.chmod(self._temporary, stat.S_IMODE(os.stat(self.path).st_mode))
            os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the temporary file. Windows replaces no file that is open."""
        descriptor, self.descriptor = self.descriptor, CLOSED
        with suppress(OSError):  # it is closed already, or was synced
            os.close(descriptor)

    def commit(self) -> None:
        """Replace the target with the synced file. The descriptor stays open unless it was closed."""
        with writing(self.path):
            _replace(self._temporary, self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Close and remove the temporary file."""
        self.close()
        remove_leftover(self.path)


def same_file(path: str, other: str) -> bool:
    """Return whether both paths name the same existing file."""
    with suppress(OSError):
        return os.path.samefile(path, other)
    return False


def remove_leftover(path: Path) -> None:
    """Remove the temporary file that a killed run left for ``path``."""
    with suppress(OSError):
        path.with_name(temporary_name(path.name)).unlink()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read at most ``length`` bytes at an offset and keep the descriptor's position.

    Where the system has no ``pread``, no other thread may use the descriptor meanwhile.
    """
    if hasattr(os, "pread"):
        content: bytes = os.pread(descriptor, length, offset)
        return content
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a descriptor. A single ``os.write`` may write only some of them."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` into an ``OutputError`` that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {path}", why=reason_of(error)) from error


def temporary_name(name: str) -> str:
    """Return the name of the temporary file or folder that later replaces ``name``."""
    # a hash, because the name may already have the maximum length
    return f".levit-{blake2b(os.fsencode(name), digest_size=8).hexdigest()}.part"


def _replace(source: str | Path, target: Path) -> None:
    """Rename a file over another one. On Windows, wait a second for programs that have one of them open."""
    for _ in range(REPLACE_ATTEMPTS if IS_WINDOWS else 0):
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(REPLACE_INTERVAL_S)
    os.replace(source, target)


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read the mask is to set it
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure. Ignore systems that cannot sync folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

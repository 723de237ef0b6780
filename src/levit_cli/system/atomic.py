"""Files that are always either the old one or the new one: written beside, synced, renamed over."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from levit_cli.errors import OutputError

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def replace_bytes(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step, or leave what stands there.

    A symbolic link stays, and what it leads to is replaced. A device or a pipe, which nothing can take the place of, is
    written to.

    Raises:
        OutputError: disk full, read-only, folder missing.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        with writing(path), place.open("wb") as device:
            device.write(content)
        return
    with writing(path):
        descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=".levit-", suffix=".part")
    try:
        with writing(path):
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, place)
    finally:
        with suppress(OSError):  # it is not there any more, or the disk has worse troubles
            os.unlink(temporary)
    _sync_folder(place.parent)


def replace_text(path: Path, content: str) -> None:
    """The same for UTF-8 text."""
    replace_bytes(path, content.encode())


class Replacement:
    """A file that is written bit by bit and then takes the place of another.

    Its name is always the same for the same target, so that what a killed run leaves is gone with the next. Who makes
    one must know that nobody else does.

    Attributes:
        size: bytes written so far.

    Raises (each method):
        OutputError: disk full, read-only, folder missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._temporary = path, path.with_name(_name_beside(path.name))
        self.size = 0
        with writing(path):
            remove_leftover(path)
            self.descriptor = os.open(self._temporary, NEW, 0o666)

    def write(self, data: bytes) -> None:
        with writing(self.path):
            write_all(self.descriptor, data)
        self.size += len(data)

    def settle(self) -> None:
        """Take the place of the other file, and its permissions if there is one. The descriptor stays open."""
        with writing(self.path):
            with suppress(FileNotFoundError):
                os.chmod(self._temporary, stat.S_IMODE(os.stat(self.path).st_mode))
            os.fsync(self.descriptor)
            os.replace(self._temporary, self.path)
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
        remove_leftover(self.path)


def same_file(path: str, other: str) -> bool:
    """Whether both name one existing file."""
    with suppress(OSError):
        return os.path.samefile(path, other)
    return False


def remove_leftover(path: Path) -> None:
    """Take away what a killed run wrote beside ``path``."""
    with suppress(OSError):
        path.with_name(_name_beside(path.name)).unlink()


def write_all(descriptor: int, data: bytes) -> None:
    """Write until everything is written, or the system says why not."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system says becomes an ``OutputError`` that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {path}", why=error.strerror or str(error)) from error


def _name_beside(name: str) -> str:
    return f".levit-{blake2b(os.fsencode(name), digest_size=8).hexdigest()}.part"  # as short for the longest name


def _umask() -> int:
    mask = os.umask(0o022)  # there is no way to only look
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; not every system lets a folder be synced, and then it is as good as it gets."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

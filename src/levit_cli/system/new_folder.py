"""Create a folder with all its files in one step: fill a temporary folder beside it, then rename that."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from levit_cli.errors import IS_WINDOWS, UsageError
from levit_cli.system import locking
from levit_cli.system.atomic import CLOSED, sync_folder, temporary_name, writing
from levit_cli.system.output import require_free


def require_new(path: Path) -> None:
    """Check that a folder can be created, before any work is done.

    Raises:
        UsageError: it exists, even if it is empty.
        OutputError: the folder that it lies in is missing or read-only.
    """
    if os.path.lexists(path):
        raise UsageError(f"The output {path} exists", why="it was not touched", hint="choose another name")
    require_free(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create the folder ``path`` at the end of the block, with the files that the block writes to the one it gets.

    If the block raises an exception, nothing is left. The next run removes what a killed run left.

    Raises:
        UsageError: ``path`` exists.
        OutputError: ``path`` cannot be created, or another run is creating it.
    """
    require_new(path)
    temporary = path.with_name(temporary_name(path.name))
    with _reserved(temporary, path):
        try:
            yield temporary
            with writing(path):
                _sync(temporary)
                require_new(path)  # a folder would be replaced if it is empty
                os.rename(temporary, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _reserved(folder: Path, path: Path) -> Iterator[None]:
    """Create an empty folder that no other run uses until the end of the block."""
    with writing(path):
        folder.mkdir(exist_ok=True)
        descriptor = _locked(folder)
    try:
        with writing(path):
            for entry in folder.iterdir():  # a killed run left it
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield
    finally:
        with suppress(OSError):  # it is CLOSED on Windows
            os.close(descriptor)


def _locked(folder: Path) -> int:
    """Lock a folder and return its descriptor. Windows opens no folders; its runs are not locked."""
    if IS_WINDOWS:
        return CLOSED
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locking.lock(descriptor)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # another run has just finished
            raise BlockingIOError(errno.EAGAIN, locking.IN_USE)
    except OSError:
        with suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor


def _sync(folder: Path) -> None:
    """Write all files of a folder to the disk, so that they survive a power failure."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)

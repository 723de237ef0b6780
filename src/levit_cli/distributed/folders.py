"""The folder that a run on many machines writes: on this machine, or in object storage. Each file appears complete."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from levit_cli.data.remote.names import url_of, without_secrets
from levit_cli.errors import IS_WINDOWS, OutputError
from levit_cli.system import locking
from levit_cli.system.atomic import replace_bytes, writing


class Folder(Protocol):
    """A flat folder of small files.

    Attributes:
        name: as the user named it, without secrets.

    Raises (each method):
        OutputError: the folder cannot be written or read.
    """

    name: str

    def names(self) -> list[str]:
        """Return the names of all files in the folder; an empty list if it does not exist."""

    def read(self, name: str) -> bytes: ...
    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file atomically."""

    def remove(self, name: str) -> None: ...


@contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Yield the folder with this name.

    A local one is created, and locked against other runs until the block ends. It is removed again if an exception
    leaves it empty.

    Raises:
        OutputError: it cannot be written, is a file, or another run is writing to it.
    """
    url = url_of(path)
    if url is not None:
        yield _RemoteFolder(url)
        return
    is_new = not path.exists()
    if not is_new and not path.is_dir():
        raise OutputError(f"Cannot write {path}", why="it is a file", hint="choose the name of a folder")
    with writing(path):
        path.mkdir(exist_ok=True)
    descriptor = _locked(path)
    try:
        yield _LocalFolder(path)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it has files
                path.rmdir()
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Lock a folder and return its descriptor. Windows opens no folders; its runs are not locked."""
    if IS_WINDOWS:
        return None
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            locking.lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


class _LocalFolder:
    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)

    def names(self) -> list[str]:
        with writing(self._path):
            return sorted(os.listdir(self._path))

    def read(self, name: str) -> bytes:
        with writing(self._path / name):
            return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        replace_bytes(self._path / name, content)

    def remove(self, name: str) -> None:
        with writing(self._path / name):
            (self._path / name).unlink(missing_ok=True)


class _RemoteFolder:
    def __init__(self, url: str) -> None:
        from levit_cli.data.remote.stores import open_store  # imported here because few runs need it

        self.name = without_secrets(url)
        with self._storing():
            self._store, path = open_store(url)
        self._path = path.rstrip("/")

    @contextmanager
    def _storing(self) -> Iterator[None]:
        from levit_cli.data.remote.retry import RemoteError

        try:
            yield
        except RemoteError as error:
            hint = "check the name, the credentials and the network"
            raise OutputError(f"Cannot write {self.name}", why=str(error), hint=hint) from None

    def names(self) -> list[str]:
        with self._storing():
            found = [entry for entry in self._store.level(self._path) if not entry.is_folder]
        return [entry.path.rpartition("/")[2] for entry in found]

    def read(self, name: str) -> bytes:
        with self._storing(), tempfile.TemporaryDirectory(prefix="levit-") as folder:
            local = Path(folder) / "file"
            self._store.download(f"{self._path}/{name}", str(local))
            return local.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self._storing(), tempfile.TemporaryDirectory(prefix="levit-") as folder:
            local = Path(folder) / "file"
            local.write_bytes(content)
            self._store.upload(str(local), f"{self._path}/{name}")

    def remove(self, name: str) -> None:
        with self._storing():
            self._store.remove(f"{self._path}/{name}")

"""A lock holds against other runs, with ``flock`` and with the byte locks of Windows."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from levit_cli.system import locking


class FakeMsvcrt(ModuleType):
    """The byte locks of Windows: each belongs to the descriptor that set it."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, descriptor: int, mode: int, num_bytes: int) -> None:
        assert num_bytes == 1
        byte = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if mode == self.LK_UNLCK:
            if self.held.get(byte) != descriptor:
                raise PermissionError(errno.EACCES, "Permission denied")
            del self.held[byte]
        elif byte in self.held:
            raise PermissionError(errno.EACCES, "Permission denied")
        else:
            self.held[byte] = descriptor


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which locks there are."""
    if request.param == "windows":
        monkeypatch.setattr(locking, "posix", None)
        monkeypatch.setattr(locking, "windows", FakeMsvcrt())
    elif locking.posix is None:
        pytest.skip("this system has no flock")
    name: str = request.param
    return name


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        locking.close(descriptor)


@pytest.mark.usefixtures("system")
def test_a_locked_file_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"content")
    assert not locking.is_locked(path)
    with opened(path) as first, opened(path) as second:
        os.lseek(first, 3, os.SEEK_SET)
        locking.lock(first)
        assert os.lseek(first, 0, os.SEEK_CUR) == 3
        assert locking.is_locked(path)
        with pytest.raises(BlockingIOError, match="another run is writing to it"):
            locking.lock(second)
        assert os.read(second, 99) == b"content"
    assert not locking.is_locked(path)
    with opened(path) as third:
        locking.lock(third)


@pytest.mark.usefixtures("system")
def test_a_missing_file_and_a_folder_are_not_locked(tmp_path: Path) -> None:
    assert not locking.is_locked(tmp_path / "missing")
    assert not locking.is_locked(tmp_path)


def test_a_file_system_without_locks_locks_nothing(
    tmp_path: Path, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    names = dict.fromkeys(("LOCK_EX", "LOCK_SH", "LOCK_NB", "LK_NBLCK", "LK_UNLCK"), 0)
    monkeypatch.setattr(locking, system, SimpleNamespace(flock=unsupported, locking=unsupported, **names))
    (tmp_path / "out").touch()
    with opened(tmp_path / "out") as descriptor:
        locking.lock(descriptor)
        assert not locking.is_locked(tmp_path / "out")


def test_without_any_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "posix", None)
    monkeypatch.setattr(locking, "windows", None)
    (tmp_path / "out").touch()
    with opened(tmp_path / "out") as first, opened(tmp_path / "out") as second:
        locking.lock(first)
        locking.lock(second)
        assert not locking.is_locked(tmp_path / "out")

"""Make the Nth system call on a folder fail, or all from the Nth on.

Python's functions that open, read, write, rename or close a file are wrapped, including ``open``. C libraries are not.
Only calls on files of the folder are counted, so Python itself keeps working.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from typing import Any

BY_PATH = (
    *("open", "replace", "rename", "unlink", "mkdir", "scandir", "listdir", "chmod", "utime", "link", "symlink"),
    "rmdir",
)
BY_DESCRIPTOR = ("read", "pread", "write", "fsync", "ftruncate", "lseek", "close", "fdopen", "copy_file_range")
LOOKS = ("stat", "lstat", "readlink")  # their failures are rare, so a scenario must ask for them
BY_EITHER = ("setxattr", "getxattr")
CODES = {"read": errno.EIO, "write": errno.ENOSPC, "other": errno.EIO}


class Injection:
    """Counts system calls and makes some of them fail.

    Args:
        folder: calls on its files are counted.
        number: of the first call that fails, from 1.
        lasting: all calls after it fail, too.
        looks: also calls that only look at files.
    """

    def __init__(self, folder: str, number: int, *, lasting: bool, looks: bool = False) -> None:
        self._names = (*BY_PATH, *BY_DESCRIPTOR, *BY_EITHER, *LOOKS * looks)
        self.folder, self.number, self.lasting = os.fsencode(os.path.realpath(folder)), number, lasting
        self.calls: list[str] = []
        self._readlink = os.readlink

    def install(self) -> None:
        for name in self._names:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        io.open = builtins.open = self._opened

    def check(self, name: str, target: object) -> None:
        """Count a call.

        Raises:
            OSError: the call is one of those that fail.
        """
        if not self._concerns(target):
            return
        self.calls.append(name)
        number = len(self.calls)
        if number == self.number or (self.lasting and number > self.number):
            code = errno.ENOSPC if name in ("write", "fsync", "mkdir") else errno.EIO
            raise OSError(code, os.strerror(code))

    def _concerns(self, target: object) -> bool:
        if isinstance(target, int):
            try:
                target = self._readlink(f"/proc/self/fd/{target}")
            except OSError:
                return False
        if not isinstance(target, (str, bytes, os.PathLike)):
            return False
        return os.path.abspath(os.fsencode(target)).startswith(self.folder)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                self.check(name, arguments[0] if arguments else None)
            except OSError:
                if name == "close":  # the descriptor is closed in spite of the error
                    original(*arguments, **options)
                raise
            return original(*arguments, **options)

        return call

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        self.check("open", file)
        if not self._concerns(file):
            return ORIGINAL_OPEN(file, mode, buffering, *arguments, **options)
        raw = _FaultyFile(self, file, mode.replace("b", "").replace("t", ""), options.pop("closefd", True))
        options.pop("opener", None)
        buffered = io.BufferedReader(raw) if mode.strip("bt") == "r" else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *arguments, **options)


ORIGINAL_OPEN = io.open


class _FaultyFile(io.FileIO):
    def __init__(self, injection: Injection, file: Any, mode: str, closefd: bool) -> None:
        super().__init__(file, mode, closefd)
        self._injection, self._target = injection, file if not isinstance(file, int) else self.fileno()

    def readinto(self, buffer: Any, /) -> int:
        self._injection.check("file.read", self._target)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._injection.check("file.read", self._target)
        return super().readall()

    def read(self, size: int | None = -1, /) -> bytes:
        self._injection.check("file.read", self._target)
        return super().read(-1 if size is None else size)

    def write(self, data: Any, /) -> int:
        self._injection.check("write", self._target)
        return super().write(data)

    def close(self) -> None:
        failing = not self.closed
        super().close()
        if failing:
            self._injection.check("close", self._target if not isinstance(self._target, int) else None)

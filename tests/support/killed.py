"""Simulate SIGKILL during a system call inside the test process: the call raises and nothing after it runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CALLS = ("write", "ftruncate", "replace", "fsync", "unlink")


class KilledError(BaseException):
    """Ends the code under test. Nothing catches it, as nothing runs after SIGKILL."""


@contextmanager
def dies_at(number: int, folder: Path) -> Iterator[list[str]]:
    """Raise ``KilledError`` at a system call and at all after it, and yield the names of the calls made so far.

    A write writes half of its bytes first. At the end, the files that are open in the folder are closed, which
    releases their locks.

    Args:
        number: of the system call, from 1.
    """
    calls: list[str] = []
    originals = {name: getattr(os, name) for name in CALLS}
    for name, original in originals.items():
        setattr(os, name, _dying(name, original, number, calls))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        _close_all_in(folder)


def _dying(name: str, original: Callable[..., object], number: int, calls: list[str]) -> Callable[..., object]:
    def call(*arguments: Any) -> object:
        calls.append(name)
        if len(calls) == number and name == "write":
            original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        if len(calls) >= number:
            raise KilledError
        return original(*arguments)

    return call


def _close_all_in(folder: Path) -> None:
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(folder)):
                os.close(int(descriptor))

"""A process that is killed amid a call to the system, without a process: the call does not come back."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CALLS = ("write", "ftruncate", "replace", "fsync", "unlink")


class KilledError(BaseException):
    """Nothing after this happens, as after SIGKILL."""


@contextmanager
def dies_at(number: int, folder: Path) -> Iterator[list[str]]:
    """The system call of that number does not come back; of a write, half is done. Yields the calls that were made.

    At the end, what was open in the folder is closed, and with it go the locks.
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

"""Run ``levit`` in forked processes in which chosen system calls fail."""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.faults.injection import Injection
from tests.support.fork_server import LIGHT

LIMIT_S = 300


class Outcome(NamedTuple):
    """The end of a run, and the names of the system calls that were counted."""

    code: int
    calls: list[str]
    stdout: bytes
    stderr: bytes


class Driver:
    """Runs ``levit`` while system calls on a folder fail.

    Args:
        folder: calls on its files are counted and may fail.
        scratch: holds the output of a run.
        modules: imported once, before the first fork.
        looks: calls that only look at files are counted, too.
    """

    def __init__(
        self, folder: Path, scratch: Path, modules: tuple[str, ...] = LIGHT, *, looks: bool = False
    ) -> None:  # fmt: skip
        for module in modules:
            import_module(module)
        self._folder, self._scratch, self._looks = folder, scratch, looks

    def run(self, *arguments: str | Path, fail: int = 0, lasting: bool = False) -> Outcome:
        """Run ``levit`` while the call number ``fail`` fails, and with ``lasting`` all after it. 0: none fails."""
        files = [self._scratch / name for name in ("stdout", "stderr", "calls")]
        child = os.fork()
        if child == 0:
            injection = Injection(str(self._folder), fail, lasting=lasting, looks=self._looks)
            _become_levit([*map(str, arguments)], injection, files)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(LIMIT_S)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.alarm(0)
        stdout, stderr, calls = (path.read_bytes() for path in files)
        return Outcome(code, json.loads(calls or b"[]"), stdout, stderr)


def _become_levit(arguments: list[str], injection: Injection, files: list[Path]) -> NoReturn:
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in files]
    for standard, descriptor in enumerate(descriptors[:2], start=1):
        os.dup2(descriptor, standard)
    leave, write = os._exit, os.write

    def count_and_leave(status: int) -> NoReturn:
        write(descriptors[2], json.dumps(injection.calls).encode())
        leave(status)

    os._exit = count_and_leave
    from levit_cli.cli import main

    sys.argv = ["levit", *arguments]
    if injection.number:
        injection.install()
    try:
        main()
    except BaseException as error:
        write(2, f"Traceback would follow: {error!r}".encode())
    count_and_leave(99)

"""``levit`` in children of one process, which has imported everything; in each, another call to the system may fail."""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.faults.injection import Injection

LIMIT_S = 300
PREDICTING = tuple(f"levit_cli.{name}" for name in ("checkpoints", "convert", "engines.openvino", "predict.run"))
TRAINING = (
    *PREDICTING,
    "levit_cli.finetune.run",
    "levit_cli.eval.metrics",
    "matplotlib.backends.backend_agg",
)


class Outcome(NamedTuple):
    """How a run ended, and the calls to the system that were counted."""

    code: int
    calls: list[str]
    stdout: bytes
    stderr: bytes


class Driver:
    """Runs ``levit`` where the calls that concern a folder may fail.

    Args:
        scratch: where what it says is kept.
        modules: imported here, as each child would do it again.
    """

    def __init__(self, folder: Path, scratch: Path, modules: tuple[str, ...] = PREDICTING) -> None:
        for module in modules:
            import_module(module)
        self._folder, self._scratch = folder, scratch

    def run(self, *arguments: str | Path, fail: int = 0, lasting: bool = False) -> Outcome:
        """``levit``; the call number ``fail`` does not succeed, and none behind it if that is lasting."""
        files = [self._scratch / name for name in ("stdout", "stderr", "calls")]
        child = os.fork()
        if child == 0:
            _be_levit([*map(str, arguments)], Injection(str(self._folder), fail, lasting=lasting), files)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(LIMIT_S)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.alarm(0)
        stdout, stderr, calls = (path.read_bytes() for path in files)
        return Outcome(code, json.loads(calls or b"[]"), stdout, stderr)


def _be_levit(arguments: list[str], injection: Injection, files: list[Path]) -> NoReturn:
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

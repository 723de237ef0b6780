"""The error handler: turn every exception into one message on stderr and an exit code.

A traceback is printed with ``--debug`` only.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, ParamSpec, Protocol

from levit_cli.errors import ExitCode, LevitError, Terminated
from levit_cli.system.progress import log
from levit_cli.system.signals import raise_on_signals

P = ParamSpec("P")
BUG_REPORT = "This is a bug in levit. Please report it with the output of the same command and --debug"


class Result(Protocol):
    """What a command returns: an ``ExitCode`` or an object that has one."""

    @property
    def exit_code(self) -> ExitCode: ...


def handle_errors(command: Callable[P, Result]) -> Callable[P, NoReturn]:
    """Wrap a command so that it ends in ``sys.exit`` with its exit code, also when it raises."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise_on_signals()
        try:
            result = command(*args, **kwargs)  # keeps its engine until the process ends: freeing that takes time
            code = result.exit_code
        except BaseException as error:
            code = _code(error)
            _report(error, debug=bool(kwargs.get("debug")))
        sys.exit(int(code))

    return guarded


def exit_now(code: int | str | None) -> NoReturn:
    """Flush stdout and stderr and end the process at once.

    An orderly shutdown of the interpreter and the engine's libraries takes 0.2 s, a quarter of a cold start, and waits
    for the threads that read and decode.
    """
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = ExitCode.BROKEN_PIPE
    except (OSError, ValueError):
        code = code or ExitCode.OUTPUT
    os._exit(code if isinstance(code, int) else ExitCode.OK if code is None else ExitCode.SOME_FAILED)


def _code(error: BaseException) -> ExitCode:
    if isinstance(error, LevitError):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return ExitCode.BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, Terminated):
        return ExitCode.TERMINATED
    return ExitCode.BUG


def _report(error: BaseException, *, debug: bool) -> None:
    if isinstance(error, BrokenPipeError):
        return
    if debug:
        traceback.print_exception(error)
    if isinstance(error, LevitError):
        log(f"Error: {error}")
    elif isinstance(error, (KeyboardInterrupt, Terminated)):
        log("Stopped. Finished results are written.")
    else:
        log(f"Error: {type(error).__name__}: {error} · {BUG_REPORT}")

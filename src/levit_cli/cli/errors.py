"""The one door through which errors leave: a message on stderr, an exit code, and never a traceback unasked."""

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
BUG_REPORT = "This is a bug of levit. Please report it with the output of the same command and --debug"


class Result(Protocol):
    """What a command ends in: an exit code, or something that has one."""

    @property
    def exit_code(self) -> ExitCode: ...


def handle_errors(command: Callable[P, Result]) -> Callable[P, NoReturn]:
    """Wrap a command so that it always ends in ``sys.exit`` with its code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise_on_signals()
        try:
            result = command(*args, **kwargs)  # alive until the process ends, see ``Outcome``
            code = result.exit_code
        except BaseException as error:
            code = _code(error)
            _report(error, debug=bool(kwargs.get("debug")))
        sys.exit(int(code))

    return guarded


def leave(code: int | str | None) -> NoReturn:
    """End the process at once, what is written flushed.

    Taking the interpreter and the network's libraries down in good order takes 0.2 s, a fourth of a cold start, and
    would wait for threads that read or decode.
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
        log("Stopped. What was finished is written.")
    else:
        log(f"Error: {type(error).__name__}: {error} · {BUG_REPORT}")

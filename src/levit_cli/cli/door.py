"""The one door through which errors leave: a message on stderr, an exit code, and never a traceback unasked."""

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, ParamSpec

from levit_cli.errors import ExitCode, LevitError, Terminated
from levit_cli.output import discard_stdout

P = ParamSpec("P")
BUG_REPORT = "This is a bug of levit. Please report it with the output of the same command and --debug"


def door(command: Callable[P, ExitCode]) -> Callable[P, NoReturn]:
    """Wrap a command so that it always ends in ``sys.exit`` with its code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            code = command(*args, **kwargs)
            _flush()
        except BaseException as error:
            code = _code(error)
            _say(error, debug=bool(kwargs.get("debug")))
            _leave_quietly()
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            os._exit(code)  # threads that read or decode may take longer than anyone wants to wait
        sys.exit(int(code))

    return guarded


def _terminate(signum: int, _: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
    raise Terminated


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


def _say(error: BaseException, *, debug: bool) -> None:
    if isinstance(error, BrokenPipeError):
        return
    if debug:
        traceback.print_exception(error)
    if isinstance(error, LevitError):
        say(f"Error: {error}")
    elif isinstance(error, (KeyboardInterrupt, Terminated)):
        say("Stopped. What was finished is written.")
    else:
        say(f"Error: {type(error).__name__}: {error} · {BUG_REPORT}")


def say(message: str) -> None:
    """A line for people. That stderr is closed is no reason to stop."""
    with suppress(OSError, ValueError, AttributeError):
        print(message, file=sys.stderr, flush=True)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _leave_quietly() -> None:
    """Nothing may fail any more: what cannot be written is dropped."""
    try:
        _flush()
    except (OSError, ValueError):
        discard_stdout()

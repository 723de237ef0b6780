"""Error handler: convert every exception to one message on stderr and an exit code.

A traceback is printed with ``--debug`` only.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, ParamSpec

from levit_cli.errors import ExitCode, LevitError, Terminated, is_broken_pipe
from levit_cli.system.progress import log
from levit_cli.system.signals import raise_on_signals

P = ParamSpec("P")
BUG_REPORT = "This is a bug in levit. Please run the same command with --debug and report its output"


def handle_errors(command: Callable[P, ExitCode]) -> Callable[P, NoReturn]:
    """Wrap a command so that it always ends with ``sys.exit`` and its exit code, even if it raises an exception."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise_on_signals()
        try:
            code = command(*args, **kwargs)
        except BaseException as error:
            code = _exit_code_of(error)
            _report(error, debug=bool(kwargs.get("debug")))
        sys.exit(int(code))

    return wrapper


def exit_now(code: int | str | None) -> NoReturn:
    """Flush stdout and stderr and end the process at once.

    An orderly shutdown of the interpreter and the engine's libraries takes 0.2 s, a quarter of a cold start. It also
    waits for the threads that read and decode images.
    """
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        code = ExitCode.BROKEN_PIPE if is_broken_pipe(error) else code or ExitCode.OUTPUT
    os._exit(code if isinstance(code, int) else ExitCode.OK if code is None else ExitCode.SOME_FAILED)


def _exit_code_of(error: BaseException) -> ExitCode:
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
        log("Stopped. Results that were already written are kept.")
    else:
        log(f"Error: {type(error).__name__}: {error} · {BUG_REPORT}")

"""Define the exit codes and exceptions.

A ``LevitError`` ends the command and carries its exit code; the error handler in ``cli`` prints its message.
An ``InputError`` concerns one input only: it becomes the error record of that input, and the run continues.
"""

import errno
import os
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any, ClassVar, Literal

IS_WINDOWS = os.name == "nt"


class ExitCode(IntEnum):
    """The exit codes of ``levit``. Scripts rely on these numbers."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    REFUSED = 3
    OUTPUT = 4
    UNREACHABLE = 5
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class LevitError(Exception):
    """An error that ends the command and is reported to the user.

    Args:
        what: what happened; names the path.
        why: the reason, if known.
        hint: what the user can do next.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(" · ".join(part for part in (what, why, hint) if part))
        self.what, self.why, self.hint = what, why, hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with all its parts, so that another process can raise it."""
        return partial(type(self), why=self.why, hint=self.hint), (self.what,)


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in words: for an ``OSError`` without its number and path."""
    return str(getattr(error, "strerror", None) or error)


def is_broken_pipe(error: BaseException) -> bool:
    """Return whether an error means that the reader of a pipe closed it. Windows reports an invalid argument."""
    return isinstance(error, BrokenPipeError) or (
        IS_WINDOWS and isinstance(error, OSError) and error.errno == errno.EINVAL
    )


class UsageError(LevitError):
    """The command line cannot be executed, for example because there are no inputs or the output exists."""

    exit_code = ExitCode.USAGE


def raise_faults(faults: Sequence[UsageError]) -> None:
    """Raise the faults of a command line, if there are any. Several become one error that names all of them."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        texts = ["; ".join(filter(None, (fault.what, fault.why, fault.hint))) for fault in faults]
        numbered = (f"({number}) {text}" for number, text in enumerate(texts, start=1))
        raise UsageError(f"The command line has {len(faults)} faults", why=" · ".join(numbered))


class RefusedError(LevitError):
    """A model, checkpoint, label file or device cannot be used. Nothing was classified."""

    exit_code = ExitCode.REFUSED


class OutputError(LevitError):
    """The output cannot be written: the disk is full, or the folder is read-only or missing."""

    exit_code = ExitCode.OUTPUT


class UnreachableError(LevitError):
    """The hub or the network is needed but not available, and nothing is cached."""

    exit_code = ExitCode.UNREACHABLE


class GateError(LevitError):
    """A result does not meet a limit, such as that an exported model answers like the original. Nothing was written."""

    exit_code = ExitCode.SOME_FAILED


class TrainingStoppedError(LevitError):
    """Training stopped before its last epoch. The run folder keeps what was saved."""

    exit_code = ExitCode.SOME_FAILED


class Terminated(BaseException):
    """SIGTERM was received. As with ``KeyboardInterrupt``, ``except Exception`` does not catch it."""


InputErrorKind = Literal[
    "not_found",
    "permission",
    "not_regular",
    "empty_file",
    "not_an_image",
    "format_not_allowed",
    "truncated",
    "corrupt",
    "too_large",
    "extreme_aspect",
    "unsupported_mode",
    "decoder_crashed",
    "timeout",
    "download",
    "non_finite",
]


class InputError(Exception):
    """One input cannot be classified. It gets an error record, and the run continues.

    Args:
        kind: stable name of the error, on which scripts can rely.
        message: explanation for people. It gives sizes and limits, but not the path, which is in the record.
        path: the input, if the error is raised to a caller of the Python API. It is not part of the record's message.
    """

    def __init__(self, kind: InputErrorKind, message: str, path: str = "") -> None:
        super().__init__(kind, message, path)  # all arguments, so that the error can be pickled
        self.kind: InputErrorKind = kind
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

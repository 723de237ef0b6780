"""Exit codes and exceptions.

A ``LevitError`` ends the command and carries its exit code; the error handler in ``cli`` prints its message.
An ``InputError`` concerns one input only: it becomes that input's record, and the run continues.
"""

from enum import IntEnum
from typing import ClassVar, Literal


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

    @property
    def exit_code(self) -> "ExitCode":
        """The code itself, so that a command may return a code or a result that has one."""
        return self


class LevitError(Exception):
    """An error to report to the user.

    Args:
        what: what happened; names the path.
        why: the reason, if known.
        hint: what the user can do next.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(" · ".join(part for part in (what, why, hint) if part))
        self.what, self.why, self.hint = what, why, hint


class UsageError(LevitError):
    """The command line cannot be carried out: no inputs, the output exists."""

    exit_code = ExitCode.USAGE


class RefusedError(LevitError):
    """A model, checkpoint, label file or device cannot be used. Nothing was classified."""

    exit_code = ExitCode.REFUSED


class OutputError(LevitError):
    """The output cannot be written: disk full, read-only, folder missing."""

    exit_code = ExitCode.OUTPUT


class UnreachableError(LevitError):
    """The hub or the network is needed but not available, and nothing is cached."""

    exit_code = ExitCode.UNREACHABLE


class TrainingStoppedError(LevitError):
    """Training stopped before its last epoch. The run folder keeps what was saved."""

    exit_code = ExitCode.SOME_FAILED


class Terminated(BaseException):
    """SIGTERM arrived. It is no ``Exception``, so ``except Exception`` does not catch it."""


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
        kind: stable name of the error, for scripts.
        message: text for people. It names sizes and limits, but not the path, which the record holds.
    """

    def __init__(self, kind: InputErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: InputErrorKind = kind
        self.message = message

"""Every way in which levit says no: exit codes, the errors that carry them, and the kinds of bad input.

A ``LevitError`` ends the command and knows its exit code; ``cli`` turns it into one message in one place.
An ``InputError`` ends one image only: it is a value in the stream of predictions and never an exit.
"""

from enum import IntEnum
from typing import ClassVar, Literal


class ExitCode(IntEnum):
    """What the shell sees. Scripts rely on these numbers."""

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
        """Itself: a command may end in a code, or in a result that has one."""
        return self


class LevitError(Exception):
    """An error for the user: what happened, why, and what to do next."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(" · ".join(part for part in (what, why, hint) if part))
        self.what, self.why, self.hint = what, why, hint


class UsageError(LevitError):
    """The command line asks for something that cannot be: no inputs, the output exists."""

    exit_code = ExitCode.USAGE


class RefusedError(LevitError):
    """A model, checkpoint, label list or device is refused; nothing was classified."""

    exit_code = ExitCode.REFUSED


class OutputError(LevitError):
    """The output cannot be written: disk full, read-only, folder missing."""

    exit_code = ExitCode.OUTPUT


class UnreachableError(LevitError):
    """The hub or the network is needed, does not answer, and nothing is cached."""

    exit_code = ExitCode.UNREACHABLE


class TrainingStoppedError(LevitError):
    """Long work ended before its end; what it had come to is kept."""

    exit_code = ExitCode.SOME_FAILED


class Terminated(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that nothing on the way out mistakes it for a failure."""


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
    """One input that cannot be classified; becomes its record, the run goes on.

    Args:
        kind: one of ``InputErrorKind``; stable, for scripts.
        message: for people; names sizes and limits, never the path (the record has it).
    """

    def __init__(self, kind: InputErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: InputErrorKind = kind
        self.message = message

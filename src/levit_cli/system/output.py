"""Where predictions go: standard output, or a file that this run alone writes.

Whatever the disk says becomes an ``OutputError``. A file is opened and locked before there is anything to write, so
that what would fail fails before a model is loaded; until the first write it stays as it is.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import BinaryIO, Protocol, TypeVar

from levit_cli.errors import LevitError, OutputError, UsageError
from levit_cli.system.atomic import Replacement, remove_leftover, replace_bytes, same_file, write_all, writing
from levit_cli.system.signals import deferred_signals

locks: ModuleType | None
try:
    import fcntl as locks
except ImportError:  # a system without: nothing is locked there
    locks = None

IN_USE = "another run is writing it"


def require_free(
    output: Path | None,
    inputs: Iterable[str | Path] = (),
    *,
    overwrite: bool = False,
    resume: bool | None = None,
    replaces: bool = True,
    folder: bool = False,
) -> None:
    """Find out before any work whether an output may be written.

    Args:
        output: None is standard output, which always may.
        inputs: files that it must not be.
        resume: None for a command that has no ``--resume``.
        replaces: an existing file is replaced by a new one, for which its folder must be writable.
        folder: the output may be a folder; an empty one is free.

    Raises:
        UsageError: it exists and neither ``overwrite`` nor ``resume`` was given, or it is one of the inputs.
        OutputError: it is a folder, its own folder is missing or read-only, or another run writes it.
    """
    if output is None:
        return
    if not output.exists():
        _require_writable_folder(output)
    elif any(same_file(str(output), str(path)) for path in inputs):
        raise UsageError(f"The output {output} is also an input", why="it was not touched")
    elif output.is_dir() and not folder:
        raise OutputError(f"Cannot write {output}", why="it is a folder")
    elif not (overwrite or resume) and _holds_something(output):
        raise _exists(output, can_resume=resume is not None)
    elif output.is_file() and replaces:
        _require_writable_folder(Path(os.path.realpath(output)))


def _holds_something(output: Path) -> bool:
    """Whether writing loses something: not for devices and pipes, nor for an empty folder."""
    return output.is_file() or (output.is_dir() and any(output.iterdir()))


def _require_writable_folder(output: Path) -> None:
    if not os.access(output.parent, os.W_OK):
        why = "it may not be written to" if output.parent.is_dir() else "it does not exist"
        raise OutputError(f"Cannot write {output}", why=f"its folder: {why}")


F = TypeVar("F")


def choose_format(asked: F | None, output: Path | None, by_suffix: Mapping[str, F], default: F, hint: str = "") -> F:
    """The format of an output: ``--format`` wins, then the suffix of ``-o``.

    Args:
        by_suffix: formats by suffix, lower case with its dot; a suffix of "" stands for a name without one.
        default: where there is no ``-o``.
        hint: what to do instead, for a suffix that is none of these.

    Raises:
        UsageError: the suffix is unknown.
    """
    if asked is not None:
        return asked
    if output is None:
        return default
    suffix = output.suffix.lower()
    if suffix not in by_suffix:
        known = ", ".join(filter(None, by_suffix))
        raise UsageError(f"The suffix of {output.name} names no format", hint=hint or f"add --format, or use {known}")
    return by_suffix[suffix]


def write_output(output: Path | None, content: bytes) -> None:
    """Write a whole result: to standard output, a device or a pipe as it is, a file by replacing it.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: the reader of standard output is gone.
    """
    if output is None or (output.exists() and not output.is_file()):
        with Sink(output) as sink:
            sink.write(content)
    else:
        replace_bytes(output, content)


class Target(Protocol):
    """What a writer writes to, a record at a time; ended in one of three ways."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """Everything was written."""

    def stop(self) -> None:
        """The run ended before its end: keep what it came to."""

    def discard(self) -> None:
        """It can no longer be written."""


class Sink:
    """Standard output or a file, to which bytes are written.

    Raises (each method):
        OutputError: the disk is full, the folder is missing or read-only, standard output is closed.
        BrokenPipeError: the reader of standard output is gone.
    """

    def __init__(self, output: Path | None) -> None:
        self._name = str(output) if output else "standard output"
        self._owned = output is not None
        with self._guard():
            self._stream = output.open("wb") if output else _stdout()

    def write(self, data: bytes) -> None:
        with self._guard():
            self._stream.write(data)
            self._stream.flush()

    def finish(self) -> None: ...
    def stop(self) -> None: ...
    def discard(self) -> None: ...

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._guard():
            self._stream.close() if self._owned else self._stream.flush()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: written to after somebody closed it
            why = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"Cannot write {self._name}", why=why) from error


def _stdout() -> BinaryIO:
    if sys.stdout is None:
        raise ValueError("it is closed")
    return sys.stdout.buffer


def open_output(output: Path | None, *, overwrite: bool, resume: bool) -> "Sink | OutputFile":
    """Where the answers go: a regular file is locked, and until it is written to it stays as it is."""
    _occupy_standard_descriptors()
    if output is None or (output.exists() and not output.is_file()):
        return Sink(output)
    return OutputFile(output, may_exist=overwrite or resume)


def _occupy_standard_descriptors() -> None:
    """Where one was closed, the next file to be opened would get its number, and what libraries print with it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one


class OutputFile:
    """A regular file that nobody else writes as long as this process lives; the kernel gives it free with the last.

    Args:
        may_exist: else it must be new.

    Attributes:
        path: where it really is, behind all links.
        descriptor: open for reading and writing.

    Raises (each method):
        OutputError: another run is writing it, or the disk does not take it.
    """

    def __init__(self, path: Path, *, may_exist: bool) -> None:
        self.name, self.path = path, Path(os.path.realpath(path))
        self._is_new = not self.path.exists()
        self._end: int | None = None  # of what is whole; None before the first write
        with writing(path):
            self.descriptor = _open_alone(self.path, may_exist=may_exist)
        self._descriptors = [self.descriptor]
        remove_leftover(self.path)

    def write(self, data: bytes) -> None:
        """Append what belongs together. Where that fails, nothing of it stays; the first write begins the file anew."""
        end = self.continue_at(0) if self._end is None else self._end
        try:
            with deferred_signals(), writing(self.name):
                write_all(self.descriptor, data)
                self._end = end + len(data)
        except OutputError:
            with suppress(OSError):
                os.ftruncate(self.descriptor, end)
            raise

    def continue_at(self, end: int) -> int:
        """Keep so many bytes, and write behind them."""
        with writing(self.name):
            os.ftruncate(self.descriptor, end)
            os.lseek(self.descriptor, end, os.SEEK_SET)
        self._end = end
        return end

    def take_over(self, replacement: Replacement) -> None:
        """Let what was written beside take the place of the file, locked as that is, and go on there."""
        with writing(self.name):
            _lock(replacement.descriptor)
        replacement.settle()
        self.descriptor, self._end = replacement.descriptor, replacement.size
        self._descriptors.append(self.descriptor)  # the old one stays open, and so locked

    def finish(self) -> None: ...
    def stop(self) -> None: ...
    def discard(self) -> None: ...

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self._end is not None:
                self._sync(quietly=kind is not None)
            elif self._is_new:
                with suppress(OSError):
                    self.path.unlink()  # nothing came of it
        finally:
            for descriptor in self._descriptors:
                with suppress(OSError):  # what was written is synced
                    os.close(descriptor)

    def _sync(self, *, quietly: bool) -> None:
        with suppress(*[OutputError] * quietly), writing(self.name):
            os.fsync(self.descriptor)


class Document:
    """A file that makes sense only as a whole, and is put in its place when it is."""

    def __init__(self, output: OutputFile) -> None:
        self._output = output
        self._replacement: Replacement | None = None

    def write(self, data: bytes) -> None:
        if self._replacement is None:
            self._replacement = Replacement(self._output.path)
        self._replacement.write(data)

    def finish(self) -> None:
        if self._replacement:
            with deferred_signals():
                self._output.take_over(self._replacement)

    def stop(self) -> None:
        self.finish()

    def discard(self) -> None:
        if self._replacement:
            self._replacement.discard()


def _open_alone(path: Path, *, may_exist: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        try:
            descriptor = os.open(path, flags if may_exist else flags | os.O_EXCL, 0o666)
        except FileExistsError:
            raise _exists(path) from None  # since we looked
        try:
            _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor  # else somebody put another file in its place in this very moment
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, FileNotFoundError):
                continue
            raise
        os.close(descriptor)


def _exists(path: Path, *, can_resume: bool = True) -> LevitError:
    if _is_in_use(path):
        return OutputError(f"Cannot write {path}", why=IN_USE)
    hint = f"{'--resume continues it, ' if can_resume else ''}--overwrite replaces it"
    return UsageError(f"{path} exists", why="it was not touched", hint=hint)


def _lock(descriptor: int) -> None:
    """Take the lock on an open file, where the file system knows locks."""
    if locks is None:
        return
    try:
        locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, IN_USE) from None
    except OSError:  # an old network file system
        return


def _is_in_use(path: Path) -> bool:
    if locks is None:
        return False
    with suppress(FileNotFoundError, PermissionError, IsADirectoryError), path.open("rb") as file:
        try:
            locks.flock(file, locks.LOCK_SH | locks.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def silence_native_stderr() -> None:
    """Keep standard error for our words: what libraries of C write there, as libtiff of broken files, is not heard."""
    if sys.stderr is None:
        return
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = open(ours, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()

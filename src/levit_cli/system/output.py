"""Write the output of a run: to standard output, or to a file that is locked meanwhile.

The file is opened and locked before a model is loaded, so that a run whose output cannot be written fails early. It is
not changed before the first write. An ``OSError`` becomes an ``OutputError``.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, TypeVar

from levit_cli.errors import LevitError, OutputError, UsageError, is_broken_pipe, reason_of
from levit_cli.system import locking
from levit_cli.system.atomic import CLOSED, Replacement, remove_leftover, replace_bytes, same_file, write_all, writing
from levit_cli.system.signals import deferred_signals

WRITE_BYTES = 1 << 20
FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def require_free(
    output: Path | None,
    inputs: Iterable[str | Path] = (),
    *,
    overwrite: bool = False,
    resume: bool | None = None,
    replaces: bool = True,
    folder: bool = False,
) -> None:
    """Check that an output may be written, before any work is done.

    Args:
        output: None is standard output, which may always be written.
        inputs: files that the output must not replace.
        resume: None for an output that ``--resume`` cannot continue.
        replaces: the command replaces an existing file with a new one, so the folder must be writable.
        folder: the output may be a folder. An empty folder may always be written.

    Raises:
        UsageError: the output exists and neither ``overwrite`` nor ``resume`` was given, or it is one of the inputs.
        OutputError: the output is a folder, its folder is missing or read-only, or another run is writing to it.
    """
    if output is None:
        return
    if not output.exists():
        _require_writable_folder(output)
    elif any(same_file(str(output), str(path)) for path in inputs):
        if output.is_dir():
            raise _is_folder(output)
        raise is_also_an_input(str(output))
    elif output.is_dir() and not folder:
        raise OutputError(f"Cannot write {output}", why="it is a folder", hint="choose the name of a file")
    elif not (overwrite or resume) and _has_content(output):
        raise _exists(output, can_resume=resume is not None)
    elif output.is_file() and replaces:
        _require_writable_folder(Path(os.path.realpath(output)))


def _has_content(output: Path) -> bool:
    """Return whether writing would destroy data. Devices, pipes and empty folders hold none."""
    return output.is_file() or (output.is_dir() and any(output.iterdir()))


def _require_writable_folder(output: Path) -> None:
    if not os.access(output.parent, os.W_OK):
        exists = output.parent.is_dir()
        why = "its folder is not writable" if exists else "its folder does not exist"
        hint = "choose another folder" if exists else f"create {output.parent} first"
        raise OutputError(f"Cannot write {output}", why=why, hint=hint)


def is_also_an_input(output: str) -> UsageError:
    return UsageError(f"The output {output} is also an input", why="it was not touched", hint="choose another name")


def _is_folder(output: Path) -> UsageError:
    hint = "choose the name of a file, with the suffix of its format"
    return UsageError(f"The output {output} is a folder", why="it was not touched", hint=hint)


F = TypeVar("F")


def choose_format(format: F | None, output: Path | None, by_suffix: Mapping[str, F], default: F, hint: str = "") -> F:
    """Return the output format: that of ``--format`` if given, otherwise that of the suffix of ``-o``.

    Args:
        format: the value of ``--format``, if given.
        by_suffix: formats by suffix, in lower case and with its dot; the key "" is for names without a suffix.
        default: the format without ``-o``.
        hint: what the user can do if no format has this suffix.

    Raises:
        UsageError: no format has this suffix.
    """
    if format is not None:
        return format
    if output is None:
        return default
    suffix = output.suffix.lower()
    if output.is_dir():
        raise _is_folder(output)
    if suffix not in by_suffix:
        known = ", ".join(filter(None, by_suffix))
        what = f"No output format matches the suffix of {output.name}"
        raise UsageError(what, hint=hint or f"add --format, or use {known}")
    return by_suffix[suffix]


def write_output(output: Path | None, content: bytes) -> None:
    """Write a complete result. A regular file is replaced atomically; other outputs are written to directly.

    Raises:
        OutputError: the output cannot be written.
        BrokenPipeError: the reader of standard output closed the pipe.
    """
    if output is None or (output.exists() and not output.is_file()):
        with Sink(output) as sink:
            sink.write(content)
    else:
        replace_bytes(output, content)


class Target(Protocol):
    """An output for records. Exactly one of ``finish``, ``stop`` and ``discard`` ends it."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """End a complete output."""

    def stop(self) -> None:
        """End the output of an interrupted run and keep what was written."""

    def discard(self) -> None:
        """Abandon the output after a write error."""


class Sink:
    """Standard output, a pipe or a device: it is written to directly and not locked.

    Raises (each method):
        OutputError: the disk is full, the folder is missing or read-only, or standard output is closed.
        BrokenPipeError: the reader of standard output closed the pipe.
    """

    def __init__(self, output: Path | None) -> None:
        self._name = str(output) if output else "to standard output"
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
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            if is_broken_pipe(error):
                raise BrokenPipeError(errno.EPIPE, reason_of(error)) from error
            why = reason_of(error)
            raise OutputError(f"Cannot write {self._name}", why=why) from error


def _stdout() -> BinaryIO:
    if sys.stdout is None:
        raise ValueError("it is closed")
    return sys.stdout.buffer


def open_output(output: Path | None, *, overwrite: bool, resume: bool, can_resume: bool = False) -> "Sink | OutputFile":
    """Open the output of a run. A regular file is locked and not changed before the first write.

    Args:
        can_resume: ``--resume`` can continue the output, which is said if it exists.
    """
    _occupy_standard_descriptors()
    if output is None or (output.exists() and not output.is_file()):
        return Sink(output)
    return OutputFile(output, may_exist=overwrite or resume, can_resume=can_resume)


def _occupy_standard_descriptors() -> None:
    """Open the null device for each closed standard stream.

    Otherwise the next file opened would get the descriptor of that stream, and libraries would print into the file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one


class OutputFile:
    """A regular file that is locked against other runs. The kernel releases the lock when the process ends.

    Args:
        may_exist: whether the file may exist already.
        can_resume: whether ``--resume`` can continue it.

    Attributes:
        path: the file itself, with all symbolic links resolved.
        descriptor: file descriptor, open for reading and writing.

    Raises (each method):
        OutputError: another run is writing the file, or it cannot be written.
    """

    def __init__(self, path: Path, *, may_exist: bool, can_resume: bool = False) -> None:
        self.name, self.path = path, Path(os.path.realpath(path))
        self._is_new, self.is_removed = not self.path.exists(), False
        self._end: int | None = None  # size of the complete records; None before the first write
        with writing(path):
            self.descriptor = _open_locked(self.path, may_exist=may_exist, can_resume=can_resume)
        remove_leftover(self.path)

    @property
    def has_content(self) -> bool:
        """Whether the file is not empty."""
        with writing(self.name):
            return os.fstat(self.descriptor).st_size > 0

    def write(self, data: bytes) -> None:
        """Append data completely or not at all. The first write truncates the file."""
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
        """Keep the first ``end`` bytes and write after them."""
        with writing(self.name):
            os.ftruncate(self.descriptor, end)
            os.lseek(self.descriptor, end, os.SEEK_SET)
        self._end = end
        return end

    def take_over(self, replacement: Replacement) -> None:
        """Replace the file with a temporary one and continue writing to it."""
        if locking.posix is None:
            self._replace_closed(replacement)
        else:
            self._replace_open(replacement)
        self._end = replacement.size

    def _replace_open(self, replacement: Replacement) -> None:
        """Replace the file so that the file at this path is locked at every moment."""
        with writing(self.name):
            locking.lock(replacement.descriptor)
        replacement.sync()
        replacement.commit()
        self._close()
        self.descriptor = replacement.descriptor

    def _replace_closed(self, replacement: Replacement) -> None:
        """Replace the file while neither is open. Windows would refuse to replace it otherwise."""
        replacement.sync()
        replacement.close()
        self._close()
        try:
            replacement.commit()
        finally:
            with writing(self.name):
                self.descriptor = os.open(self.path, FLAGS)
                locking.lock(self.descriptor)
        os.lseek(self.descriptor, replacement.size, os.SEEK_SET)

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, CLOSED
        with suppress(OSError):  # the data is synced already
            locking.close(descriptor)

    def finish(self) -> None: ...
    def stop(self) -> None: ...
    def discard(self) -> None: ...

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.is_removed:
            return
        try:
            if self._end is not None:
                self._sync(quietly=kind is not None)
        finally:
            if self._end is not None or not self._is_new:
                self._close()
            else:
                self.remove()  # nothing was written

    def remove(self) -> None:
        """Remove and close the file, in the order that the system allows."""
        self.is_removed = True
        if locking.posix is None:
            self._close()
        with suppress(OSError):
            self.path.unlink()
        self._close()

    def _sync(self, *, quietly: bool) -> None:
        with suppress(*[OutputError] * quietly), writing(self.name):
            os.fsync(self.descriptor)


class Document:
    """A file that is valid only when complete, such as JSON.

    It is written to a temporary file, which replaces the output at the end.

    Args:
        keeps_partial: an interrupted run completes the document with the results so far. Otherwise it leaves nothing.
    """

    def __init__(self, output: OutputFile, *, keeps_partial: bool = True) -> None:
        self._output, self.keeps_partial = output, keeps_partial
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
        self.finish() if self.keeps_partial else self.discard()

    def discard(self) -> None:
        if self._replacement:
            self._replacement.discard()


class TargetFile(io.RawIOBase):
    """A target as a file that a library writes. It collects the many small writes of libraries."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write, self._position, self._rest = write, 0, bytearray()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._rest += data
        self._position += len(data)
        if len(self._rest) >= WRITE_BYTES:
            self.write_rest()
        return len(data)

    def write_rest(self) -> None:
        content, self._rest = bytes(self._rest), bytearray()
        if content:
            self._write(content)


def _open_locked(path: Path, *, may_exist: bool, can_resume: bool) -> int:
    flags = FLAGS | os.O_CREAT
    while True:
        try:
            descriptor = os.open(path, flags if may_exist else flags | os.O_EXCL, 0o666)
        except FileExistsError:
            raise _exists(path, can_resume=can_resume) from None  # a journal, or a file created after the check
        try:
            locking.lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor  # else another file replaced it between open and lock
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, FileNotFoundError):
                continue
            raise
        os.close(descriptor)


def _exists(path: Path, *, can_resume: bool) -> LevitError:
    if locking.is_locked(path):
        hint = "wait until it ends, or choose another name"
        return OutputError(f"Cannot write {path}", why=locking.IN_USE, hint=hint)
    hint = f"{'--resume continues it, ' if can_resume else ''}--overwrite replaces it"
    is_empty = path.is_file() and path.stat().st_size == 0
    why = "it is empty, as a killed run leaves it" if is_empty else "it was not touched"
    return UsageError(f"{path} exists", why=why, hint=hint)


def silence_native_stderr() -> None:
    """Discard what native libraries write to descriptor 2, such as libtiff's warnings. ``sys.stderr`` still works."""
    if sys.stderr is None:
        return
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = open(stderr, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115


def silence_libraries() -> None:
    """Discard what libraries log about failed requests, with tracebacks. Our own message names the cause."""
    import logging

    logging.lastResort = None
    logging.raiseExceptions = False  # else a line says that there is no handler


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()

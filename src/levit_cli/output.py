"""Where predictions go: standard output or a file. Whatever the disk says becomes an ``OutputError``."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from levit_cli.errors import OutputError, UsageError
from levit_cli.inputs import same_file


def require_free(output: Path | None, inputs: list[str], *, overwrite: bool) -> None:
    """Find out before any work that the output must not be written.

    Raises:
        UsageError: it exists and was not given up, or it is one of the inputs.
        OutputError: its folder is missing or read-only.
    """
    if output is None:
        return
    if not output.exists():
        _require_folder(output)
        return
    if any(same_file(str(output), path) for path in inputs):
        raise UsageError(f"The output {output} is also an input", why="it was not touched")
    if not overwrite and output.is_file():
        raise UsageError(f"{output} exists", why="it was not touched", hint="--overwrite replaces it")


def _require_folder(output: Path) -> None:
    if not os.access(output.parent, os.W_OK):
        why = "it may not be written to" if output.parent.is_dir() else "it does not exist"
        raise OutputError(f"Cannot write {output}", why=f"its folder: {why}")


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

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()

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


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()

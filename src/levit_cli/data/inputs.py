"""What to classify: files, folders, globs, addresses, lists and standard input, as one stream in a stable order.

Nothing is opened here but folders and the list itself; the stream starts at once and holds one folder's names at most.
"""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from levit_cli.errors import InputError, UsageError

STDIN = "-"
URL_SCHEMES = ("http://", "https://")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # looked for in folders
CHUNK_BYTES = 1 << 16
RECURSIVE = re.compile(r"(?:(?<=/)|(?<![^/]))\*\*(?:/|$)")  # as a whole part of a path


@dataclass(frozen=True)
class Input:
    """One thing to classify.

    Args:
        path: a path, an address, or ``-`` for the bytes of standard input.
        error: why it cannot even be tried, such as a folder that may not be read.
        content: its bytes, once they were fetched from where there is no file.
    """

    path: str
    error: InputError | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN


def is_url(text: str) -> bool:
    """Whether this is an address to fetch, and no path."""
    return text.lower().startswith(URL_SCHEMES)


def expand(arguments: Iterable[str]) -> Iterator[Input]:
    """The inputs that command line arguments mean: folders walked, globs resolved, the rest as it is."""
    for argument in arguments:
        if argument == STDIN or is_url(argument):
            yield Input(argument)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matches = sorted({*_matches(argument)}, key=os.fsencode)
            yield from named(matches or [argument])
        else:
            yield from named([argument])


def _matches(pattern: str) -> Iterator[str]:
    """What a glob matches. Other than in Python's own, ``**`` follows no symbolic link, which may lead in circles."""
    parts = RECURSIVE.split(pattern, maxsplit=1)
    if len(parts) == 1:
        yield from glob.iglob(pattern)
        return
    before, behind = parts
    for start in glob.iglob(before) if before else [""]:
        if not behind:
            yield start or os.curdir  # everything below, which walking it gives
        else:
            for folder in _folders(start):
                yield from _matches(os.path.join(glob.escape(folder), behind))


def _folders(start: str) -> Iterator[str]:
    """A folder and those below it that are neither hidden nor links."""
    for path, names, _ in os.walk(start or os.curdir):
        names[:] = [name for name in names if not name.startswith(".")]
        yield path if start else path[len(os.curdir + os.sep) :]


@dataclass(frozen=True)
class InputOptions:
    """What the user named.

    Args:
        arguments: files, folders, globs, URLs, or ``-`` for an image on standard input.
        files_from: file that lists paths, or ``-`` for standard input.
        null: the paths in it end in NUL, see ``read_list``.
    """

    arguments: tuple[str, ...]
    files_from: str | None = None
    null: bool = False

    def stream(self) -> Iterator[Input]:
        """Yield the inputs of the arguments, then those of the list.

        Raises:
            UsageError: the list cannot be read.
        """
        yield from expand(self.arguments)
        if self.files_from is None:
            return
        try:
            with _open_list(self.files_from) as file:
                yield from named(read_list(file, null=self.null))
        except OSError as error:
            raise UsageError(f"Cannot read the list {self.files_from}", why=error.strerror or str(error)) from error

    @property
    def can_be_read_again(self) -> bool:
        """Whether ``stream`` yields the same inputs a second time; a list on a pipe is gone after the first."""
        return self.files_from is None or os.path.isfile(self.files_from)


def _open_list(path: str) -> BinaryIO:
    # without a buffer: its lock, held by a thread that waits for input, would abort the interpreter on its way out
    return io.FileIO(0, closefd=False) if path == STDIN else open(path, "rb")


def named(paths: Iterable[str]) -> Iterator[Input]:
    """Paths taken literally, as a list gives them: folders are walked, anything else is tried."""
    for path in paths:
        if path == STDIN:
            path = os.path.join(os.curdir, path)  # in a list it can only be the name of a file
        if not is_url(path) and os.path.isdir(path):
            yield from walk(path)
        else:
            yield Input(path)


def walk(folder: str) -> Iterator[Input]:
    """The images below a folder, depth first in the order of their names' bytes.

    Hidden entries are skipped and symbolic links not followed; a folder that cannot be read is an input with an error.
    """
    stack = [_Entry(folder, is_folder=True)]  # not recursion: hundreds of levels would be too many
    while stack:
        path, is_folder = stack.pop()
        entries = _entries(path) if is_folder else None
        if isinstance(entries, list):
            stack.extend(reversed(entries))
        else:
            yield Input(path, entries)


class _Entry(NamedTuple):
    path: str
    is_folder: bool


def _entries(folder: str) -> list[_Entry] | InputError:
    """What a folder holds that matters here, in order."""
    try:
        with os.scandir(folder) as scan:
            seen = [(entry.path, entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in scan]
    except PermissionError:
        return InputError("permission", "the folder may not be read")
    except OSError as error:
        return InputError("not_found", error.strerror or str(error))
    entries = [
        _Entry(path, is_folder)
        for path, name, is_folder, is_link in seen
        if not name.startswith(".") and not is_link and (is_folder or name.lower().endswith(SUFFIXES))
    ]
    return sorted(entries, key=lambda entry: os.fsencode(entry.path))


def read_list(file: BinaryIO, *, null: bool) -> Iterator[str]:
    """The paths in a list, one a line, streamed.

    Args:
        null: paths end in NUL and are exact; else in a newline, with a byte order mark, carriage returns at the ends of
            lines, and empty lines not counted.
    """
    separator = b"\0" if null else b"\n"
    for index, raw in enumerate(_split(file, separator)):
        line = raw if null else raw.removesuffix(b"\r")
        if index == 0 and not null:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line:
            yield os.fsdecode(line)


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    read = getattr(file, "read1", file.read)  # read1: what is there, without waiting for a full buffer
    while chunk := read(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest

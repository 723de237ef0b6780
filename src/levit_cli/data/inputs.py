"""List the inputs: files, folders, globs, URLs, lists of paths and standard input, as one stream in a stable order.

This module opens folders and lists of paths, but not images. The stream starts at once, and only the entries of the
folders that are being walked are held in memory.
"""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from levit_cli.errors import InputError, UsageError, reason_of

STDIN = "-"
URL_SCHEMES = ("http://", "https://")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # of images in folders
CHUNK_BYTES = 1 << 16
NO_MATCH = "no such file, and as a pattern it matches nothing"
RECURSIVE = re.compile(r"(?:(?<=/)|(?<![^/]))\*\*(?:/|$)")  # ** as a whole component of a path


@dataclass(frozen=True)
class Input:
    """One input to classify.

    Args:
        path: a path, a URL, or ``-`` for an image on standard input.
        error: why it cannot be read, if that is already known, as for a folder without read permission.
        content: the bytes from a URL or from standard input, once they were fetched.
    """

    path: str
    error: InputError | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN


def is_url(text: str) -> bool:
    """Whether the text is a URL, not a path."""
    return text.lower().startswith(URL_SCHEMES)


def expand(arguments: Iterable[str]) -> Iterator[Input]:
    """Yield the inputs of command-line arguments: walk folders, expand globs and keep everything else."""
    for argument in arguments:
        if argument == STDIN or is_url(argument):
            yield Input(argument)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matches = sorted({*_matches(argument)}, key=os.fsencode)
            yield from from_paths(matches) if matches else [Input(argument, InputError("not_found", NO_MATCH))]
        else:
            yield from from_paths([argument])


def _matches(pattern: str) -> Iterator[str]:
    """Yield the matches of a glob.

    Unlike in Python's ``glob``, ``**`` does not follow symbolic links, because they may form a cycle.
    """
    parts = RECURSIVE.split(pattern, maxsplit=1)
    if len(parts) == 1:
        yield from glob.iglob(pattern)
        return
    before, after = parts
    for start in glob.iglob(before) if before else [""]:
        if not after:
            yield start or os.curdir  # a folder, which is then walked
        else:
            for folder in _folders(start):
                yield from _matches(os.path.join(glob.escape(folder), after))


def _folders(start: str) -> Iterator[str]:
    """Yield a folder and its subfolders, without hidden ones and symbolic links."""
    for path, names, _ in os.walk(start or os.curdir):
        names[:] = [name for name in names if not name.startswith(".")]
        yield path if start else path[len(os.curdir + os.sep) :]


@dataclass(frozen=True)
class InputOptions:
    """The inputs that the user named.

    Args:
        arguments: files, folders, globs, URLs, or ``-`` for an image on standard input.
        files_from: file that lists paths, or ``-`` for standard input.
        null: whether the paths in that list end in NUL, see ``read_list``.
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
                yield from from_paths(read_list(file, null=self.null))
        except OSError as error:
            raise UsageError(f"Cannot read the list {self.files_from}", why=reason_of(error)) from error

    @property
    def can_be_read_again(self) -> bool:
        """Whether ``stream`` yields the same inputs a second time; a list from a pipe can be read only once."""
        return self.files_from is None or os.path.isfile(self.files_from)


def _open_list(path: str) -> BinaryIO:
    # Unbuffered: a thread that waits for input would hold the buffer's lock, which aborts the interpreter at exit.
    return io.FileIO(0, closefd=False) if path == STDIN else open(path, "rb")


def from_paths(paths: Iterable[str]) -> Iterator[Input]:
    """Yield the inputs of literal paths: walk folders and keep everything else, whatever its suffix."""
    for path in paths:
        if path == STDIN:
            path = os.path.join(os.curdir, path)  # in a list, - is a file name
        if not is_url(path) and os.path.isdir(path):
            yield from walk(path)
        else:
            yield Input(path)


def walk(folder: str) -> Iterator[Input]:
    """Yield the images in a folder and its subfolders, depth first, in the order of their names' bytes.

    Hidden entries and symbolic links are skipped. A folder that cannot be read is an input with an error.
    """
    stack = [_Entry(folder, is_folder=True)]  # no recursion: Python's limit is too low for hundreds of levels
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
    """Return the subfolders and images of a folder in order, or the error of a folder that cannot be read."""
    try:
        with os.scandir(folder) as scan:
            seen = [(entry.path, entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in scan]
    except PermissionError:
        return InputError("permission", "no permission to read the folder")
    except OSError as error:
        return InputError("not_found", reason_of(error))
    entries = [
        _Entry(path, is_folder)
        for path, name, is_folder, is_link in seen
        if not name.startswith(".") and not is_link and (is_folder or name.lower().endswith(SUFFIXES))
    ]
    return sorted(entries, key=lambda entry: os.fsencode(entry.path))


def read_list(file: BinaryIO, *, null: bool) -> Iterator[str]:
    """Yield the paths in a list as they arrive.

    Args:
        null: each path ends in NUL and is used verbatim. Otherwise each line is a path; a byte order mark, carriage
            returns at the ends of lines, and empty lines are ignored.
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
    read = getattr(file, "read1", file.read)  # read1 returns what is available; read waits for a full buffer
    while chunk := read(CHUNK_BYTES):
        *complete, rest = (rest + chunk).split(separator)
        yield from complete
    yield rest

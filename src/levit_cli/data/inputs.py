"""List the inputs: files, folders, archives, globs, URLs, lists of paths and stdin, as one stream in a stable order.

This module opens folders and lists of paths, but not images. ``archives`` and ``remote`` list what is in an archive and
in object storage. The stream starts at once, and only the entries of the folders that are being walked are held in
memory.
"""

import glob
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple, TypedDict

from levit_cli.data.input import STDIN, ImageColumns, Input, is_url
from levit_cli.data.remote.names import is_remote
from levit_cli.data.shards import Selection, Shard
from levit_cli.data.skipped import PARQUET_SUFFIX, READ_ARCHIVE_SUFFIXES, SUFFIXES, Skipped, reason_to_skip
from levit_cli.errors import InputError, UsageError, reason_of
from levit_cli.system.atomic import same_file

__all__ = [
    "STDIN",
    "SUFFIXES",
    "Input",
    "InputOptions",
    "expand",
    "from_paths",
    "is_url",
    "read_list",
    "unused_columns",
    "walk",
]

CHUNK_BYTES = 1 << 16
DEFAULT_COLUMNS = ImageColumns()
NO_MATCH = "no such file, and as a pattern it matches nothing"
RECURSIVE = re.compile(r"(?:(?<=/)|(?<![^/]))\*\*(?:/|$)")  # ** as a whole component of a path


def expand(
    arguments: Iterable[str],
    skipped: Skipped | None = None,
    *,
    follow_links: bool = False,
    columns: ImageColumns = DEFAULT_COLUMNS,
    offline: bool = False,
    opens_archives: bool = True,
    outputs: Collection[str] = (),
) -> Iterator[Input]:
    """Yield the inputs of command-line arguments: walk folders, expand globs and keep everything else.

    Args:
        skipped: counts what is skipped in folders.
        follow_links: include symbolic links in folders.
        columns: the columns of Parquet files.
        offline: send no request to object storage.
        opens_archives: list what is in archives and Parquet files. Otherwise, each of them is one input.
        outputs: the resolved paths and URLs of what this run writes; globs leave them out.

    Raises:
        UnreachableError: a folder in object storage cannot be listed.
    """
    skipped = skipped or Skipped()
    how: _How = {
        "follow_links": follow_links, "columns": columns, "offline": offline, "opens_archives": opens_archives,
    }  # fmt: skip
    for argument in arguments:
        if argument == STDIN or is_url(argument):
            yield Input(argument)
        elif is_remote(argument):
            listed = _remote(argument, skipped, columns, literal=False, offline=offline, opens_archives=opens_archives)
            yield from (item for item in listed if item.path not in outputs)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = {*_matches(argument, skipped, follow_links)}
            matches = sorted((path for path in found if not _is_output(path, outputs)), key=os.fsencode)
            if matches:
                yield from from_paths(matches, skipped, **how)
            else:
                yield Input(argument, InputError("not_found", NO_MATCH))
        else:
            yield from from_paths([argument], skipped, **how)


def _is_output(path: str, outputs: Collection[str]) -> bool:
    return bool(outputs) and os.path.realpath(path) in outputs


def _matches(pattern: str, skipped: Skipped, follow_links: bool) -> Iterator[str]:
    """Yield the matches of a glob.

    Unlike in Python's ``glob``, ``**`` does not follow symbolic links by default, and never those that form a cycle.
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
            for folder in _folders(start, skipped, follow_links):
                # a second ** finds the same folders, which are counted once
                yield from _matches(os.path.join(glob.escape(folder), after), Skipped(), follow_links)


def _folders(start: str, skipped: Skipped, follow_links: bool) -> Iterator[str]:
    """Yield a folder and its subfolders, without those that a walk skips."""
    for entry in _Walk(skipped, follow_links, folders_only=True).visit(start or os.curdir):
        yield entry.path if start else entry.path[len(os.curdir + os.sep) :]


class _How(TypedDict):
    """How folders, Parquet files and object storage are listed."""

    follow_links: bool
    columns: ImageColumns
    offline: bool
    opens_archives: bool


@dataclass(frozen=True)
class InputOptions:
    """The inputs that the user named.

    Args:
        arguments: files, folders, globs, URLs, or ``-`` for an image on standard input.
        files_from: file that lists paths, or ``-`` for standard input.
        null: whether the paths in that list end in NUL, see ``read_list``.
        follow_links: include symbolic links in folders.
        columns: the columns of Parquet files.
        offline: send no request to object storage.
        outputs: the resolved paths and URLs of what this run writes; globs leave them out.
        shard: the shard whose inputs are taken; None for all inputs.
        opens_archives: list what is in archives and Parquet files. Otherwise, each of them is one input.
    """

    arguments: tuple[str, ...]
    files_from: str | None = None
    null: bool = False
    follow_links: bool = False
    columns: ImageColumns = DEFAULT_COLUMNS
    offline: bool = False
    outputs: Collection[str] = ()
    shard: Shard | None = None
    opens_archives: bool = True

    def stream(self, skipped: Skipped | None = None, selection: Selection | None = None) -> Iterator[Input]:
        """Yield the inputs of the arguments, then those of the list; only those of the shard, if there is one.

        Args:
            skipped: counts what is skipped in folders.
            selection: remembers which inputs are those of the shard.

        Raises:
            UsageError: the list cannot be read.
        """
        if self.shard is None:
            return self._all(skipped)
        skipped = skipped or Skipped()
        skipped.reads = self.shard.includes
        return (selection or Selection(self.shard)).of(self._all(skipped))

    def _all(self, skipped: Skipped | None) -> Iterator[Input]:
        how: _How = {
            "follow_links": self.follow_links, "columns": self.columns, "offline": self.offline,
            "opens_archives": self.opens_archives,
        }  # fmt: skip
        yield from expand(self.arguments, skipped, outputs=self.outputs, **how)
        if self.files_from is None:
            return
        try:
            with _open_list(self.files_from) as file:
                yield from from_paths(read_list(file, null=self.null), skipped, **how)
        except OSError as error:
            raise UsageError(f"Cannot read the list {self.files_from}", why=reason_of(error)) from error

    def include(self, path: str) -> bool:
        """Whether a file or object is one of the inputs, as far as that is known before the folders are walked.

        A list from a pipe is not known yet.
        """
        if is_remote(path):
            from levit_cli.data.remote.sources import may_list

            return any(may_list(name, path) for name in self._names())
        return any(same_file(name, path) or _is_walked(name, path) for name in self._names())

    def _names(self) -> Iterator[str]:
        """Yield the files and folders that are named, by a glob or in a list too."""
        for argument in self.arguments:
            if glob.has_magic(argument) and not os.path.lexists(argument) and not is_remote(argument):
                yield from _matches(argument, Skipped(), self.follow_links)
            else:
                yield argument
        if self.files_from is not None and os.path.isfile(self.files_from):
            with suppress(OSError), open(self.files_from, "rb") as file:
                yield from read_list(file, null=self.null)

    @property
    def may_name_parquet(self) -> bool:
        """Whether an input can be a Parquet file, as far as the command line tells."""
        may_be = (glob.has_magic(name) or name.lower().endswith(PARQUET_SUFFIX) for name in self.arguments)
        return self.files_from is not None or any(may_be)

    @property
    def can_be_read_again(self) -> bool:
        """Whether ``stream`` yields the same inputs a second time; a list from a pipe can be read only once."""
        return self.files_from is None or os.path.isfile(self.files_from)


def _is_walked(folder: str, path: str) -> bool:
    """Whether a walk of this folder takes this file."""
    if not os.path.isdir(folder):
        return False
    try:
        *parents, name = os.path.relpath(os.path.realpath(path), os.path.realpath(folder)).split(os.sep)
    except ValueError:  # on another drive of Windows
        return False
    is_taken = reason_to_skip(name, is_folder=False) is None
    return is_taken and all(reason_to_skip(parent, is_folder=True) is None for parent in parents)


def unused_columns(columns: ImageColumns) -> Iterator[UsageError]:
    """Yield the error of columns that are chosen without a Parquet file, if there are any."""
    chosen = {"--image-column": columns.image, "--key-column": columns.key}
    names = [name for name, column in chosen.items() if column is not None]
    if names:
        yield UsageError(
            f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no effect without a Parquet file",
            why="only names that end in .parquet are read as such",
            hint=f"name such a file, or leave {'it' if len(names) == 1 else 'them'} out",
        )


def _open_list(path: str) -> BinaryIO:
    # Unbuffered: a thread that waits for input would hold the buffer's lock, which aborts the interpreter at exit.
    return io.FileIO(0, closefd=False) if path == STDIN else open(path, "rb")


def from_paths(
    paths: Iterable[str],
    skipped: Skipped | None = None,
    *,
    follow_links: bool = False,
    columns: ImageColumns = DEFAULT_COLUMNS,
    offline: bool = False,
    opens_archives: bool = True,
) -> Iterator[Input]:
    """Yield the inputs of literal paths: walk folders, list archives, and keep everything else, whatever its suffix."""
    skipped = skipped or Skipped()
    for path in paths:
        if path == STDIN:
            path = os.path.join(os.curdir, path)  # in a list, - is a file name
        if is_remote(path):
            yield from _remote(path, skipped, columns, literal=True, offline=offline, opens_archives=opens_archives)
        else:
            yield from _named(path, skipped, follow_links, columns, opens_archives)


def _remote(
    url: str, skipped: Skipped, columns: ImageColumns, *, literal: bool, offline: bool, opens_archives: bool
) -> Iterator[Input]:
    from levit_cli.data.remote.sources import expand as expand_remote  # imported here because few runs need it

    return expand_remote(url, skipped, columns, literal=literal, offline=offline, opens_archives=opens_archives)


def _named(
    path: str, skipped: Skipped, follow_links: bool, columns: ImageColumns, opens_archives: bool
) -> Iterator[Input]:
    """Yield the inputs of one literal path or URL. The kinds of sources are told apart here."""
    if is_url(path):
        yield Input(path)
    elif os.path.isdir(path):
        yield from _folder(path, skipped, follow_links)
    elif path.lower().endswith(READ_ARCHIVE_SUFFIXES):
        from levit_cli.data.archives import members_of_file  # imported here because few runs read archives

        list_members = partial(members_of_file, path)
        yield from list_members(skipped) if opens_archives else [Input(path, members=list_members)]
    elif path.lower().endswith(PARQUET_SUFFIX):
        from levit_cli.data.parquet import rows_of_file

        list_rows = partial(rows_of_file, path, columns)
        yield from list_rows(skipped) if opens_archives else [Input(path, members=list_rows)]
    else:
        yield Input(path)


def _folder(path: str, skipped: Skipped, follow_links: bool) -> Iterator[Input]:
    is_empty = True
    for item in walk(path, skipped, follow_links=follow_links):
        is_empty = False
        yield item
    if is_empty:
        skipped.add_empty(path)


def walk(folder: str, skipped: Skipped | None = None, *, follow_links: bool = False) -> Iterator[Input]:
    """Yield the images in a folder and its subfolders, depth first, in the order of their names' bytes.

    Hidden entries, folders that systems create, and symbolic links are skipped. A folder that cannot be read is an
    input with an error.

    Args:
        skipped: counts what is skipped.
        follow_links: include symbolic links, except those to a folder that contains them.
    """
    for path, is_folder, _, error in _Walk(skipped or Skipped(), follow_links).visit(folder):
        if error is not None or not is_folder:
            yield Input(path, error)


FolderId = tuple[int, int]  # device and file number


class _Entry(NamedTuple):
    """A file or folder in a walk.

    Args:
        parents: the folders that contain it; only if links are followed, to detect cycles.
    """

    path: str
    is_folder: bool
    parents: tuple[FolderId, ...] = ()
    error: InputError | None = None


@dataclass(frozen=True)
class _Walk:
    """How folders are walked.

    Args:
        folders_only: ignore files, and count only the folders that are skipped.
    """

    skipped: Skipped
    follow_links: bool
    folders_only: bool = False

    def visit(self, folder: str) -> Iterator[_Entry]:
        """Yield a folder and all that a walk finds in it, depth first; a folder that cannot be read has an error."""
        stack = [_Entry(folder, is_folder=True)]  # no recursion: Python's limit is too low for hundreds of levels
        while stack:
            entry = stack.pop()
            if entry.is_folder:
                try:
                    entries = self._open(entry)
                    if entries is None:
                        continue
                    stack.extend(reversed(entries))
                except PermissionError:
                    entry = entry._replace(error=InputError("permission", "no permission to read the folder"))
                except OSError as error:
                    entry = entry._replace(error=InputError("not_found", reason_of(error)))
            yield entry

    def _open(self, folder: _Entry) -> list[_Entry] | None:
        """Return the subfolders and images of a folder in order, and count what is skipped; None if it is a cycle."""
        parents = folder.parents
        if self.follow_links:
            status = os.stat(folder.path)
            own = (status.st_dev, status.st_ino)
            if own in parents:
                self.skipped.add(folder.path, "loop")
                return None
            parents = (*parents, own)
        entries = []
        with os.scandir(folder.path) as scan:
            for entry in scan:
                is_folder = _is_folder(entry)
                if (is_folder or not self.folders_only) and self._keeps(entry, is_folder=is_folder):
                    entries.append(_Entry(entry.path, is_folder, parents))
        return sorted(entries, key=_bytes_of_path)

    def _keeps(self, entry: os.DirEntry[str], *, is_folder: bool) -> bool:
        """Whether a walk takes an entry; others are counted."""
        reason = reason_to_skip(entry.name, is_folder=is_folder)
        if reason != "hidden" and entry.is_symlink() and not self.follow_links:
            reason = "link"
        if reason is not None:
            self.skipped.add(entry.path, reason)
        return reason is None


def _bytes_of_path(entry: _Entry) -> bytes:
    return os.fsencode(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether this is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


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

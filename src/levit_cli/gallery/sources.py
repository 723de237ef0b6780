"""Find the images of results again: files, members of archives, rows of Parquet files and, if allowed, URLs.

An archive or a Parquet file is read once, front to back, for all of its images.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from levit_cli.data.archives import SEPARATOR
from levit_cli.data.input import STDIN, ImageColumns, Input, is_url
from levit_cli.data.inputs import from_paths
from levit_cli.data.remote.names import is_remote
from levit_cli.data.skipped import PARQUET_SUFFIX, READ_ARCHIVE_SUFFIXES
from levit_cli.errors import InputError, LevitError, UnreachableError

STDIN_IS_GONE = "it was read from standard input"
NOT_DOWNLOADED = "it is a URL; --download loads it again"
MAX_CONTAINERS = 32  # names of archives in one path, whose files are looked for
GONE = "{} no longer contains it"


def inputs_of(paths: Iterable[str], columns: ImageColumns, *, download: bool) -> Iterator[Input]:
    """Yield an input for each path: first those that are files of their own, then those in archives and Parquet files.

    A path that names several members of an archive gives as many inputs as it occurs among the paths.

    Args:
        paths: the paths of records.
        columns: the columns of Parquet files.
        download: whether URLs may be downloaded.
    """
    inside: dict[str, Counter[str]] = {}
    for path, number in Counter(paths).items():
        if path == STDIN:
            yield Input(path, InputError("not_found", STDIN_IS_GONE))
        elif not download and is_on_network(path):
            yield Input(path, InputError("download", NOT_DOWNLOADED))
        elif container := container_of(path):
            inside.setdefault(container, Counter())[path] = number
        else:
            yield Input(path)
    for container, wanted in inside.items():
        yield from _within(container, wanted, columns)


def is_on_network(path: str) -> bool:
    """Whether a path is a URL, and not a file."""
    return is_remote(path) or (is_url(path) and not os.path.lexists(path))


def container_of(path: str) -> str:
    """Return the archive or Parquet file that holds an image; an empty text for a file of its own, or if it is gone."""
    if os.path.lexists(path):
        return ""
    names = islice(_possible_containers(path), MAX_CONTAINERS)
    return next((name for name in names if is_remote(name) or os.path.isfile(name)), "")


def _possible_containers(path: str) -> Iterator[str]:
    lowered, end = path.lower(), path.find(SEPARATOR)
    while end >= 0:
        if lowered.endswith(READ_ARCHIVE_SUFFIXES, 0, end):
            yield path[:end]
        end = path.find(SEPARATOR, end + 1)
    file, _, row = path.rpartition("#")
    if row.isdecimal() and file.lower().endswith(PARQUET_SUFFIX):
        yield file


def _within(container: str, wanted: Counter[str], columns: ImageColumns) -> Iterator[Input]:
    """Yield the wanted images of an archive or a Parquet file, and at the end those that it does not contain."""
    error = InputError("not_found", GONE.format("the archive" if SEPARATOR in next(iter(wanted)) else "the file"))
    found: set[str] = set()
    try:
        for item in from_paths([container], columns=columns):
            if item.path == container and item.error is not None:
                error = item.error
            elif wanted[item.path] > 0:
                wanted[item.path] -= 1
                found.add(item.path)
                yield item
            if not any(wanted.values()):
                break
    except UnreachableError as unreachable:
        error = InputError("download", str(unreachable))
    except LevitError as refused:  # the image column is unclear, or an extra is missing
        error = InputError("format_not_allowed", str(refused))
    yield from (Input(path, error) for path in wanted if path not in found)

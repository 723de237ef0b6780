"""The files of results on disk: link to them from a page, and detect those that were changed since."""

import os
from functools import cache
from pathlib import Path
from urllib.parse import quote

from levit_cli.data.input import STDIN
from levit_cli.gallery.sources import container_of, is_on_network

Version = tuple[int, int]  # size in bytes, and time of modification in nanoseconds


def version_of_path(path: str) -> Version | None:
    """Return what tells a file from a later version of it; None if there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class Changes:
    """Detects files that were changed after the results were written.

    Args:
        results: the version of the results file.
    """

    def __init__(self, results: Version | None) -> None:
        self._results = results
        self._modified_ns = cache(_modified_ns)  # an archive holds many images

    def include(self, path: str) -> bool:
        """Whether the file of a path, or the archive or Parquet file that holds it, is newer than the results."""
        if self._results is None or path == STDIN or is_on_network(path):
            return False
        return self._modified_ns(container_of(path) or path) > self._results[1]


def _modified_ns(path: str) -> int:
    version = version_of_path(path)
    return version[1] if version else 0


def link_to(path: str, folder: Path) -> str:
    """Return the URL of a file relative to a folder; an empty text if the path names no file of its own.

    All characters that could have a meaning in a URL are escaped, so the URL never leads to another host.
    """
    if path == STDIN or is_on_network(path) or not os.path.isfile(path):
        return ""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return Path(os.path.abspath(path)).as_uri()
    return quote(os.fsencode(os.path.join(os.curdir, relative)).replace(os.fsencode(os.sep), b"/"))

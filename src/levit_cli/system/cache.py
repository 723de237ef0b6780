"""Compiled graphs, kept between runs in our cache folder: a cold start then compiles nothing.

A graph is kept under a hash of everything that it depends on. Files are replaced in one step, so that runs at the same
time do not disturb each other, and carry a checksum, so that a damaged one counts as missing. The cache is a
convenience: where it cannot be read or written, nothing is said and nothing is lost but time.
"""

import hashlib
import mmap
import os
import zlib
from contextlib import suppress
from pathlib import Path

from levit_cli.errors import OutputError
from levit_cli.system.atomic import replace_bytes

CHECKSUM_BYTES = 4
MOST_GRAPHS = 8  # of some 30 MB each; the longest unused go first


def cache_folder() -> Path:
    """Our own cache, under XDG_CACHE_HOME."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "levit"
    except RuntimeError:  # nobody's home; nothing can be written there, which is no error
        return Path(os.devnull) / "levit"


class GraphCache:
    """Bytes by key, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str) -> memoryview | None:
        """What was stored under a key, mapped into memory and not copied; None if it is not there, or not whole."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # ValueError: an empty file
            return None
        content, checksum = mapped[:-CHECKSUM_BYTES], mapped[-CHECKSUM_BYTES:]
        if zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") != checksum:
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def store(self, key: str, content: bytes) -> None:
        """Keep bytes under a key, and no more than ``MOST_GRAPHS`` in all."""
        with suppress(OSError, OutputError):
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_bytes(self._path(key), content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big"))
            graphs = sorted(self._folder.glob("*.graph"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in graphs[MOST_GRAPHS:]:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.graph"

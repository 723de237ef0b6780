"""Cache compiled graphs and facts about weight files, so that a cold start does not compile or read them again.

Each entry is stored under a hash of everything it depends on. Files are replaced atomically, so that concurrent runs do
not disturb each other. A checksum detects damaged files, which are treated as missing. If the cache cannot be read or
written, it is ignored, and the run takes longer.
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
SUFFIX = ".entry"
MAX_ENTRIES = 8  # a graph has about 30 MB; the least recently used are removed first


def cache_folder() -> Path:
    """Return levit's cache folder where the system keeps caches; on Linux in ``XDG_CACHE_HOME`` or in ``~/.cache``."""
    with suppress(RuntimeError, ImportError):  # no home folder; a system on which platformdirs does not run
        from platformdirs import user_cache_path

        folder = user_cache_path("levit", appauthor=False)
        if folder.is_absolute():
            return folder
    return Path(os.devnull) / "levit"  # cannot be written, so that nothing is cached


class FolderCache:
    """A folder that stores entries of bytes, each under a key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str) -> memoryview | None:
        """Return the bytes stored under a key, memory-mapped, or None if they are missing or damaged."""
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
        """Store bytes under a key, then remove all but the ``MAX_ENTRIES`` most recently used entries."""
        with suppress(OSError, OutputError):
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_bytes(self._path(key), content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big"))
            entries = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in entries[MAX_ENTRIES:]:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}{SUFFIX}"

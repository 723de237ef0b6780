"""A results file and the files that it lists, with sidecars and links; compare complete trees of files."""

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOURNAL = ".levit-sort.jsonl"


def record(path: str | Path, label: str, prob: float = 0.9, index: int = 0, **more: Any) -> str:
    """Return a record of ``levit predict`` as a line of jsonl."""
    top = [{"index": index, "label": label, "prob": prob}]
    return json.dumps({"path": str(path), "status": "ok", "top": top, **more}) + "\n"


@dataclass
class Photos:
    """Files in a folder, and results that list them. The file of results is the newest.

    Args:
        folder: holds the folder ``photos`` and the results.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.photos, self.results = self.folder / "photos", self.folder / "results.jsonl"
        self.sorted = self.folder / "sorted"
        self.photos.mkdir(parents=True)
        self._time_s = 1_600_000_000
        self._lines: list[str] = []

    def add(self, name: str, label: str = "", prob: float = 0.9, content: bytes | None = None, index: int = 0) -> Path:
        """Write a file with a time of its own. With a label, the results list it."""
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name!r}".encode() if content is None else content)
        self._time_s += 1
        os.utime(path, ns=(self._time_s * 10**9 + 123_456_789,) * 2)
        if label:
            self.list(path, label, prob, index)
        return path

    def list(self, path: Path | str, label: str, prob: float = 0.9, index: int = 0) -> None:
        self._lines.append(record(path, label, prob, index))
        self.results.write_text("".join(self._lines))


def write_photos(folder: Path) -> Photos:
    """Write photos with equal names, sidecars of their own and shared ones, and a symbolic link."""
    photos = Photos(folder)
    photos.add("a.jpg", "cat")
    photos.add("a.jpg.json")
    photos.add("b.jpg", "cat", 0.4)
    photos.add("b.XMP")
    photos.add("raw.cr2")
    photos.add("raw.xmp")
    photos.add("raw.jpg", "a/b")
    photos.add("more/a.jpg", "cat")
    photos.add("more/a.xmp")
    link = photos.photos / "more" / "link.jpg"
    link.symlink_to("../raw.cr2")
    photos.list(link, "dog")
    return photos


def tree(*folders: Path, inodes: bool = False, link_times: bool = True) -> dict[str, tuple[object, ...]]:
    """Return what is in folders: names, kinds, contents or texts of links, times and modes.

    The content of a journal is left out.

    Args:
        inodes: also the numbers of regular files. A symbolic link that was moved is a new one.
        link_times: also the times of symbolic links. Those that --mode symlink makes are new.
    """
    found: dict[str, tuple[object, ...]] = {}
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))] if os.path.lexists(folder) else []:
            found[str(path)] = _entry(path, inodes=inodes, link_times=link_times)
    return found


def _entry(path: Path, *, inodes: bool, link_times: bool) -> tuple[object, ...]:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return ("folder",)
    if path.name == JOURNAL:
        return ("journal",)
    if path.is_symlink():
        return (os.readlink(path), *[status.st_mtime_ns] * link_times)
    content = path.read_bytes()
    return (content, status.st_mode, status.st_mtime_ns, *[status.st_ino] * inodes)


def contents(*folders: Path) -> set[bytes]:
    """Return the contents of all files, and the texts of links as they are resolved."""
    paths = [path for folder in folders for path in folder.rglob("*") if not path.is_dir() and path.name != JOURNAL]
    return {path.read_bytes() for path in paths}


def without_numbers(state: dict[str, tuple[object, ...]]) -> list[tuple[str, tuple[object, ...]]]:
    """Return a tree without the numbers in its names, such as `` (2)``."""
    return sorted((re.sub(r" \(\d+\)", "", name), entry) for name, entry in state.items())

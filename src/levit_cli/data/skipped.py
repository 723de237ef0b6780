"""Decide which files of a folder are images, and count the others by the reason why they are skipped."""

import os
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

from levit_cli.system.extras import missing_package, pip_command
from levit_cli.system.text import count_noun, printable

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif",
    ".hif", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".jxl",
)  # fmt: skip
UNSUPPORTED_SUFFIXES = (
    ".heics", ".heifs", ".avifs", ".pam", ".pfm", ".ico", ".psd", ".svg", ".eps", ".dng", ".cr2", ".cr3", ".nef",
    ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
JXL_SUFFIX = ".jxl"
ARCHIVE_SUFFIXES = (
    ".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst",
    ".parquet",
)  # fmt: skip
# Archives that are read if they are named.
READ_ARCHIVE_SUFFIXES = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".zip",
)  # fmt: skip
PARQUET_SUFFIX = ".parquet"
# Folders of thumbnails, copies and deleted files.
SYSTEM_FOLDERS = ("@eaDir", ".ipynb_checkpoints", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN")
MAX_NAMED = 3  # folders without images that a sentence names

Reason = Literal[
    "link", "archived link", "loop", "system folder", "hidden", "archive", "format", "extra", "suffix",
    "run folder", "no class",
]  # fmt: skip
NOUNS: dict[Reason, tuple[str, str]] = {
    "link": ("symbolic link", "symbolic links"),
    "archived link": ("symbolic link in an archive", "symbolic links in archives"),
    "loop": ("symbolic link to a parent folder", "symbolic links to parent folders"),
    "system folder": ("folder created by the system", "folders created by the system"),
    "hidden": ("hidden file or folder", "hidden files and folders"),
    "archive": ("archive", "archives"),
    "format": ("image in a format that is not supported", "images in formats that are not supported"),
    "extra": ("image in a format whose extra is missing", "images in a format whose extra is missing"),
    "suffix": ("file without an image suffix", "files without an image suffix"),
    "run folder": ("run or model folder", "run or model folders"),
    "no class": ("file or folder outside the class folders", "files and folders outside the class folders"),
}


def reason_to_skip(name: str, *, is_folder: bool) -> Reason | None:
    """Return why a file or folder with this name is skipped; None for folders to search and for images."""
    if is_folder and name in SYSTEM_FOLDERS:
        return "system folder"
    if name.startswith("."):
        return "hidden"
    lowered = name.lower()
    if not is_folder and lowered.endswith(JXL_SUFFIX) and not _has_jxl():
        return "extra"
    if is_folder or lowered.endswith(SUFFIXES):
        return None
    if lowered.endswith(UNSUPPORTED_SUFFIXES):
        return "format"
    return "archive" if lowered.endswith(ARCHIVE_SUFFIXES) else "suffix"


@cache
def _has_jxl() -> bool:
    return missing_package("jxl") is None


def _always(_: str) -> bool:
    return True


class Skipped:
    """Counts what is skipped in folders, by reason; memory does not grow with the number of files.

    Args:
        report: called with a line for each file or folder that is skipped.
        link_hint: how symbolic links can be included.

    Attributes:
        reads: whether the input with this path is read. Others need no content, because the caller drops them.
    """

    def __init__(self, report: Callable[[str], None] | None = None, link_hint: str = "") -> None:
        self._report = report
        self.reads: Callable[[str], bool] = _always
        self.counts: Counter[Reason] = Counter()
        self._details: dict[Reason, set[str]] = {"link": {link_hint} - {""}, "format": set(), "system folder": set()}
        self._details["extra"] = set()
        self._empty: list[str] = []
        self._num_empty = 0

    def add(self, path: str, reason: Reason) -> None:
        self.counts[reason] += 1
        if reason == "format":
            self._details[reason].add(os.path.splitext(path)[1].lower())
        elif reason == "extra":
            self._details[reason].add(f"{JXL_SUFFIX}: {pip_command('jxl')}")
        elif reason == "system folder":
            self._details[reason].add(os.path.basename(path))
        if self._report is not None:
            self._report(f"Skipped {printable(path)}: {NOUNS[reason][0]}")

    def merge(self, other: "Skipped") -> None:
        """Add what another process counted."""
        self.counts += other.counts
        for reason, details in other._details.items():
            self._details[reason] |= details
        self._empty = (self._empty + other._empty)[:MAX_NAMED]
        self._num_empty += other._num_empty

    def add_empty(self, folder: str) -> None:
        """Count a folder in which no images were found."""
        self._num_empty += 1
        if len(self._empty) < MAX_NAMED:
            self._empty.append(printable(folder))

    def summary(self) -> str:
        """Return the counts, such as ``3 symbolic links, 1 archive``, or nothing."""
        return ", ".join(self._part(reason) for reason in get_args(Reason) if self.counts[reason])

    def _part(self, reason: Reason) -> str:
        detail = ", ".join(sorted(self._details.get(reason, ())))
        return count_noun(self.counts[reason], *NOUNS[reason]) + (f" ({detail})" if detail else "")

    def sentence(self) -> str:
        """Return a line that reports what was skipped and which folders hold no images, or nothing."""
        skipped = f"Skipped {self.summary()}." if self.counts else ""
        more = self._num_empty - len(self._empty)
        names = ", ".join(self._empty) + (f" and {count_noun(more, 'more folder')}" if more else "")
        return " ".join(filter(None, (skipped, f"No images in {names}." if self._empty else "")))

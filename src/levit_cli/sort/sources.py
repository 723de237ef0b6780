"""The folders that images come from: their absolute paths, and the sidecars of an image.

A sidecar has the stem of the image (``a.xmp``) or its full name (``a.jpg.xmp``) and one of a few suffixes.
"""

import os
from collections.abc import Iterator

SIDECAR_SUFFIXES = (".xmp", ".json", ".aae")


class SourceFolders:
    """Folders that images come from. Each is read once."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}
        self._by_stem: dict[str, dict[str, list[str]]] = {}
        self._writable: dict[str, bool] = {}

    def absolute(self, path: str) -> str:
        """Return the absolute path of a file. Links to folders are resolved; a link to a file stays one."""
        parent, name = os.path.split(path)
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        return os.path.join(self._real[parent], name)

    def is_writable(self, folder: str) -> bool:
        """Return whether files of a folder can be moved away."""
        if folder not in self._writable:
            self._writable[folder] = os.access(folder, os.W_OK | os.X_OK)
        return self._writable[folder]

    def sidecars(self, image: str, moved: set[str]) -> Iterator[tuple[str, str, bool]]:
        """Yield the sidecars of an image: path, what follows the stem in its name, and whether other files share it.

        Args:
            moved: names of files with the same stem that earlier runs moved out of the folder.

        Raises:
            OSError: the folder cannot be listed.
        """
        parent, name = os.path.split(image)
        stem = os.path.splitext(name)[0]
        names = self._names(parent)
        with_stem = names.get(stem, [])
        owners = {other for other in (*with_stem, *moved) if not is_sidecar(other)}
        for other in with_stem:
            if is_sidecar(other) and other != name:
                yield os.path.join(parent, other), other[len(stem) :], len(owners | {name}) > 1
        for other in names.get(name, []) if name != stem else ():
            if is_sidecar(other):
                yield os.path.join(parent, other), other[len(stem) :], False

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Return the names of the files in a folder by their stem, sorted."""
        if folder not in self._by_stem:
            names: dict[str, list[str]] = {}
            with os.scandir(folder) as entries:
                for name in sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)):
                    names.setdefault(os.path.splitext(name)[0], []).append(name)
            self._by_stem[folder] = names
        return self._by_stem[folder]


def is_sidecar(name: str) -> bool:
    """Return whether a name has the suffix of a sidecar."""
    return os.path.splitext(name)[1].lower() in SIDECAR_SUFFIXES

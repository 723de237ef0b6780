"""A data set as people keep one: a folder that holds a folder of images for each class.

Read as torchvision's ``ImageFolder`` reads it: classes are numbered in the order of their folders' names. What differs:
an entry whose name begins with a dot, such as ``.ipynb_checkpoints``, is no class and no image, and the suffixes are
those that ``predict`` looks for.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from levit_cli.data.inputs import SUFFIXES
from levit_cli.errors import UsageError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
LAYOUT = "a data set is a folder that holds one folder of images for each class"


@dataclass(frozen=True)
class ClassFolders:
    """Images and the class of each.

    Args:
        root: the folder they were found in.
        classes: names, in the order of their numbers.
        samples: (path, number of its class), class after class, paths sorted within one.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[tuple[Path, int], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images in each class."""
        counted = Counter(index for _, index in self.samples)
        return tuple(counted[index] for index in range(len(self.classes)))


def class_folders(root: Path) -> ClassFolders:
    """List the images below ``root/CLASS/``, at any depth; symbolic links are followed, as torchvision does,
    but for those that lead back up.

    Raises:
        UsageError: no folder, or one that may not be read, or without class folders, or a class without images.
    """
    if not root.is_dir():
        raise UsageError(f"No folder {root}", hint=LAYOUT)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UsageError(f"No class folders in {root}", hint=LAYOUT)
    samples = [(path, index) for index, name in enumerate(classes) for path in _images(root / name)]
    found = ClassFolders(root, tuple(classes), tuple(samples))
    empty = [name for name, count in zip(classes, found.counts, strict=True) if not count]
    if empty:
        raise UsageError(f"No images in {root / empty[0]}", why=f"looked for {' '.join(SUFFIXES)}", hint=_more(empty))
    return found


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """The folders to train on and to validate on: ``train/`` and ``val/`` inside ``root``, or ``root`` alone.

    Raises:
        UsageError: one of the two is there without the other.
    """
    train, val = _first(root, TRAIN_NAMES), _first(root, VAL_NAMES)
    if train is None and val is None:
        return root, None
    if train is None or val is None:
        missing = "train/" if train is None else "val/ or test/"
        raise UsageError(f"{root} has {(train or val)} but no {missing} beside it", hint=LAYOUT)
    return train, val


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _images(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _leads_up(parent, name))
        found += (Path(parent, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    return sorted(found)


def _leads_up(parent: str, name: str) -> bool:
    """Whether this is a link to a folder on the way to it, below which everything would be found again and again."""
    path = Path(parent, name)
    return path.is_symlink() and os.path.realpath(path) in map(os.path.realpath, path.parents)


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is no empty one."""
    raise UsageError(f"Cannot read the folder {error.filename}", why=error.strerror or "", hint=LAYOUT) from error


def _more(empty: list[str]) -> str:
    return f"empty classes: {', '.join(empty)}" if len(empty) > 1 else "fill the folder or take it away"

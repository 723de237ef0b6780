"""Read a data set that has one folder of images per class.

The rules are those of torchvision's ``ImageFolder``: classes are numbered in the order of their folders' names. There
are two differences: entries whose name starts with a dot, such as ``.ipynb_checkpoints``, are ignored, and files count
as images if they have one of the suffixes that ``predict`` looks for.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from levit_cli.data.inputs import SUFFIXES
from levit_cli.errors import UsageError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
LAYOUT = "a data set is a folder that contains one folder of images per class"


@dataclass(frozen=True)
class ClassFolders:
    """Labelled images.

    Args:
        root: the folder that contains the class folders.
        classes: names of the class folders, sorted; a class's index is its position.
        samples: (path, class index), ordered by class and then by path.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[tuple[Path, int], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of images in each class."""
        images = Counter(index for _, index in self.samples)
        return tuple(images[index] for index in range(len(self.classes)))


def class_folders(root: Path) -> ClassFolders:
    """List the images below ``root/CLASS/`` at any depth.

    Symbolic links are followed, as in torchvision, except links to a parent folder, which would never end.

    Raises:
        UsageError: the folder does not exist, cannot be read or has no class folders, or a class has no images.
    """
    if not root.is_dir():
        raise UsageError(f"No folder {root}", hint=LAYOUT)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UsageError(f"No class folders in {root}", hint=LAYOUT)
    samples = [(path, index) for index, name in enumerate(classes) for path in _images(root / name)]
    folders = ClassFolders(root, tuple(classes), tuple(samples))
    empty = [name for name, count in zip(classes, folders.counts, strict=True) if not count]
    if empty:
        raise UsageError(
            f"No images in {root / empty[0]}", why=f"looked for {' '.join(SUFFIXES)}", hint=_hint_for_empty(empty)
        )
    return folders


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """Return the training folder and the validation folder: ``root/train`` and ``root/val``, or ``root`` and None.

    Raises:
        UsageError: only one of the two folders exists.
    """
    train, val = _first_folder(root, TRAIN_NAMES), _first_folder(root, VAL_NAMES)
    if train is None and val is None:
        return root, None
    if train is None or val is None:
        missing = "train/" if train is None else "val/ or test/"
        raise UsageError(f"{train or val} exists, but {root} has no {missing}", hint=LAYOUT)
    return train, val


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _images(folder: Path) -> list[Path]:
    images: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise_usage_error, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _links_to_parent(parent, name))
        images += (Path(parent, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    return sorted(images)


def _links_to_parent(parent: str, name: str) -> bool:
    """Whether this is a symbolic link to one of its own parent folders, which would be walked without end."""
    path = Path(parent, name)
    return path.is_symlink() and os.path.realpath(path) in map(os.path.realpath, path.parents)


def _raise_usage_error(error: OSError) -> None:
    """Report a folder that cannot be read; ``os.walk`` would skip it like an empty folder."""
    raise UsageError(f"Cannot read the folder {error.filename}", why=error.strerror or "", hint=LAYOUT) from error


def _hint_for_empty(classes: list[str]) -> str:
    return f"empty classes: {', '.join(classes)}" if len(classes) > 1 else "add images to the folder or remove it"

"""Read a data set that has one folder of images per class.

The rules are those of torchvision's ``ImageFolder``: classes are numbered in the order of their folders' names. There
are three differences. Names are composed (Unicode NFC), because some file systems store "é" as two characters. Hidden
entries, folders of thumbnails and run folders of ``levit finetune`` are skipped. Files count as images if they have one
of the suffixes that ``predict`` looks for. What is skipped is counted with its reason.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from levit_cli.data.input import Input
from levit_cli.data.labels import composed
from levit_cli.data.remote.names import url_of, without_secrets
from levit_cli.data.skipped import SUFFIXES, Reason, Skipped, reason_to_skip
from levit_cli.errors import UsageError
from levit_cli.system.atomic import same_file
from levit_cli.system.text import printable

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
RUN_FILES = ({"config.toml", "state.pt"}, {"config.json", "model.safetensors"})  # of a run or model folder
LAYOUT = "a data set is a folder that contains one folder of images per class"
MAX_LISTED = 5


Sample = tuple[Input, int]  # image, class index


@dataclass(frozen=True)
class ClassFolders:
    """The images of a labeled data set.

    Args:
        root: the folder that contains the class folders.
        classes: names of the class folders, composed and sorted; a class's index is its position.
        samples: (image, class index), ordered by class and then by path.
        skipped: counts of the files and folders that are not used.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: Skipped = field(default_factory=Skipped, compare=False)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of images in each class."""
        images = Counter(index for _, index in self.samples)
        return tuple(images[index] for index in range(len(self.classes)))


def class_folders(root: Path, skipped: Skipped | None = None, ignored: Path | None = None) -> ClassFolders:
    """List the images below ``root/CLASS/`` at any depth.

    Symbolic links are followed, as in torchvision, except links to a parent folder, which would form a cycle.

    Raises:
        UsageError: the folder does not exist, cannot be read or has no class folders; a class has no images, or two
            folders have the same name in Unicode. The message names all such folders.
    """
    folders, fault = read_class_folders(root, skipped or Skipped(), ignored)
    if fault:
        raise fault
    return folders


def read_class_folders(
    root: Path, skipped: Skipped, ignored: Path | None = None
) -> tuple[ClassFolders, UsageError | None]:
    """Return the class folders, and the error that names the unusable ones. Arguments as ``class_folders``.

    Raises:
        UsageError: the folder does not exist, cannot be read or has no class folders.
    """
    require_local(root)
    if not root.is_dir():
        raise UsageError(f"No folder {root}", hint=LAYOUT)
    folders = _class_paths(root, skipped, ignored)
    if not folders:
        raise UsageError(f"No class folders in {root}", hint=LAYOUT)
    images = _images_by_class(folders, skipped)
    classes = tuple(sorted(images))
    samples = tuple((image, index) for index, name in enumerate(classes) for image in images[name])
    return ClassFolders(root, classes, samples, skipped), _unusable(folders, images)


def require_local(root: Path) -> None:
    """Refuse a URL of object storage as the folder of a data set.

    Raises:
        UsageError: it is one.
    """
    if url := url_of(root):
        why = "only predict reads object storage"
        raise UsageError(
            f"Cannot read class folders in {without_secrets(url)}", why=why, hint="copy it to this machine first"
        )


def class_images(root: Path) -> dict[str, list[Input]]:
    """Return the images by class, also of classes without images.

    Raises:
        UsageError: a folder cannot be read.
    """
    return _images_by_class(_class_paths(root, skipped := Skipped()), skipped)


def _images_by_class(folders: Mapping[str, list[Path]], skipped: Skipped) -> dict[str, list[Input]]:
    return {
        name: [Input(str(path)) for folder in paths for path in _images(folder, skipped)]
        for name, paths in folders.items()
    }


def _class_paths(root: Path, skipped: Skipped, ignored: Path | None = None) -> dict[str, list[Path]]:
    """Return the folders in ``root`` by their composed name: one folder each, unless names differ in Unicode only."""
    folders: dict[str, list[Path]] = {}
    for entry in _entries(root):
        is_ignored = ignored is not None and same_file(entry.path, str(ignored))
        if reason := "run folder" if is_ignored else _reason_in_root(entry):
            skipped.add(entry.path, reason)
        else:
            folders.setdefault(composed(entry.name), []).append(Path(entry.path))
    return folders


def _reason_in_root(entry: "os.DirEntry[str]") -> Reason | None:
    if entry.is_dir():
        return _reason_to_skip(entry.path, entry.name)
    return "hidden" if entry.name.startswith(".") else "no class"


def _reason_to_skip(path: str, name: str) -> Reason | None:
    """Return why a folder is no class and holds no images of one."""
    if reason := reason_to_skip(name, is_folder=True):
        return reason
    is_run = any(all(os.path.isfile(os.path.join(path, file)) for file in files) for files in RUN_FILES)
    return "run folder" if is_run else None


def holds_images(path: Path) -> bool:
    """Whether this is a folder with images that is neither a run folder nor a model folder.

    Raises:
        UsageError: a folder cannot be read.
    """
    return path.is_dir() and not _reason_to_skip(str(path), path.name) and bool(_images(path, Skipped()))


def _unusable(folders: Mapping[str, list[Path]], images: Mapping[str, list[Input]]) -> UsageError | None:
    """Return one error for all classes without images and all names that two folders share."""
    twice = [" and ".join(ascii(path.name) for path in paths) for paths in folders.values() if len(paths) > 1]
    empty = [paths[0] for name, paths in folders.items() if not images[name]]
    faults = [f"the folders {names} have the same name in Unicode" for names in twice]
    if empty:
        faults.append(f"no images in {listed(empty)}, looked for {' '.join(SUFFIXES)}")
    if not faults:
        return None
    what = "; ".join(faults)
    hint = "move the images into one folder" if twice else _hint_for_empty(empty)
    return UsageError(what[0].upper() + what[1:], hint=hint)


def split_folders(root: Path) -> tuple[Path, Path | None]:
    """Return the training folder and the validation folder: ``root/train`` and ``root/val``, or ``root`` and None.

    A folder is one of the two only if both exist and both contain folders. Otherwise it is a class with that name.

    Raises:
        UsageError: only one of the two contains folders, and there is no other class folder.
    """
    train, val = _first_folder(root, TRAIN_NAMES), _first_folder(root, VAL_NAMES)
    if train and val:
        return train, val
    if half := train or val:
        others = _class_paths(root, Skipped()).keys() - {*TRAIN_NAMES, *VAL_NAMES}
        if not others:
            missing = "val/ or test/" if train else "train/"
            raise UsageError(f"{half} contains class folders, but {root} has no {missing} with class folders")
    return root, None


def validation_folder(root: Path) -> Path | None:
    """Return ``root/val`` if it is the validation half of a data set; the other half may be missing.

    Raises:
        UsageError: a folder cannot be read.
    """
    if not root.is_dir() or not (val := _first_folder(root, VAL_NAMES)):
        return None
    others = _class_paths(root, Skipped()).keys() - {*TRAIN_NAMES, *VAL_NAMES}
    return val if _first_folder(root, TRAIN_NAMES) or not others else None


def count_folders_beside(root: Path, train: Path, val: Path, skipped: Skipped) -> None:
    """Count the folders in ``root`` that are neither the training nor the validation folder as skipped."""
    for path in (path for paths in _class_paths(root, skipped).values() for path in paths):
        if path not in (train, val):
            skipped.add(str(path), "no class")


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if has_class_folders(root / name)), None)


def has_class_folders(folder: Path) -> bool:
    """Return whether this is a folder that contains folders other than hidden ones and thumbnails."""
    return folder.is_dir() and any(
        entry.is_dir() and not _reason_to_skip(entry.path, entry.name) for entry in _entries(folder)
    )


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise _cannot_read(error) from error


def _images(folder: Path, skipped: Skipped) -> list[Path]:
    return sorted(_walk(folder, skipped))


def _walk(folder: Path, skipped: Skipped) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_raise_usage_error, followlinks=True):
        folders[:] = sorted(_entered(parent, folders, skipped))
        for name in files:
            if reason := reason_to_skip(name, is_folder=False):
                skipped.add(os.path.join(parent, name), reason)
            else:
                yield Path(parent, name)


def _entered(parent: str, names: Iterable[str], skipped: Skipped) -> Iterator[str]:
    """Yield the subfolders that belong to the class."""
    for name in names:
        path = os.path.join(parent, name)
        reason = _reason_to_skip(path, name) or ("loop" if _links_to_parent(parent, name) else None)
        if reason:
            skipped.add(path, reason)
        else:
            yield name


def _links_to_parent(parent: str, name: str) -> bool:
    """Whether this is a symbolic link to one of its own parent folders, which would form a cycle."""
    path = Path(parent, name)
    return path.is_symlink() and os.path.realpath(path) in map(os.path.realpath, path.parents)


def _raise_usage_error(error: OSError) -> None:
    """Report a folder that cannot be read; ``os.walk`` would skip it as if it were empty."""
    raise _cannot_read(error) from error


def _cannot_read(error: OSError) -> UsageError:
    return UsageError(f"Cannot read the folder {error.filename}", why=error.strerror or "", hint=LAYOUT)


def listed(paths: Sequence[str | Path]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f", … ({len(paths) - MAX_LISTED:,} more)" if len(paths) > MAX_LISTED else ""
    return ", ".join(printable(str(path)) for path in paths[:MAX_LISTED]) + more


def _hint_for_empty(classes: list[Path]) -> str:
    return f"add images to {'the folder or remove it' if len(classes) == 1 else 'these folders or remove them'}"

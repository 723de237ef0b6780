"""The images of a run, as stored in its folder: ``--resume`` compares them with the images that are there now.

``images.jsonl`` has one line per image: its part (``train`` or ``val``), class, size in bytes, and path relative to the
data set. The data set may therefore be moved. Paths are compared in their composed form (Unicode NFC), because a copy
on another file system may store accents differently.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from levit_cli.data.image_folder import class_images, listed, split_folders
from levit_cli.data.input import Input
from levit_cli.data.labeled_files import base_of, is_labeled_file, read_labeled_file
from levit_cli.data.labels import composed
from levit_cli.data.skipped import Skipped
from levit_cli.errors import UsageError
from levit_cli.finetune.split import Split
from levit_cli.system.text import count_noun


@dataclass(frozen=True)
class StoredImage:
    """One line of ``images.jsonl``. The key is the composed relative path with slashes."""

    part: str
    class_name: str
    size: int
    key: str


@dataclass(frozen=True)
class PresentImage:
    """An image that is in the data set now."""

    image: Input
    class_name: str
    size: int


def key_of(path: str, root: Path) -> str:
    """Return the path of an image relative to the data set, with slashes; for a list, to its folder."""
    if is_labeled_file(root) and path.startswith(base_of(root)):
        return composed(path.removeprefix(base_of(root)).replace(os.sep, "/"))
    return composed(Path(path).relative_to(root).as_posix() if root.is_dir() else path)


def path_of(key: str, root: Path) -> str:
    """Return the path of an image that is not in the data set any more or was left out."""
    return base_of(root) + key if is_labeled_file(root) else str(root / key)


def as_lines(split: Split) -> str:
    """Return the content of ``images.jsonl``."""
    lines = (
        json.dumps([part, split.classes[index], image.size, key_of(image.path, split.root)])
        for part, samples in (("train", split.train), ("val", split.val))
        for image, index in samples
    )
    return "".join(f"{line}\n" for line in lines)


def from_lines(text: str) -> list[StoredImage]:
    """Return the images of ``images.jsonl``.

    Raises:
        ValueError, TypeError: the text is damaged.
    """
    images = [StoredImage(*json.loads(line)) for line in text.splitlines()]
    if not images or any(image.part not in ("train", "val") for image in images):
        raise ValueError("it does not list the images of a run")
    return images


def restore_split(images: Sequence[StoredImage], unreadable: Sequence[tuple[str, str]], root: Path) -> Split:
    """Return the split of the run, with the images where they are now.

    Args:
        unreadable: the images that the run left out, as (path relative to the data set, reason).

    Raises:
        UsageError: the data set is not there, or differs from that of the run.
    """
    present = find_present(root)
    if differences := compare(images, present, ignored={key for key, _ in unreadable}):
        raise UsageError(
            f"The images in {root} are not those of the run",
            why="; ".join(differences),
            hint="restore them to continue the run, or start another run",
        )
    classes = tuple(sorted({image.class_name for image in images if image.part == "train"}))
    indices = {name: index for index, name in enumerate(classes)}
    train, val = (
        tuple((present[image.key].image, indices[image.class_name]) for image in images if image.part == part)
        for part in ("train", "val")
    )
    return Split(root, classes, train, val, tuple((path_of(key, root), problem) for key, problem in unreadable))


def find_present(root: Path) -> dict[str, PresentImage]:
    """Return the images of a data set by key, also if it could not be trained with.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    if is_labeled_file(root) and root.exists():
        return _present_in_file(root)
    if not root.is_dir():
        hint = "give the folder where the images are now: levit finetune FOLDER -o RUN --resume"
        raise UsageError(f"No folder {root}", hint=hint)
    return {
        key_of(image.path, root): PresentImage(image, name, image.size)
        for side in split_folders(root)
        if side
        for name, images in class_images(side).items()
        for image in images
    }


def _present_in_file(root: Path) -> dict[str, PresentImage]:
    train, val, _ = read_labeled_file(root, Skipped())
    return {
        key_of(image.path, root): PresentImage(image, side.classes[index], image.size)
        for side in (train, val)
        if side
        for image, index in side.samples
        if image.load or os.path.exists(image.path)
    }


def compare(stored: Iterable[StoredImage], present: Mapping[str, PresentImage], ignored: set[str]) -> list[str]:
    """Return a phrase for each kind of difference between the images of the run and those that are there now.

    Args:
        ignored: keys of images that the run does not use.
    """
    before = {image.key: image for image in stored}
    now = {key: image for key, image in present.items() if key not in ignored or key in before}
    old_classes, new_classes = ({image.class_name for image in side} for side in (before.values(), now.values()))
    moved = {key for key in before.keys() & now.keys() if before[key].class_name != now[key].class_name}
    resized = {key for key in before.keys() & now.keys() if before[key].size != now[key].size}
    kinds = (
        ("class", "added", new_classes - old_classes),
        ("class", "removed", old_classes - new_classes),
        ("image", "added", now.keys() - before.keys()),
        ("image", "removed", before.keys() - now.keys()),
        ("image", "changed", moved | resized),
    )
    return [
        f"{count_noun(len(names), noun)} {'was' if len(names) == 1 else 'were'} {verb}: {listed(sorted(names))}"
        for noun, verb, names in kinds
        if names
    ]

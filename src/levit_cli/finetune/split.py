"""Find the training and validation images of a run, and exclude those that cannot be read."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from levit_cli.data.image_folder import ClassFolders, class_folders, split_folders
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.images.decode import decode
from levit_cli.predict.reader import open_regular
from levit_cli.system.cpu import usable_threads
from levit_cli.system.text import count_noun

Sample = tuple[Path, int]  # path, class index
Unreadable = tuple[Path, str]  # path, reason
SCAN_CHUNK = 256  # images submitted to the thread pool at once; bounds the memory
MAX_LISTED = 5


@dataclass(frozen=True)
class Split:
    """The images of a run.

    Args:
        classes: names in the order of the class indices.
        unreadable: images that were excluded, with the reason.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()


def find_images(root: Path, val_split: float, seed: int) -> Split:
    """Return the training and validation images: from ``train/`` and ``val/``, or split at random within each class.

    Raises:
        UsageError: the folder is not a data set, has only one class, or a class has too few images to split.
    """
    train_root, val_root = split_folders(root)
    train = class_folders(train_root)
    if len(train.classes) < 2:
        raise UsageError(f"{train_root} has only one class, {train.classes[0]}", why="training needs at least two")
    if val_root is not None:
        return Split(train.classes, train.samples, _same_classes(train, class_folders(val_root)))
    validation = _stratified(train, val_split, seed)
    return Split(
        train.classes,
        tuple(sample for sample in train.samples if sample not in validation),
        tuple(sample for sample in train.samples if sample in validation),
    )


def _same_classes(train: ClassFolders, val: ClassFolders) -> tuple[Sample, ...]:
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        names = ", ".join(unknown[:MAX_LISTED])
        raise UsageError(f"{val.root} has classes that are missing from {train.root}", why=names)
    return tuple((path, train.classes.index(val.classes[index])) for path, index in val.samples)


def _stratified(folders: ClassFolders, fraction: float, seed: int) -> set[Sample]:
    """Choose the validation images of each class: at least one, and never all."""
    validation: set[Sample] = set()
    for index, name in enumerate(folders.classes):
        samples = [sample for sample in folders.samples if sample[1] == index]
        if len(samples) < 2:
            raise UsageError(
                f"{folders.root / name} has only 1 image", why="a class needs 1 for training and 1 for validation"
            )
        count = min(max(round(fraction * len(samples)), 1), len(samples) - 1)
        validation.update(random.Random(f"{seed} {name}").sample(samples, count))
    return validation


def scan(split: Split, max_unreadable: float) -> Split:
    """Decode every image once, and exclude the unreadable ones.

    Raises:
        RefusedError: the fraction of unreadable images exceeds ``max_unreadable``, or a class has no readable image.
    """
    samples = (*split.train, *split.val)
    chunks = [samples[start : start + SCAN_CHUNK] for start in range(0, len(samples), SCAN_CHUNK)]
    with ThreadPoolExecutor(usable_threads()) as pool:
        unreadable = tuple(
            (path, problem)
            for chunk in chunks
            for (path, _), problem in zip(chunk, pool.map(_problem, chunk), strict=True)
            if problem
        )
    if len(unreadable) > max_unreadable * len(samples):
        raise RefusedError(
            f"{len(unreadable):,} of {count_noun(len(samples), 'image')} cannot be read",
            why="; ".join(f"{path}: {problem}" for path, problem in unreadable[:3]),
            hint="repair or remove them, or raise --max-unreadable",
        )
    return exclude(split, unreadable)


def exclude(split: Split, unreadable: Sequence[Unreadable]) -> Split:
    """Return the split without the unreadable images.

    Raises:
        RefusedError: a class has no training image left, or there is no validation image left.
    """
    paths = {path for path, _ in unreadable}
    train, val = (tuple(sample for sample in side if sample[0] not in paths) for side in (split.train, split.val))
    remaining = {index for _, index in train}
    empty = [name for index, name in enumerate(split.classes) if index not in remaining]
    if empty or not val:
        where = f"class {', '.join(empty)}" if empty else "the validation set"
        raise RefusedError(f"No readable image in {where}")
    return Split(split.classes, train, val, tuple(unreadable))


def read_image(path: Path) -> Image:
    """Decode the whole image to RGB, with its EXIF orientation applied.

    Raises:
        InputError: the image cannot be read.
    """
    with open_regular(str(path)) as file:
        return decode(file)


def _problem(sample: Sample) -> str:
    """Return why the image cannot be read; an empty string if it can."""
    try:
        read_image(sample[0])
    except InputError as error:
        return f"{error.kind}: {error.message}"
    return ""

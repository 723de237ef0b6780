"""Find the training and validation images of a run, and exclude those that cannot be read."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from levit_cli.data.image_folder import (
    LAYOUT,
    ClassFolders,
    Sample,
    count_folders_beside,
    listed,
    read_class_folders,
    split_folders,
)
from levit_cli.data.labeled_files import is_labeled_file, read_labeled_file
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.finetune.faults import Faults
from levit_cli.predict.reader import read_image
from levit_cli.system.cpu import usable_threads
from levit_cli.system.text import count_noun, is_utf8, printable

Unreadable = tuple[str, str]  # path, reason
SCAN_CHUNK = 256  # images submitted to the thread pool at once; bounds the memory


@dataclass(frozen=True)
class Split:
    """The images of a run.

    Args:
        root: the folder of the data set, which contains all images.
        classes: names in the order of the class indices.
        unreadable: images that were excluded, with the reason.
        has_val_folder: whether the data set has a validation folder; otherwise the split is random.
        skipped: counts of the files and folders that are not used.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    has_val_folder: bool = False
    skipped: Skipped = field(default_factory=Skipped, compare=False)


def find_images(root: Path, val_split: float, seed: int, run_folder: Path | None = None) -> Split:
    """Return the training and validation images: from ``train/`` and ``val/``, or split at random within each class.

    Args:
        run_folder: the folder of the new run, which is no class if it lies in ``root``.

    Raises:
        UsageError: the folder is not a data set, has only one class, or a class has too few images to split. The
            message names all faults.
    """
    if is_labeled_file(root):
        return _images_in_file(root, val_split, seed)
    train_root, val_root = split_folders(root)
    faults, skipped = Faults(), Skipped()
    sides = [read_class_folders(side, skipped, run_folder) for side in (train_root, val_root) if side]
    for _, fault in sides:
        if fault:
            faults.add(fault)
    train, val = sides[0][0], sides[1][0] if val_root else None
    _check_classes(train, val, faults)
    faults.refuse()
    if val_root:
        count_folders_beside(root, train_root, val_root, skipped)
    return _split(root, train, val, val_split, seed, skipped)


def _images_in_file(root: Path, val_split: float, seed: int) -> Split:
    faults, skipped = Faults(), Skipped()
    train, val, is_val_only = read_labeled_file(root, skipped)
    if is_val_only:
        raise UsageError(f"{root} contains validation images only", hint=LAYOUT)
    _check_classes(train, val, faults)
    faults.refuse()
    return _split(root, train, val, val_split, seed, skipped)


def _split(
    root: Path, train: ClassFolders, val: ClassFolders | None, val_split: float, seed: int, skipped: Skipped
) -> Split:
    if val:
        return Split(root, train.classes, train.samples, _same_classes(train, val), (), True, skipped)
    kept, validation = stratified(train, val_split, seed)
    return Split(root, train.classes, kept, validation, (), False, skipped)


def _check_classes(train: ClassFolders, val: ClassFolders | None, faults: Faults) -> None:
    """Add a fault for each reason why the classes cannot be trained with; it names the classes."""
    if len(train.classes) < 2:
        why = "training needs at least two"
        faults.add(UsageError(f"{train.root} has only one class, {printable(train.classes[0])}", why=why))
    if broken := [name for name in train.classes if not is_utf8(name)]:
        faults.add(UsageError(f"Names in {train.root} are not UTF-8: {listed(broken)}", hint="rename the folders"))
    if val and (unknown := sorted(set(val.classes) - set(train.classes))):
        faults.add(UsageError(f"{val.root} has classes that are missing from {train.root}", why=listed(unknown)))
    if not val and (single := [name for name, count in zip(train.classes, train.counts, strict=True) if count == 1]):
        has = "has only 1 image" if len(single) == 1 else "have only 1 image each"
        why = "a class needs 1 for training and 1 for validation"
        faults.add(UsageError(f"{listed([train.root / name for name in single])} {has}", why=why))


def _same_classes(train: ClassFolders, val: ClassFolders) -> tuple[Sample, ...]:
    """Return the validation images with the class indices of the training images."""
    indices = {name: index for index, name in enumerate(train.classes)}
    return tuple((image, indices[val.classes[index]]) for image, index in val.samples)


def stratified(folders: ClassFolders, fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return the training images and the validation images of each class: at least one, and never all."""
    by_class: dict[int, list[Sample]] = {}
    for sample in folders.samples:
        by_class.setdefault(sample[1], []).append(sample)
    validation: set[Sample] = set()
    for index, samples in by_class.items():
        count = min(max(round(fraction * len(samples)), 1), len(samples) - 1)
        validation.update(random.Random(f"{seed} {folders.classes[index]}").sample(samples, count))
    return (
        tuple(sample for sample in folders.samples if sample not in validation),
        tuple(sample for sample in folders.samples if sample in validation),
    )


def scan(split: Split, max_unreadable: float) -> Split:
    """Decode every image once, and exclude the unreadable ones.

    Raises:
        RefusedError: the fraction of unreadable images exceeds ``max_unreadable``, or a class has no readable image.
    """
    samples = (*split.train, *split.val)
    chunks = [samples[start : start + SCAN_CHUNK] for start in range(0, len(samples), SCAN_CHUNK)]
    with ThreadPoolExecutor(usable_threads()) as pool:
        unreadable = tuple(
            (image.path, problem)
            for chunk in chunks
            for (image, _), problem in zip(chunk, pool.map(_problem, chunk), strict=True)
            if problem
        )
    return without_unreadable(split, unreadable, max_unreadable)


def without_unreadable(split: Split, unreadable: Sequence[Unreadable], max_unreadable: float) -> Split:
    """Return the split without the unreadable images.

    Raises:
        RefusedError: their fraction exceeds ``max_unreadable``, or a class has no readable image.
    """
    total = len(split.train) + len(split.val)
    if len(unreadable) > max_unreadable * total:
        raise RefusedError(
            f"{len(unreadable):,} of {count_noun(total, 'image')} cannot be read",
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
    train, val = (tuple(sample for sample in side if sample[0].path not in paths) for side in (split.train, split.val))
    remaining = {index for _, index in train}
    empty = [name for index, name in enumerate(split.classes) if index not in remaining]
    if empty or not val:
        where = f"class {', '.join(empty)}" if empty else "the validation set"
        raise RefusedError(f"No readable image in {where}")
    return replace(split, train=train, val=val, unreadable=tuple(unreadable))


def _problem(sample: Sample) -> str:
    """Return why the image cannot be read; an empty string if it can."""
    try:
        read_image(sample[0])
    except InputError as error:
        return f"{error.kind}: {error.message}"
    return ""

"""Which images a run learns from and which it is validated on: found, looked through, the bad ones left out."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from levit_cli.data.image_folder import ClassFolders, class_folders, split_folders
from levit_cli.engines.spec import usable_threads
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.images.decode import decode
from levit_cli.predict.reader import open_regular

Sample = tuple[Path, int]
LOOKED_AT_ONCE = 256  # images handed to the threads that look through them


@dataclass(frozen=True)
class Split:
    """The images of a run.

    Args:
        classes: names in the order of their numbers.
        bad: what could not be read and is left out, with the reason.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    bad: tuple[tuple[Path, str], ...] = ()


def find_images(root: Path, val_split: float, seed: int) -> Split:
    """The training and validation images of a data set: of its two folders, or split class by class.

    Raises:
        UsageError: no data set, one class only, or nothing left to validate on.
    """
    train_root, val_root = split_folders(root)
    train = class_folders(train_root)
    if len(train.classes) < 2:
        raise UsageError(f"{train_root} has one class only, {train.classes[0]}", hint="there is nothing to tell apart")
    if val_root is not None:
        return Split(train.classes, train.samples, _same_classes(train, class_folders(val_root)))
    chosen = _stratified(train, val_split, seed)
    kept = tuple(sample for sample in train.samples if sample not in chosen)
    return Split(train.classes, kept, tuple(sample for sample in train.samples if sample in chosen))


def _same_classes(train: ClassFolders, val: ClassFolders) -> tuple[Sample, ...]:
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        raise UsageError(f"{val.root} has classes that {train.root} lacks", why=", ".join(unknown[:5]))
    return tuple((path, train.classes.index(val.classes[index])) for path, index in val.samples)


def _stratified(folders: ClassFolders, share: float, seed: int) -> set[Sample]:
    """One image at least of each class, and never all of one."""
    chosen: set[Sample] = set()
    for number, name in enumerate(folders.classes):
        samples = [sample for sample in folders.samples if sample[1] == number]
        if len(samples) < 2:
            raise UsageError(f"{folders.root / name} has one image only", why="one is needed to train, one to validate")
        count = min(max(round(share * len(samples)), 1), len(samples) - 1)
        chosen.update(random.Random(f"{seed} {name}").sample(samples, count))
    return chosen


def look_through(split: Split, max_unreadable: float) -> Split:
    """Decode every image once, and leave out those that cannot be.

    Raises:
        RefusedError: more than ``max_unreadable`` of them, or all of one class.
    """
    samples = (*split.train, *split.val)
    with ThreadPoolExecutor(usable_threads()) as pool:
        bad = tuple(
            (path, problem)
            for start in range(0, len(samples), LOOKED_AT_ONCE)
            for (path, _), problem in zip(
                samples[start : start + LOOKED_AT_ONCE],
                pool.map(_problem, samples[start : start + LOOKED_AT_ONCE]),
                strict=True,
            )
            if problem
        )
    if len(bad) > max_unreadable * len(samples):
        shown = "; ".join(f"{path}: {problem}" for path, problem in bad[:3])
        raise RefusedError(
            f"{len(bad)} of {len(samples)} images cannot be read",
            why=shown,
            hint="mend them, or raise --max-unreadable",
        )
    return without(split, bad)


def without(split: Split, bad: Sequence[tuple[Path, str]]) -> Split:
    """The split with these images left out.

    Raises:
        RefusedError: nothing is left of a class, or to validate on.
    """
    paths = {path for path, _ in bad}
    train, val = (tuple(sample for sample in side if sample[0] not in paths) for side in (split.train, split.val))
    left = {number for _, number in train}
    gone = [name for number, name in enumerate(split.classes) if number not in left]
    if gone or not val:
        raise RefusedError(f"No readable image is left of {', '.join(gone) or 'the validation set'}")
    return Split(split.classes, train, val, tuple(bad))


def image_of(path: Path) -> Image:
    """The whole image, oriented, in RGB.

    Raises:
        InputError: whatever is wrong with it.
    """
    with open_regular(str(path)) as file:
        return decode(file)


def _problem(sample: Sample) -> str:
    try:
        image_of(sample[0])
    except InputError as error:
        return f"{error.kind}: {error.message}"
    return ""

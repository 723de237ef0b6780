"""Pictures for training and validation: found, looked through, decoded and augmented.

What happens to a picture is decided by the run's seed, the epoch and the picture's place in it, and by nothing else:
neither the number of workers nor an interruption changes a run.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as Picture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from levit_cli.class_folders import ClassFolders, class_folders, split_folders
from levit_cli.decode import decode
from levit_cli.engines.spec import usable_threads
from levit_cli.errors import InputError, RefusedError, StoppedError, UsageError
from levit_cli.inputs import Input
from levit_cli.reading import Reader, open_regular
from levit_cli.recipes import Recipe
from levit_cli.training.settings import Settings

Sample = tuple[Path, int]
CROP_RATIO = (3 / 4, 4 / 3)  # sides of a training crop, as in Inception's and everyone's since
READERS_NICENESS = 19
LOOKED_AT_ONCE = 256  # pictures handed to the threads that look through them


@dataclass(frozen=True)
class Split:
    """The pictures of a run.

    Args:
        classes: names in the order of their numbers.
        bad: what could not be read and is left out, with the reason.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    bad: tuple[tuple[Path, str], ...] = ()


def find_pictures(root: Path, val_split: float, seed: int) -> Split:
    """The training and validation pictures of a data set: of its two folders, or split class by class.

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
    """One picture at least of each class, and never all of one."""
    chosen: set[Sample] = set()
    for number, name in enumerate(folders.classes):
        samples = [sample for sample in folders.samples if sample[1] == number]
        if len(samples) < 2:
            raise UsageError(
                f"{folders.root / name} has one picture only", why="one is needed to train, one to validate"
            )
        count = min(max(round(share * len(samples)), 1), len(samples) - 1)
        chosen.update(random.Random(f"{seed} {name}").sample(samples, count))
    return chosen


def look_through(split: Split, max_bad: float) -> Split:
    """Decode every picture once, and leave out those that cannot be.

    Raises:
        RefusedError: more than ``max_bad`` of them, or all of one class.
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
    if len(bad) > max_bad * len(samples):
        shown = "; ".join(f"{path}: {problem}" for path, problem in bad[:3])
        raise RefusedError(
            f"{len(bad)} of {len(samples)} pictures cannot be read", why=shown, hint="mend them, or raise --max-bad"
        )
    return without(split, bad)


def without(split: Split, bad: Sequence[tuple[Path, str]]) -> Split:
    """The split with these pictures left out.

    Raises:
        RefusedError: nothing is left of a class, or to validate on.
    """
    paths = {path for path, _ in bad}
    train, val = (tuple(sample for sample in side if sample[0] not in paths) for side in (split.train, split.val))
    left = {number for _, number in train}
    gone = [name for number, name in enumerate(split.classes) if number not in left]
    if gone or not val:
        raise RefusedError(f"No readable picture is left of {', '.join(gone) or 'the validation set'}")
    return Split(split.classes, train, val, tuple(bad))


def picture_of(path: Path) -> Picture:
    """The whole picture, oriented, in RGB.

    Raises:
        InputError: whatever is wrong with it.
    """
    with open_regular(str(path)) as file:
        return decode(file)


def _problem(sample: Sample) -> str:
    try:
        picture_of(sample[0])
    except InputError as error:
        return f"{error.kind}: {error.message}"
    return ""


class LostPictureError(StoppedError):
    """A picture that was there when the run began cannot be read any more. No other takes its place."""


class TrainingPictures(Dataset[Any]):
    """Augmented pictures (3, H, W) uint8 and their classes, by (epoch, place in the epoch, number of the sample)."""

    def __init__(self, samples: Sequence[Sample], settings: Settings, image_size: tuple[int, int]) -> None:
        self.samples, self.seed = samples, settings.seed
        self.transform = augmentation(settings, image_size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, place, number = key
        path, target = self.samples[number]
        try:
            picture = transforms.pil_to_tensor(picture_of(path))
        except InputError as error:
            raise LostPictureError(f"Cannot read {path} any more", why=error.message) from error
        with seeded(hash((self.seed, epoch, place))):
            return self.transform(picture), target


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other random numbers for a while; ``torch.manual_seed`` would cost a millisecond to think of GPUs."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def augmentation(settings: Settings, image_size: tuple[int, int]) -> v2.Transform:
    """The transform of one picture (3, any, any) uint8 into (3, H, W) uint8.

    RandAugment is torchvision's of the same magnitude, where the paper has timm's with its noise of the magnitude; an
    erased rectangle takes ImageNet's mean colour.
    """
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            list(image_size), scale=(settings.crop_scale, 1.0), ratio=CROP_RATIO,
            interpolation=v2.InterpolationMode.BICUBIC, antialias=True,
        )
    ]  # fmt: skip
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip())
    if settings.rand_augment:
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandAugment(magnitude=settings.rand_augment, interpolation=bilinear, fill=[124, 116, 104]))
    if settings.erasing:
        steps.append(v2.RandomErasing(settings.erasing, value=[124, 116, 104]))
    return v2.Compose(steps)


class ValidationPictures(Dataset[Any]):
    """Pictures (3, H, W) uint8 as ``levit predict`` sees them, and their classes."""

    def __init__(self, samples: Sequence[Sample], recipe: Recipe) -> None:
        self.samples, self.read = samples, Reader(recipe)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        path, target = self.samples[number]
        try:
            pixels = self.read(Input(str(path)))
        except InputError as error:
            raise LostPictureError(f"Cannot read {path} any more", why=error.message) from error
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), target


class EpochBatches:
    """The keys of one process's share of each batch of an epoch, from a step on.

    An epoch is a shuffle of all samples, ``repeats`` times over if asked for, cut to whole batches of the size that all
    processes have together; each takes every ``world``-th of a batch.
    """

    def __init__(
        self, count: int, settings: Settings, epoch: int, first_step: int, rank: int = 0, world: int = 1
    ) -> None:
        self.batch_size, self.steps = steps_of(count, settings)
        self.epoch, self.first_step, self.rank, self.world = epoch, first_step, rank, world
        shuffle = torch.Generator().manual_seed(hash((settings.seed, epoch)))
        self.order = torch.randperm(count, generator=shuffle).repeat_interleave(settings.repeats)[
            : self.steps * self.batch_size
        ]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.first_step, self.steps):
            places = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world)
            yield [(self.epoch, place, int(self.order[place])) for place in places]


def steps_of(count: int, settings: Settings) -> tuple[int, int]:
    """(pictures in a batch, batches in an epoch): an epoch shows ``count`` pictures, each repetition counted."""
    batch_size = min(settings.batch_size, count)
    return batch_size, count // batch_size


def training_loader(data: TrainingPictures, batches: EpochBatches, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(data, batch_sampler=batches, num_workers=workers, worker_init_fn=_be_reader)


def validation_loader(
    data: ValidationPictures, batch_size: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Every ``world``-th picture, so that all processes together see each once."""
    own = range(rank, len(data), world)
    return DataLoader(data, sampler=list(own), batch_size=batch_size, num_workers=workers, worker_init_fn=_be_reader)


def _be_reader(_: int) -> None:
    """What a process that reads pictures does first.

    A terminal or a service manager signals every process; only the one that saves shall act on it. And a reader takes
    what the training leaves of the processor: the other way round the training's threads wait for the one whose core
    it took (docs/log.md).
    """
    import os
    import signal

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(READERS_NICENESS)
    torch.set_num_threads(1)

"""Images for training and validation, decoded and augmented.

What happens to an image is decided by the run's seed, the epoch and the image's place in it, and by nothing else:
neither the number of workers nor an interruption changes a run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, TrainingStoppedError
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import Sample, image_of
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import to_tensor
from levit_cli.predict.reader import Reader

CROP_RATIO = (3 / 4, 4 / 3)  # sides of a training crop, as in Inception's and everyone's since
READERS_NICENESS = 19


class LostImageError(TrainingStoppedError):
    """An image that was there when the run began cannot be read any more. No other takes its place."""


class TrainingImages(Dataset[Any]):
    """Augmented images (3, H, W) uint8 and their classes, by (epoch, place in the epoch, number of the sample)."""

    def __init__(self, samples: Sequence[Sample], settings: Settings, image_size: tuple[int, int]) -> None:
        self.samples, self.seed = samples, settings.seed
        self.transform = augmentation(settings, image_size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, place, number = key
        path, target = self.samples[number]
        try:
            image = transforms.pil_to_tensor(image_of(path))
        except InputError as error:
            raise LostImageError(f"Cannot read {path} any more", why=error.message) from error
        with seeded(hash((self.seed, epoch, place))):
            return self.transform(image), target


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
    """The transform of one image (3, any, any) uint8 into (3, H, W) uint8.

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


class ValidationImages(Dataset[Any]):
    """Images (3, H, W) uint8 as ``levit predict`` sees them, and their classes."""

    def __init__(self, samples: Sequence[Sample], transform: Transform) -> None:
        self.samples, self.read = samples, Reader(transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        path, target = self.samples[number]
        try:
            pixels = self.read(Input(str(path)))
        except InputError as error:
            raise LostImageError(f"Cannot read {path} any more", why=error.message) from error
        return to_tensor(pixels).permute(2, 0, 1), target


class EpochBatches:
    """The keys of one process's share of each batch of an epoch, from a step on.

    An epoch is a shuffle of all samples, each ``repeated_augmentation`` times, cut to whole batches of the size that
    all processes have together; each takes every ``world``-th of a batch.
    """

    def __init__(
        self, count: int, settings: Settings, epoch: int, first_step: int, rank: int = 0, world: int = 1
    ) -> None:
        self.batch_size, self.steps = steps_of(count, settings)
        self.epoch, self.first_step, self.rank, self.world = epoch, first_step, rank, world
        shuffle = torch.Generator().manual_seed(hash((settings.seed, epoch)))
        self.order = torch.randperm(count, generator=shuffle).repeat_interleave(settings.repeated_augmentation)[
            : self.steps * self.batch_size
        ]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.first_step, self.steps):
            places = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world)
            yield [(self.epoch, place, int(self.order[place])) for place in places]


def steps_of(count: int, settings: Settings) -> tuple[int, int]:
    """(images in a batch, batches in an epoch): an epoch shows ``count`` images, each repetition counted."""
    batch_size = min(settings.batch_size, count)
    return batch_size, count // batch_size


def training_loader(data: TrainingImages, batches: EpochBatches, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(data, batch_sampler=batches, num_workers=workers, worker_init_fn=_be_reader)


def validation_loader(
    data: ValidationImages, batch_size: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Every ``world``-th image, so that all processes together see each once."""
    own = range(rank, len(data), world)
    return DataLoader(data, sampler=list(own), batch_size=batch_size, num_workers=workers, worker_init_fn=_be_reader)


def _be_reader(_: int) -> None:
    """What a process that reads images does first.

    A terminal or a service manager signals every process; only the one that saves shall act on it. And a reader takes
    what the training leaves of the processor: the other way round the training's threads wait for the one whose core
    it took (docs/dev/log.md).
    """
    import os
    import signal

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(READERS_NICENESS)
    torch.set_num_threads(1)

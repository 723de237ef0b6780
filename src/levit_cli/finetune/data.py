"""Load, decode and augment the images for training and validation.

The augmentation of an image depends only on the run's seed, the epoch and the image's position in the epoch. The
number of data-loader workers and an interruption therefore do not change a run.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from levit_cli.data.image_folder import Sample
from levit_cli.errors import InputError, TrainingStoppedError, reason_of
from levit_cli.finetune.settings import Settings
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import to_tensor
from levit_cli.predict.reader import Reader, read_image
from levit_cli.system.signals import blocked_signals, ignore_signals

CROP_RATIO = (3 / 4, 4 / 3)  # aspect ratios of a training crop, as in the Inception paper and torchvision
FILL_COLOR = [124, 116, 104]  # the ImageNet mean
WORKER_NICENESS = 19
SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_HINT = (
    "continue with --resume and --workers 0, which needs no shared memory, "
    "or with a larger /dev/shm (docker run --shm-size 1g)"
)

Loader = DataLoader[tuple[Tensor, Tensor]]  # pixels (B, 3, H, W) uint8, class indices (B,)


class LostImageError(TrainingStoppedError):
    """An image was readable when the run started and is not any more. It is not replaced by another image."""


@dataclass(frozen=True)
class Failure:
    """An error in place of a batch.

    Workers return it instead of raising the error, because torch would put the worker's traceback into the message.
    """

    what: str
    why: str
    hint: str = ""


class _Images(Dataset[Any]):
    """Images that are read by batch: a list of items, or the failure of one of them."""

    samples: Sequence[Sample]

    def __getitems__(self, keys: Sequence[Any]) -> list[tuple[Tensor, int]] | Failure:
        """Return the items of a batch. torch calls this method instead of ``__getitem__`` for each item."""
        items = []
        for key in keys:
            try:
                items.append(self[key])
            except TrainingStoppedError as error:
                return Failure(error.what, error.why, error.hint)
            except Exception as error:  # any error of torch, torchvision or Pillow
                image, _ = self.samples[key[-1] if isinstance(key, tuple) else key]
                return Failure(f"Cannot load {image.path}", reason_line(error))
        return items


def reason_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (reason_of(error).strip().splitlines() or [type(error).__name__])[0][:300]


def collate(items: list[tuple[Tensor, int]] | Failure) -> Any:
    """Return the items as one batch. In a worker this allocates shared memory."""
    if isinstance(items, Failure):
        return items
    try:
        return default_collate(items)
    except (RuntimeError, OSError) as error:
        why = f"{full_memory()} ({reason_line(error)})"
        return Failure("A data-loader worker cannot pass on its images", why, SHARED_MEMORY_HINT)


def full_memory() -> str:
    """Return the likely reason of an error in a worker: the shared memory is full, with its size."""
    try:
        size = f", which holds {shutil.disk_usage(SHARED_MEMORY).total >> 10:,} KB"
    except OSError:
        size = ""
    return f"the shared memory {SHARED_MEMORY} is full{size}"


def batches_of(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a loader.

    Raises:
        LostImageError: an image cannot be loaded any more.
        TrainingStoppedError: a worker has no shared memory for a batch.
    """
    for batch in loader:
        if isinstance(batch, Failure):
            kind = TrainingStoppedError if batch.hint == SHARED_MEMORY_HINT else LostImageError
            raise kind(batch.what, why=batch.why, hint=batch.hint)
        yield batch[0], batch[1]


class TrainingImages(_Images):
    """Augmented images (3, H, W) uint8 with their classes.

    The key of an item is (epoch, position in the epoch, index of the sample).
    """

    def __init__(self, samples: Sequence[Sample], settings: Settings, image_size: tuple[int, int]) -> None:
        self.samples, self.seed = samples, settings.seed
        self.transform = augmentation(settings, image_size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        epoch, position, index = key
        item, target = self.samples[index]
        try:
            image = transforms.pil_to_tensor(read_image(item))
        except InputError as error:
            raise LostImageError(f"Cannot read {item.path} any more", why=error.message) from error
        with seeded(hash((self.seed, epoch, position))):
            return self.transform(image), target


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore its state afterwards.

    ``torch.manual_seed`` also visits the GPUs, which costs a millisecond per call.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def augmentation(settings: Settings, image_size: tuple[int, int]) -> v2.Transform:
    """Return the augmentation of one image: (3, any, any) uint8 -> (3, H, W) uint8.

    RandAugment is torchvision's with the same magnitude; the paper uses timm's, which adds noise to the magnitude.
    Random erasing fills the rectangle with ImageNet's mean color.
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
        steps.append(v2.RandAugment(magnitude=settings.rand_augment, interpolation=bilinear, fill=FILL_COLOR))
    if settings.erasing:
        steps.append(v2.RandomErasing(settings.erasing, value=FILL_COLOR))
    return v2.Compose(steps)


class ValidationImages(_Images):
    """Images (3, H, W) uint8, preprocessed as in ``levit predict``, with their classes."""

    def __init__(self, samples: Sequence[Sample], transform: Transform) -> None:
        self.samples, self.read = samples, Reader(transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item, target = self.samples[index]
        try:
            pixels = self.read(item)
        except InputError as error:
            raise LostImageError(f"Cannot read {item.path} any more", why=error.message) from error
        return to_tensor(pixels).permute(2, 0, 1), target


class EpochBatches:
    """Batch sampler for one epoch and one process.

    An epoch is a shuffled list of all samples, each repeated ``repeated_augmentation`` times, cut to whole batches.
    A batch is shared by all processes: each process takes every ``world_size``-th item of it. The balanced sampler
    first draws as many samples from each class, see ``balanced_order``.

    Args:
        count: number of samples.
        first_step: the batch to start with, for a resumed epoch.
        classes: the class index of each sample, for the balanced sampler.
    """

    def __init__(
        self,
        count: int,
        settings: Settings,
        epoch: int,
        first_step: int,
        rank: int = 0,
        world_size: int = 1,
        classes: Sequence[int] = (),
    ) -> None:
        self.batch_size, self.steps = epoch_size(count, settings)
        self.count, self.settings, self.rank, self.world_size = count, settings, rank, world_size
        self.classes = torch.tensor(classes, dtype=torch.int64)
        self.start(epoch, first_step)

    def start(self, epoch: int, first_step: int) -> None:
        """Begin another epoch at this step."""
        self.epoch, self.first_step = epoch, first_step
        shuffle = torch.Generator().manual_seed(hash((self.settings.seed, epoch)))
        repetitions = self.settings.repeated_augmentation
        if self.settings.sampler == "balanced":
            order = balanced_order(self.classes, shuffle)
        else:
            order = torch.randperm(self.count, generator=shuffle)
        self.order = order.repeat_interleave(repetitions)[: self.steps * self.batch_size]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.first_step, self.steps):
            positions = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size)
            yield [(self.epoch, position, int(self.order[position])) for position in positions]


def balanced_order(classes: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices of N samples in random order, among which each class is equally frequent.

    The samples of a class are shuffled. If the class has too few, they are shuffled and taken again, so that none is
    taken twice more often than another one.

    Args:
        classes: (N,) class index of each sample.
    """
    by_class = torch.tensor_split(torch.argsort(classes, stable=True), torch.bincount(classes).cumsum(0)[:-1].tolist())
    groups = [indices for indices in by_class if len(indices)]
    quota = -(-len(classes) // len(groups))
    together = torch.cat([_repeated(indices, quota, generator) for indices in groups])
    return together[torch.randperm(len(together), generator=generator)[: len(classes)]]


def _repeated(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return this number of indices: one shuffled pass over them after another."""
    passes = range(-(-count // len(indices)))
    return torch.cat([indices[torch.randperm(len(indices), generator=generator)] for _ in passes])[:count]


def epoch_size(count: int, settings: Settings) -> tuple[int, int]:
    """Return (images per batch, batches per epoch). An epoch has ``count`` images, including repetitions."""
    batch_size = min(settings.batch_size, count)
    return batch_size, count // batch_size


class _SignalSafeLoader(DataLoader[tuple[Tensor, Tensor]]):
    """Starts its workers with signals blocked, so that no signal kills a worker before it ignores them."""

    def __iter__(self) -> Any:
        with blocked_signals():
            return super().__iter__()


def training_loader(images: TrainingImages, batches: EpochBatches, workers: int, *, pin_memory: bool = False) -> Loader:
    """Load the batches of one epoch after another; the workers live as long as the loader."""
    return _SignalSafeLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=_init_worker,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def validation_loader(
    images: ValidationImages,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    pin_memory: bool = False,
) -> Loader:
    """Load every ``world_size``-th image, so that the processes together load each image once."""
    indices = list(range(rank, len(images), world_size))
    return _SignalSafeLoader(
        images,
        sampler=indices,
        batch_size=batch_size,
        num_workers=workers,
        worker_init_fn=_init_worker,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


@dataclass(frozen=True)
class Loaders:
    """The data loaders of one process.

    Args:
        workers: number of data-loader worker processes; 0 loads the images in the training process.
        pin_memory: put the batches into page-locked memory, from which a GPU copies them while the host goes on.
    """

    training_images: TrainingImages
    validation_images: ValidationImages
    settings: Settings
    workers: int
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False

    @property
    def batch_size(self) -> int:
        """Images per optimizer step, over all processes."""
        return epoch_size(len(self.training_images), self.settings)[0]

    @property
    def steps_per_epoch(self) -> int:
        return epoch_size(len(self.training_images), self.settings)[1]

    def training(self, epoch: int, first_step: int) -> Loader:
        self._batches.start(epoch, first_step)
        return self._training

    def validation(self) -> Loader:
        return self._validation

    @cached_property
    def _batches(self) -> EpochBatches:
        classes = [index for _, index in self.training_images.samples]
        return EpochBatches(len(self.training_images), self.settings, 0, 0, self.rank, self.world_size, classes)

    @cached_property
    def _training(self) -> Loader:
        return training_loader(self.training_images, self._batches, self.workers, pin_memory=self.pin_memory)

    @cached_property
    def _validation(self) -> Loader:
        return validation_loader(
            self.validation_images, self.batch_size, self.workers, self.rank, self.world_size,
            pin_memory=self.pin_memory,
        )  # fmt: skip


def _init_worker(_: int) -> None:
    """Prepare a data-loader worker.

    It ignores SIGINT and SIGTERM, which a terminal or a service manager sends to every process: only the main process
    may act on them, because it saves the state. It runs at the lowest priority: otherwise the threads of the training
    step wait for the thread whose core a worker has taken (docs/dev/log.md). What libraries write to its standard
    error is discarded: errors come back as values, and torch writes a line of its own when a worker is killed.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    ignore_signals()
    if hasattr(os, "nice"):
        os.nice(WORKER_NICENESS)
    torch.set_num_threads(1)

"""The user's images for quantization: find them, choose those for the calibration, and decode them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.image_folder import class_folders, has_class_folders, require_local, validation_folder
from levit_cli.data.inputs import Input, walk
from levit_cli.data.labels import Labels
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError, RefusedError, UsageError
from levit_cli.eval.match_labels import match
from levit_cli.predict.prefetch import Prefetcher
from levit_cli.system.text import printable

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """An image and the index of its true class; None if the images have no classes."""

    image: Input
    target: int | None = None


def samples_of(folder: Path, labels: Labels, skipped: Skipped) -> list[Sample]:
    """Return the images of class folders, or of a folder without subfolders of images.

    Raises:
        UsageError: the folder does not exist or is a file or a URL, or a class folder is empty.
        RefusedError: a class folder matches no class of the model.
    """
    require_local(folder)
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"No folder {folder}"
        raise UsageError(what, hint="--data needs a folder of images, or one with a folder per class")
    if not _holds_classes(folder):
        return [Sample(image) for image in walk(str(folder), skipped) if image.error is None]
    folders = class_folders(validation_folder(folder) or folder, skipped)
    try:
        classes = match(folders.classes, labels)
    except RefusedError as error:
        hint = "to compare without classes, name a folder that contains images and no folders"
        raise RefusedError(error.what, why=error.why, hint="; ".join(filter(None, (error.hint, hint)))) from error
    return [Sample(image, classes[index]) for image, index in folders.samples]


def _holds_classes(folder: Path) -> bool:
    """Whether a folder contains folders of images, rather than images only."""
    if not has_class_folders(folder):
        return False
    return any(True for item in walk(str(folder), follow_links=True) if os.path.dirname(item.path) != str(folder))


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return the samples in a random order that depends only on the seed and their paths' order."""
    return Random(seed).sample(samples, len(samples))


def decoded(prefetcher: Prefetcher) -> Iterator[Pixels | InputError]:
    """Yield the pixels (H, W, 3) of each image, or its error, in order."""
    for _, outcome in prefetcher.outcomes():
        yield outcome if isinstance(outcome, InputError) else outcome.pixels


def inputs(samples: Iterable[Sample]) -> Iterator[Input]:
    """Yield the samples as inputs of the reader."""
    return (sample.image for sample in samples)


def describe_failure(path: str, error: InputError) -> str:
    """Return a path and its error in one line."""
    return f"{printable(path)}: {error.message}"

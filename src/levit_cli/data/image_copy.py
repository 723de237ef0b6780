"""Copy images that can only be read in their order to a temporary file, from which they are read in any order."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from levit_cli.data.input import Input
from levit_cli.errors import InputError, OutputError, reason_of


class ImageCopy:
    """A temporary file with the bytes of images. It is removed with the last input that reads from it.

    Processes that were started later may read from it, but only the one that made it removes it.
    """

    def __init__(self) -> None:
        descriptor, self.path = tempfile.mkstemp(prefix="levit-", suffix=".images")
        os.close(descriptor)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def read(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with suppress(OSError):
            os.remove(path)


@dataclass(frozen=True)
class _Failure:
    """Raises the error of an image that could not be read."""

    error: InputError

    def __call__(self) -> bytes:
        raise InputError(self.error.kind, self.error.message)


def copied(name: str, images: Iterable[Input]) -> list[Input]:
    """Return the images with their sizes, readable in any order.

    Args:
        name: the file that contains the images, for messages.
        images: inputs with ``load``.

    Raises:
        OutputError: the temporary file cannot be written, for example because its disk is full.
    """
    try:
        copy = ImageCopy()
        with open(copy.path, "wb") as file:
            return [_copied(image, copy, file) for image in images]
    except OSError as error:
        what = f"Cannot copy the images of {name} to {tempfile.gettempdir()}"
        hint = "set TMPDIR to a folder on a disk with more space"
        raise OutputError(what, why=reason_of(error), hint=hint) from error


def _copied(image: Input, copy: ImageCopy, file: BinaryIO) -> Input:
    assert image.load is not None
    try:
        content = image.load()
    except InputError as error:
        return replace(image, load=_Failure(error), num_bytes=0)
    offset = file.tell()
    file.write(content)
    return replace(image, load=partial(copy.read, offset, len(content)), num_bytes=len(content))

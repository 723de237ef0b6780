"""Read one input: get its bytes, decode the image, and apply the preprocessing."""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from levit_cli.choices import Decoding
from levit_cli.data.inputs import Input, is_url
from levit_cli.errors import InputError, reason_of
from levit_cli.images.decode import decode
from levit_cli.images.preprocess import preprocess
from levit_cli.images.transforms import Transform
from levit_cli.system.extras import extra
from levit_cli.system.files import open_regular

MAX_DOWNLOAD_BYTES = 100 << 20
MAX_STDIN_BYTES = 1 << 30
DOWNLOAD_TIMEOUT_S = 60.0


class Reader:
    """Reads an input and returns its preprocessed pixels, (H, W, 3) uint8.

    Args:
        transform: the preprocessing.
        decoding: ``fast`` lets the JPEG decoder scale large photos down.
        offline: do not download URLs.
    """

    def __init__(self, transform: Transform, decoding: Decoding = "exact", *, offline: bool = False) -> None:
        self.transform = transform
        # The decoder may scale an image down to the size that the preprocessing resizes to, but not below it.
        self._shrink_to = (transform.resize_to[1], transform.resize_to[0]) if decoding == "fast" else None
        self._offline = offline
        self._preprocess = _preprocessor(transform)

    def fetch(self, item: Input) -> Input:
        """Load the content of an input that is no file of its own; return the others unchanged."""
        if item.content is not None:
            return item
        if item.load is not None:
            return replace(item, content=_loaded(item.load), load=None)
        if item.is_stdin:
            return replace(item, content=_read_stdin())
        return replace(item, content=self._download(item.path)) if is_url(item.path) else item

    def __call__(self, item: Input) -> NDArray[np.uint8]:
        try:
            return self.preprocess(self._image(self.fetch(item)))
        except MemoryError:
            raise InputError("too_large", "not enough memory to decode it") from None
        except OSError as error:  # errors of the decoders are already InputErrors
            raise InputError("corrupt", f"the file cannot be read: {error.strerror or type(error).__name__}") from error

    def preprocess(self, image: Image) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3) of an upright RGB image."""
        return self._preprocess(image, self.transform)

    def _image(self, item: Input) -> Image:
        return read_image(item, self._shrink_to)

    def _download(self, url: str) -> bytes:
        if self._offline:
            raise InputError("download", "not downloaded, because --offline is set")
        from levit_cli.system import http as web  # importing it takes 40 ms, which local files do not need

        try:
            return web.fetch(url, max_bytes=MAX_DOWNLOAD_BYTES, timeout_s=DOWNLOAD_TIMEOUT_S)
        except web.FetchError as error:
            raise InputError("download", str(error)) from error


def read_image(item: Input, shrink_to: tuple[int, int] | None = None) -> Image:
    """Decode an image that is a file, or has its content or a function that loads it, to upright RGB.

    Args:
        shrink_to: as for ``decode``.

    Raises:
        InputError: the image cannot be read.
        OSError: the file cannot be read.
    """
    content = _loaded(item.load) if item.content is None and item.load is not None else item.content
    if content is not None:
        return decode(content, shrink_to)
    with open_regular(item.path) as file:
        return decode(file, shrink_to)


def _loaded(load: Callable[[], bytes]) -> bytes:
    try:
        return load()
    except MemoryError:
        raise InputError("too_large", "not enough memory to read it") from None
    except OSError as error:
        raise InputError("corrupt", f"it cannot be read: {reason_of(error)}") from error


def _preprocessor(transform: Transform) -> Callable[[Image, Transform], NDArray[np.uint8]]:
    if transform.resizer == "pillow":
        return preprocess
    with extra("torch", f"The preprocessing {transform.name}"):
        from levit_cli.images.resize_torch import preprocess_tensor

    return preprocess_tensor


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise InputError("empty_file", "standard input is closed")
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise InputError("too_large", f"more than {MAX_STDIN_BYTES:,} bytes on standard input")
    return data

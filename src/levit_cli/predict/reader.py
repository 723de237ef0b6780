"""Read one input: get its bytes, decode the image, and apply the preprocessing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from levit_cli.choices import Decoding, Resizer
from levit_cli.data.input import Input, is_url
from levit_cli.data.remote.names import is_remote
from levit_cli.errors import InputError, reason_of
from levit_cli.images.decode import decode, is_much_larger
from levit_cli.images.resizers import choose_resizer
from levit_cli.images.signatures import JPEG
from levit_cli.images.transforms import Transform
from levit_cli.system.files import open_regular

MAX_DOWNLOAD_BYTES = 100 << 20
MAX_STDIN_BYTES = 1 << 30
DOWNLOAD_TIMEOUT_S = 60.0


class ImageReader(Protocol):
    """What the decoders need of a reader.

    Attributes:
        shape: the shape of the arrays that it returns; -1 is a length that differs between inputs.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    def fetch(self, item: Input) -> Input: ...
    def __call__(self, item: Input) -> NDArray[np.uint8]: ...


class Fetcher:
    """Loads the content of inputs that are no files of their own.

    Args:
        offline: do not download URLs.
    """

    def __init__(self, *, offline: bool = False) -> None:
        self.offline = offline

    def fetch(self, item: Input) -> Input:
        """Load the content of an input that is no file of its own; return the others unchanged."""
        if item.content is not None:
            return item
        if item.load is not None:
            return replace(item, content=_loaded(item.load), load=None)
        if item.is_stdin:
            return replace(item, content=_read_stdin())
        if is_url(item.path):
            return replace(item, content=self._download(item.path))
        return replace(item, content=self._read_remote(item.path)) if is_remote(item.path) else item

    def _download(self, url: str) -> bytes:
        self._require_online()
        from levit_cli.system import http as web  # importing it takes 40 ms, which local files do not need

        try:
            return web.fetch(url, max_bytes=MAX_DOWNLOAD_BYTES, timeout_s=DOWNLOAD_TIMEOUT_S)
        except web.FetchError as error:
            raise InputError("download", str(error)) from error

    def _read_remote(self, url: str) -> bytes:
        self._require_online()
        from levit_cli.data.remote.sources import load

        return load(url)

    def _require_online(self) -> None:
        if self.offline:
            raise InputError("download", "not downloaded, because --offline is set")


class Reader(Fetcher):
    """Reads an input and returns its preprocessed pixels, (H, W, 3) uint8.

    Args:
        transform: the preprocessing.
        decoding: ``fast`` lets the JPEG decoder scale large photos down.
        resizer: what resizes; ``auto`` is SIMD if its package can be imported.
        offline: do not download URLs.

    Attributes:
        large_jpeg_s: seconds, summed over threads, for decoding exactly the JPEGs that ``fast`` would scale.

    Raises:
        UsageError, RefusedError: see ``choose_resizer``.
    """

    def __init__(
        self, transform: Transform, decoding: Decoding = "exact", resizer: Resizer = "auto", *, offline: bool = False
    ) -> None:
        super().__init__(offline=offline)
        self.transform, self.decoding = transform, decoding
        self._needed = (transform.resize_to[1], transform.resize_to[0])
        self.large_jpeg_s = 0.0
        self.resizer = choose_resizer(transform, resizer)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return (*self.transform.crop_size, 3)

    def __call__(self, item: Input) -> NDArray[np.uint8]:
        with reading():
            return self.preprocess(self._image(self.fetch(item)))

    def preprocess(self, image: Image) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3) of an upright RGB image."""
        return self.resizer.preprocess(image, self.transform)

    def _image(self, item: Input) -> Image:
        return read_image(item, self._decode)

    def _decode(self, source: bytes | BinaryIO) -> Image:
        if self.decoding == "fast":
            return decode(source, self._needed)
        start = time.perf_counter()
        image = decode(source)
        if is_much_larger(image.size, self._needed) and _first_bytes(source).startswith(JPEG):
            self.large_jpeg_s += time.perf_counter() - start  # threads may lose one of two additions, which is harmless
        return image


@contextmanager
def reading() -> Iterator[None]:
    """Convert what reading and decoding an image raises into an ``InputError``."""
    try:
        yield
    except MemoryError:
        raise InputError("too_large", "not enough memory to decode it") from None
    except OSError as error:  # errors of the decoders are already InputErrors
        raise InputError("corrupt", f"the file cannot be read: {error.strerror or type(error).__name__}") from error


def read_image(item: Input, decode_source: Callable[[bytes | BinaryIO], Image] = decode) -> Image:
    """Decode an image that is a file, or has its content or a function that loads it, to upright RGB.

    Raises:
        InputError: the image cannot be read.
        OSError: the file cannot be read.
    """
    content = _loaded(item.load) if item.content is None and item.load is not None else item.content
    if content is not None:
        return decode_source(content)
    with open_regular(item.path) as file:
        return decode_source(file)


def _first_bytes(source: bytes | BinaryIO) -> bytes:
    if isinstance(source, bytes):
        return source[: len(JPEG)]
    source.seek(0)
    return source.read(len(JPEG))


def _loaded(load: Callable[[], bytes]) -> bytes:
    try:
        return load()
    except MemoryError:
        raise InputError("too_large", "not enough memory to read it") from None
    except OSError as error:
        raise InputError("corrupt", f"it cannot be read: {reason_of(error)}") from error


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise InputError("empty_file", "standard input is closed")
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise InputError("too_large", f"more than {MAX_STDIN_BYTES:,} bytes on standard input")
    return data

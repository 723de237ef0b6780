"""Open image files with Pillow's decoders, by our limits and independently of the settings of the process.

``Image.open`` obeys settings that belong to the whole process: ``Image.MAX_IMAGE_PIXELS``, the warning filters, and
``ImageFile.LOAD_TRUNCATED_IMAGES``. A program that uses this package may have set them for its own purposes, and other
threads may change them at any time, so we must neither obey nor change them. Each decoder below is therefore a subclass
of Pillow's in which copies of Pillow's methods see other values of these names:

- The size limit is ``check_size``.
- Warnings about broken metadata are dropped, so that ``python -W error`` does not turn them into errors.
  ``warnings.catch_warnings`` would change the filters of all threads.
- Truncated files are errors.
- Messages to Pillow's logger are dropped.
"""

import struct
from functools import cache
from importlib import import_module
from io import BytesIO
from types import FunctionType, SimpleNamespace, new_class
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from levit_cli.errors import InputError

MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
LIMITS = f"the limits are {MAX_PIXELS:,} pixels in total and {MAX_SIDE:,} pixels per side"
HEAD_BYTES = 16
NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)  # what decoders raise about wrong headers


class Plugin(NamedTuple):
    """A format: the bytes at which its files start, and the module and the class of Pillow's decoder."""

    signatures: tuple[bytes, ...]
    module: str
    decoder: str


PLUGINS = {
    "JPEG": Plugin((b"\xff\xd8\xff",), "JpegImagePlugin", "JpegImageFile"),
    "PNG": Plugin((b"\x89PNG\r\n\x1a\n",), "PngImagePlugin", "PngImageFile"),
    "WEBP": Plugin((b"RIFF",), "WebPImagePlugin", "WebPImageFile"),
    "GIF": Plugin((b"GIF87a", b"GIF89a"), "GifImagePlugin", "GifImageFile"),
    "BMP": Plugin((b"BM",), "BmpImagePlugin", "BmpImageFile"),
    "TIFF": Plugin(
        (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"), "TiffImagePlugin", "TiffImageFile"
    ),
    "AVIF": Plugin((), "AvifImagePlugin", "AvifImageFile"),  # without signatures: ``heif`` and ``jpeg2000`` open these
    "JPEG2000": Plugin((), "Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}  # fmt: skip


def check_size(size: tuple[int, int]) -> None:
    """Raise ``too_large`` if an image of this (width, height) is beyond our limits."""
    width, height = size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError("too_large", f"{width} x {height} pixels; {LIMITS}")


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Read the headers of an image file.

    Raises:
        InputError: the declared size is too large.
        UnidentifiedImageError: the file has none of the formats in ``PLUGINS``.
        Exception: whatever else Pillow raises.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    for name, plugin in PLUGINS.items():
        if head.startswith(plugin.signatures):
            file.seek(0)
            return open_as(name, file)
    raise UnidentifiedImageError


def open_as(format: str, file: BinaryIO) -> ImageFile.ImageFile:
    """Read the headers of a file that has a format of ``PLUGINS``. Raises as ``open_image``."""
    try:
        image: ImageFile.ImageFile = _decoder(format)(file)
    except NOT_THIS_FORMAT as error:
        raise UnidentifiedImageError(str(error)) from error
    check_size(image.size)
    return image


def tiff_directory(data: bytes) -> tuple[Any, bool]:
    """Return the first directory of a TIFF file or of an EXIF block, and whether it was read to its end.

    Raises:
        Exception: whatever Pillow raises about a broken directory.
    """
    directory = _quiet_directory()(data[: 16 if data[2:3] == b"+" else 8])
    first = directory.next
    file = BytesIO(data)
    file.seek(first)
    directory.load(file)
    return directory, directory.next != first


# Each name that Pillow's code sees with another value.
_SEEN: dict[str, object] = {
    "Image": SimpleNamespace(**{**vars(Image), "_decompression_bomb_check": lambda size, **_: check_size(size)}),
    "ImageFile": SimpleNamespace(**{**vars(ImageFile), "LOAD_TRUNCATED_IMAGES": False}),
    "LOAD_TRUNCATED_IMAGES": False,
    "warnings": SimpleNamespace(warn=lambda *_, **__: None),
    "DECODE_CODEC_CHOICE": "auto",
    "_get_default_max_threads": lambda: 1,  # several images are decoded at the same time
    "logger": SimpleNamespace(debug=lambda *_: None, error=lambda *_: None),  # would print to standard error
}


def _copies(original: type, **seen: object) -> dict[str, FunctionType]:
    """Return copies of the methods that a class defines, which see other values of some global names."""
    return {
        name: _copy(function, {**_SEEN, **seen})
        for name, function in vars(original).items()
        if isinstance(function, FunctionType)
    }


def _copy(function: FunctionType, seen: dict[str, object]) -> FunctionType:
    names = {**function.__globals__, **{name: value for name, value in seen.items() if name in function.__globals__}}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )  # fmt: skip
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _StrictFile(ImageFile.ImageFile):
    """The part of Pillow's decoders that is the same for all formats. It follows them in the order of the classes."""

    load = _copies(ImageFile.ImageFile)["load"]


def subclass(original: type, bases: tuple[type, ...], **seen: object) -> type:
    """Return a subclass in which copies of the methods see other values of some global names."""
    names = {**_copies(original, **seen), "__module__": __name__}
    return new_class(original.__name__, (original, *bases), exec_body=lambda body: body.update(names))


@cache
def _decoder(format: str) -> Any:
    plugin = PLUGINS[format]
    original = getattr(import_module(f"PIL.{plugin.module}"), plugin.decoder)
    if format != "TIFF":
        return subclass(original, (_StrictFile,))
    decoder = subclass(original, (_StrictFile,), ImageFileDirectory_v2=_quiet_directory())
    decoder.load_end = _keep_orientation  # type: ignore[attr-defined]
    return decoder


def _keep_orientation(image: ImageFile.ImageFile) -> None:
    """Replace the method in which Pillow turns a TIFF upright: ``decode`` does so for all formats."""
    image._size = image.im.size


@cache
def _quiet_directory() -> Any:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    return subclass(ImageFileDirectory_v2, ())

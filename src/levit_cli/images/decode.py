"""Decode image bytes to an upright RGB image, or raise an ``InputError`` that says what is wrong.

``docs/formats.md`` lists the formats. The format is detected from the content, never from the file name. The declared
size is checked before any pixel is allocated, and every exception of a decoder becomes an ``InputError`` of this image.

An image with missing data is an error (``truncated``). Defects outside the image data are tolerated: broken or huge
metadata (texts, profiles) is skipped, and a JPEG may lack its end marker.
"""

from io import BytesIO
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from levit_cli.errors import InputError
from levit_cli.images import jpeg
from levit_cli.images.orientation import Metadata, metadata_of, upright
from levit_cli.images.plugins import check_size, open_image
from levit_cli.images.rgb import to_rgb
from levit_cli.images.signatures import (
    JPEG,
    PNG,
    OtherFormat,
    decoding_error,
    other_format,
    read_from_start,
    unidentified_error,
)

HEAD_BYTES = 512
FAST_FROM = 4  # how many times larger than needed a JPEG must be before its decoder may scale
# ... and how many times larger than needed it stays. Scaling further saves little time and costs accuracy (dev/log.md).
FAST_KEEPS = 2
TIFF_TILE_SIZE = (322, 323)  # tags for width and length


def decode(source: bytes | BinaryIO, shrink_to: tuple[int, int] | None = None) -> Image.Image:
    """Decode the first frame of an image, apply its EXIF orientation, and convert it to RGB.

    Args:
        source: the bytes, or a seekable binary file at its start.
        shrink_to: the (width, height) that is needed. A JPEG that is at least 4 times as large may be scaled by 2, 4
            or 8 while it is decoded, to not less than twice that size. None for exact pixels.

    Raises:
        InputError: the image cannot be decoded.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    head = file.read(HEAD_BYTES)
    if not head:
        raise InputError("empty_file", "the file is empty (0 bytes)")
    try:
        image, metadata = _load(file, head, shrink_to)
        turned = upright(image, metadata)
        del image  # a rotated image is a second copy
        return to_rgb(turned)
    except InputError:
        raise
    except MemoryError:
        raise InputError("too_large", "not enough memory to decode the image") from None
    except UnidentifiedImageError:
        raise _error_of(file, unidentified_error(head, file)) from None
    except Exception as error:  # decoders raise struct.error, SyntaxError, UnicodeDecodeError and more
        raise _error_of(file, decoding_error(str(error) or type(error).__name__, file)) from error


def _error_of(file: BinaryIO, error: InputError) -> InputError:
    if error.kind != "corrupt":
        return error
    from levit_cli.images.layouts import layout_error  # few images need it, and its import takes time

    return layout_error(read_from_start(file), error)


def _load(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> tuple[Image.Image, Metadata]:
    """Return the image as it is stored, and the metadata that may hold its orientation.

    Every JPEG and PNG is decoded without its metadata, so that metadata of any kind and size has the same result: none.
    """
    if head.startswith(JPEG):
        data, metadata = jpeg.split(read_from_start(file))
        return _load_jpeg(data, shrink_to), metadata
    if head.startswith(PNG):
        from levit_cli.images import png

        file, metadata = png.split(file)
        return _load_pixels(file), metadata
    if other := other_format(head):
        return _load_other(other, file, shrink_to)
    image = _load_pixels(file)
    return image, metadata_of(image)


def _load_other(format: OtherFormat, file: BinaryIO, shrink_to: tuple[int, int] | None) -> tuple[Image.Image, Metadata]:
    """Return an image in a format that has a module of its own, which is imported for such images alone."""
    if format == "HEIF":
        from levit_cli.images import heif

        return heif.load(file), Metadata()
    if format == "PNM":
        from levit_cli.images import pnm

        return pnm.load(file), Metadata()
    if format == "JPEG 2000":
        from levit_cli.images import jpeg2000

        return jpeg2000.load(file), Metadata()
    from levit_cli.images import jxl

    image = jxl.load(file)
    if isinstance(image, Image.Image):
        return image, Metadata()
    data, metadata = jpeg.split(image)
    return _load_jpeg(data, shrink_to), metadata


def _load_jpeg(data: bytes, shrink_to: tuple[int, int] | None) -> Image.Image:
    if data.endswith(jpeg.END_MARKER) or not jpeg.lacks_end_marker(data):
        return _load_pixels(BytesIO(data), shrink_to)
    versions = (_load_pixels(BytesIO(version), shrink_to) for version in jpeg.with_filler_and_end(data))
    first = next(versions, None)
    if first is not None and all(other == first for other in versions):
        return first
    _load_pixels(BytesIO(data), shrink_to)  # filler was decoded as image data; this raises the decoder's own error
    raise OSError("image file is truncated: the end marker is missing")


def _load_pixels(file: BinaryIO, shrink_to: tuple[int, int] | None = None) -> Image.Image:
    image = open_image(file)
    check_size(_tile_size(image))
    if image.format == "TIFF":
        from levit_cli.images.layouts import require_known_layout

        require_known_layout(image)
    if shrink_to and is_much_larger(image.size, shrink_to):
        image.draft("RGB", (FAST_KEEPS * shrink_to[0], FAST_KEEPS * shrink_to[1]))
    image.load()
    return image


def is_much_larger(size: tuple[int, int], needed: tuple[int, int]) -> bool:
    """Whether an image of that (width, height) is so large that ``--decode fast`` lets the decoder scale it."""
    return min(size[0] / needed[0], size[1] / needed[1]) >= FAST_FROM


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) of a TIFF's tiles, which are decoded whole even if the image is smaller."""
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag) for tag in TIFF_TILE_SIZE]
    width, height = (side if isinstance(side, int) else 0 for side in sides)
    return width, height

"""Decode image bytes to an upright RGB image, or raise an ``InputError`` that says what is wrong.

Six formats are decoded. The content decides which format a file has, never its name. The declared size is checked
before any pixel is allocated, and every exception of a decoder becomes an ``InputError`` of this image.

An image with missing data is an error (``truncated``). Defects outside the image data are tolerated: broken or huge
metadata (texts, profiles) is skipped, and a JPEG may lack its end marker.
"""

import warnings
from io import SEEK_END, BytesIO
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from levit_cli.errors import InputError
from levit_cli.images import jpeg
from levit_cli.images.rgb import to_rgb
from levit_cli.images.signatures import JPEG, PNG, decoding_error, read_from_start, unidentified_error

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
LIMITS = f"the limits are {MAX_PIXELS:,} pixels in total and {MAX_SIDE:,} pixels per side"
HEAD_BYTES = 512
LARGE_FILE_BYTES = 8 << 20
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND")  # the chunks that ``decode`` uses

EXIF_ORIENTATION = 0x0112
TIFF_TILE_SIZE = (322, 323)  # tags for width and length
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns above this limit and fails above twice as much. Our own check follows and has the better message.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Pillow warns about broken metadata, which we tolerate. Filters are set once because all threads share them.
warnings.filterwarnings("ignore", module="PIL")
assert not ImageFile.LOAD_TRUNCATED_IMAGES  # Pillow would fill missing data with gray; it must be an error


def decode(source: bytes | BinaryIO, shrink_to: tuple[int, int] | None = None) -> Image.Image:
    """Decode the first frame of an image, apply its EXIF orientation, and convert it to RGB.

    Args:
        source: the bytes, or a seekable binary file at its start.
        shrink_to: (width, height) down to which the JPEG decoder may scale by 2, 4 or 8; None for exact pixels.

    Raises:
        InputError: the image cannot be decoded.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    head = file.read(HEAD_BYTES)
    if not head:
        raise InputError("empty_file", "the file is empty (0 bytes)")
    try:
        return _decode_with_retry(file, head, shrink_to)
    except InputError:
        raise
    except MemoryError:
        raise InputError("too_large", "not enough memory to decode the image") from None
    except Image.DecompressionBombError as error:
        raise InputError("too_large", f"{str(error).partition(' exceeds')[0]}; {LIMITS}") from None
    except UnidentifiedImageError:
        raise unidentified_error(head, file) from None
    except Exception as error:  # decoders raise struct.error, SyntaxError, UnicodeDecodeError and more
        raise decoding_error(str(error) or type(error).__name__, file) from error


def _decode_with_retry(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Image.Image:
    try:
        return _decode(_without_large_metadata(file, head), shrink_to)
    except (InputError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        image = _decode_without_metadata(file, head, shrink_to)
        if image is None:
            raise
        return image


def _decode_without_metadata(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Image.Image | None:
    """Return the image if only its metadata or its end marker is defective, or None if image data is missing."""
    if head.startswith(PNG):
        return _decode(BytesIO(_png_without_metadata(read_from_start(file))), shrink_to)
    if head.startswith(JPEG):
        data = jpeg.without_metadata(read_from_start(file))
        versions = jpeg.with_filler_and_end(data) if jpeg.lacks_end_marker(data) else [data]
        images = (_decode(BytesIO(version), shrink_to) for version in versions)
        first = next(images, None)
        return first if all(other == first for other in images) else None  # else the filler shows in a gap
    return None


def _decode(file: BinaryIO, shrink_to: tuple[int, int] | None) -> Image.Image:
    image = Image.open(file, formats=ALLOWED_FORMATS)
    _check_size(*image.size)
    _check_size(*_tile_size(image))
    if shrink_to:
        image.draft("RGB", shrink_to)
    image.load()
    if image.format in ("JPEG", "MPO") and not _jpeg_has_end(file):
        raise OSError("image file is truncated: the end marker is missing")
    upright = _apply_orientation(image)
    del image  # a rotated copy needs as much memory again
    return to_rgb(upright)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError("too_large", f"{width} x {height} pixels; {LIMITS}")


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) of a TIFF's tiles, which are decoded whole even if the image is smaller."""
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag) for tag in TIFF_TILE_SIZE]
    width, height = (side if isinstance(side, int) else 0 for side in sides)
    return width, height


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Rotate or flip the image by its EXIF orientation; invalid values and broken EXIF blocks are ignored."""
    try:
        method = TRANSPOSE_BY_ORIENTATION.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # EXIF or XMP is broken, but the pixels are intact
        method = None
    return image.transpose(method) if method is not None else image


def _without_large_metadata(file: BinaryIO, head: bytes) -> BinaryIO:
    """Return the file, or a large JPEG without its metadata: Pillow joins EXIF blocks in quadratic time."""
    if head.startswith(JPEG) and file.seek(0, SEEK_END) > LARGE_FILE_BYTES:
        return BytesIO(jpeg.without_metadata(read_from_start(file)))
    return file


def _jpeg_has_end(file: BinaryIO) -> bool:
    file.seek(-len(jpeg.END_MARKER), SEEK_END)
    return file.read() == jpeg.END_MARKER or not jpeg.lacks_end_marker(read_from_start(file))


def _png_without_metadata(data: bytes) -> bytes:
    kept, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")  # length, name, data, checksum
        if data[position + 4 : position + 8] in PNG_CHUNKS:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)

"""From bytes to an upright RGB image, or to an ``InputError`` that says why not.

Six formats are decoded; what a file is, its content decides, never its name. The declared size is checked before any
pixel is allocated, and whatever a decoder raises concerns this file only.

An image of which anything is missing is refused as ``truncated``. What is wrong beside the image is no reason to
refuse it: notes (texts, profiles) that are broken or huge are left out, and a JPEG may lack its end marker.
"""

import warnings
from io import SEEK_END, BytesIO
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from levit_cli.errors import InputError
from levit_cli.images import jpeg
from levit_cli.images.rgb import to_rgb
from levit_cli.images.signatures import JPEG, PNG, broken, read_whole, unidentified

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
LIMITS = f"the limits are {MAX_PIXELS:,} pixels in all and {MAX_SIDE:,} a side"
SNIFFED_BYTES = 512
BULKY_BYTES = 8 << 20
PNG_IMAGE = (b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND")  # all that ``decode`` makes use of

EXIF_ORIENTATION = 0x0112
TILE_SIDES = (322, 323)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's own limit warns from here on and fails at twice as much; ours, checked right behind it, says it better.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Broken metadata is not news. Once for the process: its threads share the filters.
warnings.filterwarnings("ignore", module="PIL")
assert not ImageFile.LOAD_TRUNCATED_IMAGES  # a truncated image is an error, never gray below the cut


def decode(source: bytes | BinaryIO, shrink_to: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image's first frame, apply its EXIF orientation, convert it to RGB.

    Args:
        source: the bytes, or a seekable binary file at its start.
        shrink_to: (width, height) from which on the JPEG decoder may scale down by 2, 4 or 8; None for exact pixels.

    Raises:
        InputError: whatever is wrong with the image.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    head = file.read(SNIFFED_BYTES)
    if not head:
        raise InputError("empty_file", "the file is empty (0 bytes)")
    try:
        return _decode_or_look_again(file, head, shrink_to)
    except InputError:
        raise
    except MemoryError:
        raise InputError("too_large", "not enough memory to decode it") from None
    except Image.DecompressionBombError as error:
        raise InputError("too_large", f"{str(error).partition(' exceeds')[0]}; {LIMITS}") from None
    except UnidentifiedImageError:
        raise unidentified(head, file) from None
    except Exception as error:  # decoders raise struct.error, SyntaxError, UnicodeDecodeError and more
        raise broken(str(error) or type(error).__name__, file) from error


def _decode_or_look_again(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Image.Image:
    try:
        return _decode(_without_bulk(file, head), shrink_to)
    except (InputError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        image = _look_again(file, head, shrink_to)
        if image is None:
            raise
        return image


def _look_again(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Image.Image | None:
    """The image where nothing of it is missing and only what surrounds it is broken."""
    if head.startswith(PNG):
        return _decode(BytesIO(_png_without_notes(read_whole(file))), shrink_to)
    if head.startswith(JPEG):
        data = jpeg.without_notes(read_whole(file))
        versions = jpeg.with_ends(data) if jpeg.is_cut_short(data) else [data]
        images = (_decode(BytesIO(version), shrink_to) for version in versions)
        first = next(images, None)
        return first if all(other == first for other in images) else None
    return None


def _decode(file: BinaryIO, shrink_to: tuple[int, int] | None) -> Image.Image:
    image = Image.open(file, formats=ALLOWED_FORMATS)
    _check_size(*image.size)
    _check_size(*_tile_size(image))
    if shrink_to:
        image.draft("RGB", shrink_to)
    image.load()
    if image.format in ("JPEG", "MPO") and not _jpeg_has_end(file):
        raise OSError("image file is truncated: it has no end marker")
    upright = _upright(image)
    del image  # which may lie, and takes as much memory
    return to_rgb(upright)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError("too_large", f"{width} x {height} pixels; {LIMITS}")


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the tiles of a TIFF, each of which is decoded whole, however little of it is image."""
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag) for tag in TILE_SIDES]
    width, height = (side if isinstance(side, int) else 0 for side in sides)
    return width, height


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation means it; a value or a block that makes no sense is ignored."""
    try:
        method = UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF and XMP blocks; the pixels are fine
        method = None
    return image.transpose(method) if method is not None else image


def _without_bulk(file: BinaryIO, head: bytes) -> BinaryIO:
    """The file, or a large JPEG without its notes: Pillow joins EXIF blocks in quadratic time."""
    if head.startswith(JPEG) and file.seek(0, SEEK_END) > BULKY_BYTES:
        return BytesIO(jpeg.without_notes(read_whole(file)))
    return file


def _jpeg_has_end(file: BinaryIO) -> bool:
    file.seek(-len(jpeg.END_MARKER), SEEK_END)
    return file.read() == jpeg.END_MARKER or not jpeg.is_cut_short(read_whole(file))


def _png_without_notes(data: bytes) -> bytes:
    kept, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")  # length, name, content, checksum
        if data[position + 4 : position + 8] in PNG_IMAGE:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)

"""From bytes to an upright RGB picture, or to an ``InputError`` that says why not.

Six formats are decoded; what a file is, its content decides, never its name. The declared size is checked before any
pixel is allocated, and whatever a decoder raises concerns this file only.

Every Pillow mode becomes RGB by one rule:

- ``1 L P PA LA La RGB RGBA RGBa RGBX CMYK YCbCr HSV``: Pillow's own conversion. Transparency is dropped, not
  blended, as torchvision's loader, timm and transformers do. CMYK of Adobe's inverted kind is righted by the decoder.
- ``I;16`` in either byte order, and ``I`` with values of 0 to 65535: sixteen-bit gray, divided by 257 and rounded.
- ``F`` with values of 0 to 1: multiplied by 255 and rounded.
- ``LAB``: through its colour profile to sRGB.
- other ranges of ``I`` and ``F`` mean what nobody can know: refused.
"""

import warnings
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.Image import Image as Picture

from levit_cli.errors import InputError, InputErrorKind

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
SNIFFED_BYTES = 512

EXIF_ORIENTATION = 0x0112
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
warnings.filterwarnings(
    "ignore", module="PIL"
)  # broken metadata is not news; once for the process, as threads share it


class Signature(NamedTuple):
    """How a kind of file begins, and what we say of it."""

    offset: int
    magic: bytes
    looks_like: str
    kind: InputErrorKind


_REFUSED: InputErrorKind = "format_not_allowed"
_NO_IMAGE: InputErrorKind = "not_an_image"
_BROKEN: InputErrorKind = "corrupt"  # one of ours by its first bytes, unreadable all the same
SIGNATURES = (
    Signature(0, b"\xff\xd8", "a JPEG", _BROKEN),
    Signature(0, b"\x89PNG", "a PNG", _BROKEN),
    Signature(0, b"GIF8", "a GIF", _BROKEN),
    Signature(8, b"WEBP", "a WebP", _BROKEN),
    Signature(0, b"BM", "a BMP", _BROKEN),
    Signature(0, b"II*\0", "a TIFF", _BROKEN),
    Signature(0, b"MM\0*", "a TIFF", _BROKEN),
    Signature(0, b"%PDF", "a PDF", _REFUSED),
    Signature(0, b"%!PS", "PostScript", _REFUSED),
    Signature(0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", _REFUSED),
    Signature(0, b"8BPS", "a Photoshop file", _REFUSED),
    Signature(0, b"\0\0\1\0", "an icon (ICO)", _REFUSED),
    Signature(0, b"\0\0\0\x0cjP  ", "JPEG 2000", _REFUSED),
    Signature(4, b"ftyp", "HEIF, AVIF or a film", _REFUSED),
    Signature(0, b"<svg", "SVG", _REFUSED),
    Signature(0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the picture", _NO_IMAGE),
    Signature(0, b"<!doctype html", "an HTML page", _NO_IMAGE),
    Signature(0, b"<html", "an HTML page", _NO_IMAGE),
    Signature(0, b"PK\3\4", "a ZIP archive", _NO_IMAGE),
    Signature(0, b"\x1f\x8b", "gzip data", _NO_IMAGE),
)


def decode(source: bytes | BinaryIO, shrink_to: tuple[int, int] | None = None) -> Picture:
    """Decode a picture's first frame, apply its EXIF orientation, convert it to RGB.

    Args:
        source: the bytes, or a seekable binary file at its start.
        shrink_to: (width, height) from which on the JPEG decoder may scale down by 2, 4 or 8; None for exact pixels.

    Raises:
        InputError: whatever is wrong with the picture.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    head = file.read(SNIFFED_BYTES)
    file.seek(0)
    if not head:
        raise InputError("empty_file", "the file is empty (0 bytes)")
    try:
        return _decode(file, shrink_to)
    except UnidentifiedImageError:
        raise _unidentified(head, file) from None
    except MemoryError:
        raise InputError("too_large", "not enough memory to decode it") from None
    except InputError:
        raise
    except Exception as error:  # decoders raise struct.error, SyntaxError, UnicodeDecodeError and more
        raise _broken(error, file) from error


def _decode(file: BinaryIO, shrink_to: tuple[int, int] | None) -> Picture:
    image = Image.open(file, formats=ALLOWED_FORMATS)
    _check_size(*image.size)
    if shrink_to:
        image.draft("RGB", shrink_to)
    image.load()
    return to_rgb(_upright(image))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            "too_large", f"{width} x {height} pixels; the limits are {MAX_PIXELS:,} in all and {MAX_SIDE:,} a side"
        )


def _upright(image: Picture) -> Picture:
    """The picture as its EXIF orientation means it; a value or a block that makes no sense is ignored."""
    try:
        method = UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF and XMP blocks; the pixels are fine
        method = None
    return image.transpose(method) if method is not None else image


def to_rgb(image: Picture) -> Picture:
    """Convert any of Pillow's modes by the rules in this module's docstring.

    Raises:
        InputError: ``unsupported_mode`` where the range of the values cannot be known.
    """
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I;16"):
        return _scaled(image, 1 / 257)
    if mode == "I":
        return _scaled(image, 1 / 257, highest=65_535)
    if mode == "F":
        return _scaled(image, 255, highest=1)
    if mode == "LAB":
        return _lab_to_rgb(image)
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way loses the table of opacities and says so
    elif mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError("unsupported_mode", f"pixels of mode {mode} cannot be turned into RGB") from error


def _scaled(image: Picture, factor: float, highest: float | None = None) -> Picture:
    values = np.asarray(image).astype(np.float64)
    if highest is not None and not (values.min() >= 0 and values.max() <= highest):  # NaN fails too
        raise InputError(
            "unsupported_mode",
            f"gray values from {values.min():g} to {values.max():g} in mode {image.mode}: their range is not known, "
            f"only 0 to {highest:g} is",
        )
    return Image.fromarray(np.rint(values * factor).astype(np.uint8)).convert("RGB")


def _lab_to_rgb(image: Picture) -> Picture:
    from PIL import ImageCms  # loads a colour engine that hardly any picture needs

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # None only when it works in place
    return converted


def _unidentified(head: bytes, file: BinaryIO) -> InputError:
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, magic, looks_like, kind in SIGNATURES:
        at_start = head if offset else (head if head.startswith(magic) else lowered)
        if at_start[offset:].startswith(magic if at_start is head else magic.lower()):
            if kind == "corrupt":
                return _broken(ValueError(f"begins like {looks_like} but cannot be read"), file)
            return InputError(kind, f"this is {looks_like}")
    if b"<svg" in lowered:
        return InputError("format_not_allowed", "this is SVG")
    return InputError("not_an_image", f"this is {'text' if _is_text(head) else 'data of an unknown kind'}")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _broken(error: Exception, file: BinaryIO) -> InputError:
    message = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return InputError("too_large", message)
    if "truncated" in message.lower() or isinstance(error, EOFError) or _is_cut_short(file):
        return InputError("truncated", message)
    return InputError("corrupt", message)


def _is_cut_short(file: BinaryIO) -> bool:
    """Whether the file ends before its own format says it does."""
    file.seek(0)
    data = file.read()
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[2:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)
    return False


assert not ImageFile.LOAD_TRUNCATED_IMAGES  # a truncated picture is an error, never gray below the cut

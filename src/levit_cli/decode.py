"""From bytes to an upright RGB picture, or to an ``InputError`` that says why not.

Six formats are decoded; what a file is, its content decides, never its name. The declared size is checked before any
pixel is allocated, and whatever a decoder raises concerns this file only.

Every Pillow mode becomes RGB by one rule:

- ``1 L P PA LA La RGB RGBA RGBa RGBX CMYK YCbCr HSV``: Pillow's own conversion. Transparency is dropped, not
  blended, as torchvision's loader, timm and transformers do. CMYK of Adobe's inverted kind is righted by the decoder.
- ``I;16`` in either byte order, and ``I`` with values of 0 to 65535: sixteen-bit gray, divided by 257 and rounded.
  Pillow gives twelve-bit TIFFs this mode, too: there white is 4095.
- ``F`` with values of 0 to 1: multiplied by 255 and rounded.
- ``LAB``: through its colour profile to sRGB.
- other ranges of ``I`` and ``F`` mean what nobody can know: refused.

A picture of which anything is missing is refused as ``truncated``. What is wrong beside the picture is no reason to
refuse it: notes (texts, profiles) that are broken or huge are left out, and a JPEG may lack its end marker.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from io import SEEK_END, BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.Image import Image as Picture

from levit_cli.errors import InputError, InputErrorKind

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
LIMITS = f"the limits are {MAX_PIXELS:,} pixels in all and {MAX_SIDE:,} a side"
SNIFFED_BYTES = 512
SHORTEST_TEXT = 12  # bytes; what is shorter may be the beginning of a picture

JPEG, PNG, GIF, RIFF, BMP = b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0")  # either byte order; the large form
PNG_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"eXIf", b"IEND")  # all that ``decode`` makes use of
JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed 0xFF nor a restart
JPEG_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE = (0x01, 0xD8, 0xD9)  # markers without a length and content
JPEG_END, JPEG_SCAN, JPEG_EXIF = 0xD9, 0xDA, 0xE1
END_MARKER = bytes((0xFF, JPEG_END))
JPEG_NOTES = frozenset(range(0xE0, 0xF0)) - {0xEE} | {0xFE}  # 0xEE is Adobe's, which tells the colour space
BULKY_BYTES = 8 << 20
MAX_READ_BYTES = 1 << 29  # of a picture that is broken, to see how
TIFF_BITS, TIFF_STRIPS, TIFF_TILES = 258, (273, 279), (324, 325)  # (offsets, byte counts)

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
    Signature(0, JPEG, "a JPEG", _BROKEN),
    Signature(0, PNG, "a PNG", _BROKEN),
    Signature(0, GIF, "a GIF", _BROKEN),
    Signature(8, b"WEBP", "a WebP", _BROKEN),
    Signature(0, BMP, "a BMP", _BROKEN),
    *(Signature(0, magic, "a TIFF", _BROKEN) for magic in TIFFS),
    Signature(0, b"%PDF", "a PDF", _REFUSED),
    Signature(0, b"%!PS", "PostScript", _REFUSED),
    Signature(0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", _REFUSED),
    Signature(0, b"8BPS", "a Photoshop file", _REFUSED),
    Signature(0, b"\0\0\1\0", "an icon (ICO)", _REFUSED),
    Signature(0, b"\0\0\0\x0cjP  ", "JPEG 2000", _REFUSED),
    Signature(0, b"\xff\x4f\xff\x51", "JPEG 2000", _REFUSED),
    Signature(0, b"\0\0\0\x0cJXL ", "JPEG XL", _REFUSED),
    Signature(0, b"\xff\x0a", "JPEG XL", _REFUSED),
    *(Signature(0, b"P%d\n" % kind, "a portable bitmap, graymap or pixmap (PNM)", _REFUSED) for kind in range(1, 7)),
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
        raise _unidentified(head, file) from None
    except Exception as error:  # decoders raise struct.error, SyntaxError, UnicodeDecodeError and more
        raise _broken(str(error) or type(error).__name__, file) from error


def _decode_or_look_again(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Picture:
    try:
        return _decode(_without_bulk(file, head), shrink_to)
    except (InputError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        picture = _look_again(file, head, shrink_to)
        if picture is None:
            raise
        return picture


def _look_again(file: BinaryIO, head: bytes, shrink_to: tuple[int, int] | None) -> Picture | None:
    """The picture where nothing of it is missing and only what surrounds it is broken."""
    if head.startswith(PNG):
        return _decode(BytesIO(_png_without_notes(_whole(file))), shrink_to)
    if head.startswith(JPEG):
        data = _jpeg_without_notes(_whole(file))
        versions = _jpeg_with_ends(data) if _jpeg_is_cut_short(data) else [data]
        pictures = (_decode(BytesIO(version), shrink_to) for version in versions)
        first = next(pictures, None)
        return first if all(other == first for other in pictures) else None
    return None


def _decode(file: BinaryIO, shrink_to: tuple[int, int] | None) -> Picture:
    image = Image.open(file, formats=ALLOWED_FORMATS)
    _check_size(*image.size)
    if shrink_to:
        image.draft("RGB", shrink_to)
    image.load()
    if image.format in ("JPEG", "MPO") and not _jpeg_has_end(file):
        raise OSError("image file is truncated: it has no end marker")
    return to_rgb(_upright(image))


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_READ_BYTES)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError("too_large", f"{width} x {height} pixels; {LIMITS}")


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
        return _scaled(image, 255 / (4095 if _has_twelve_bits(image) else 65_535))
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
    values = np.asarray(image).astype(np.float32)
    if highest is not None and not (values.min() >= 0 and values.max() <= highest):  # NaN fails too
        raise InputError(
            "unsupported_mode",
            f"gray values from {values.min():g} to {values.max():g} in mode {image.mode}: their range is not known, "
            f"only 0 to {highest:g} is",
        )
    values *= factor
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8)).convert("RGB")


def _has_twelve_bits(image: Picture) -> bool:
    return getattr(image, "tag_v2", {}).get(TIFF_BITS) == (12,)


def _lab_to_rgb(image: Picture) -> Picture:
    from PIL import ImageCms  # loads a colour engine that hardly any picture needs

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # None only when it works in place
    return converted


def _without_bulk(file: BinaryIO, head: bytes) -> BinaryIO:
    """The file, or a large JPEG without its notes: Pillow joins EXIF blocks in quadratic time."""
    if head.startswith(JPEG) and file.seek(0, SEEK_END) > BULKY_BYTES:
        return BytesIO(_jpeg_without_notes(_whole(file)))
    return file


def _jpeg_has_end(file: BinaryIO) -> bool:
    file.seek(-len(END_MARKER), SEEK_END)
    return file.read() == END_MARKER or not _jpeg_is_cut_short(_whole(file))


def _png_without_notes(data: bytes) -> bytes:
    kept, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")  # length, name, content, checksum
        if data[position + 4 : position + 8] in PNG_PICTURE:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


class Segment(NamedTuple):
    """A marker of a JPEG with its content; in a file from ``start`` to ``end``."""

    marker: int
    content: bytes
    start: int
    end: int


def _jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the end marker; what is coded behind the header of a scan belongs to none."""
    end = 0
    while found := JPEG_MARKER.search(data, end):
        start, end = found.span()
        marker = found[1][0]
        length = 0 if marker in JPEG_BARE else int.from_bytes(data[end : end + 2], "big")
        yield Segment(marker, data[end + 2 : end + length], start, end + length)
        end += length
        if marker == JPEG_END:
            return


def _jpeg_without_notes(data: bytes) -> bytes:
    """All but texts and profiles; of EXIF, only the first block, which has the orientation."""
    kept: list[bytes] = []
    has_exif = False
    for segment in _jpeg_segments(data):
        if segment.marker == JPEG_SCAN:
            return b"".join([*kept, data[segment.start :]])
        is_exif = segment.marker == JPEG_EXIF and segment.content.startswith(b"Exif") and not has_exif
        has_exif |= is_exif
        if is_exif or segment.marker not in JPEG_NOTES:
            kept.append(data[segment.start : segment.end])
    return b"".join(kept)


def _jpeg_with_ends(data: bytes) -> list[bytes]:
    """Versions of a JPEG without end marker that show the same picture if nothing but the marker is missing.

    Decoders skip what lies between complete data and the end marker, but draw what they find in place of missing data.
    """
    if not _jpeg_scans_are_complete(data) or data.endswith(bytes(2)):  # zeros: a download whose rest never came
        return []
    filling = bytes(range(255)) * 16  # no marker; more than any block of coefficients takes
    restarts = len(JPEG_RESTART.findall(data, data.rfind(bytes((0xFF, JPEG_SCAN)))))
    restart = bytes((0xFF, 0xD0 + restarts % 8))  # the next one, or a cut in front of it would be skipped to the end
    fillers = (filling, filling[::-1], filling[85:])
    return [data.rstrip(b"\xff") + filler + restart + filler + END_MARKER for filler in fillers]


def _jpeg_scans_are_complete(data: bytes) -> bool:
    """Whether the scans together code every coefficient of every component down to its last bit."""
    missing = {(0, 0)}
    for segment in _jpeg_segments(data):
        content = segment.content
        if segment.marker in JPEG_FRAMES:  # ..., count, (component, sampling, table) each
            missing = {(content[6 + 3 * i], k) for i in range(content[5]) for k in range(64)}
        elif segment.marker == JPEG_SCAN and not content[-1] & 15:  # count, (component, tables) each, first, last, bits
            missing -= {(content[1 + 2 * i], k) for i in range(content[0]) for k in range(content[-3], content[-2] + 1)}
    return not missing


def _unidentified(head: bytes, file: BinaryIO) -> InputError:
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, magic, looks_like, kind in SIGNATURES:
        at_start = head if offset else (head if head.startswith(magic) else lowered)
        if at_start[offset:].startswith(magic if at_start is head else magic.lower()):
            if kind != _BROKEN:
                return InputError(kind, f"this is {looks_like}")
            if len(head) < SHORTEST_TEXT or not _is_text(head):  # "BMW" is no bitmap
                return _broken(f"begins like {looks_like} but cannot be read", file)
    if _is_beginning(head):
        return InputError("truncated", f"only the first {len(head)} bytes of a picture")
    if b"<svg" in lowered:
        return InputError("format_not_allowed", "this is SVG")
    return InputError("not_an_image", f"this is {'text' if _is_text(head) else 'data of an unknown kind'}")


def _is_beginning(head: bytes) -> bool:
    """Whether the file ends amid the signature of a picture."""
    if head.startswith(RIFF[: len(head)]):
        return len(head) < 12
    return any(magic.startswith(head) for offset, magic, _, kind in SIGNATURES if kind == _BROKEN and not offset)


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _broken(message: str, file: BinaryIO) -> InputError:
    if "truncated" in message.lower() or _is_cut_short(_whole(file)):
        return InputError("truncated", message)
    return InputError("corrupt", message)


def _is_cut_short(data: bytes) -> bool:
    """Whether the data ends before its own format says it does."""
    for magic, ends_early in ENDS_EARLY:
        if data.startswith(magic):
            try:
                return ends_early(data)
            except Exception:  # not even its headers are whole
                return True
    return False


def _jpeg_is_cut_short(data: bytes) -> bool:
    return all(segment.marker != JPEG_END for segment in _jpeg_segments(data))


def _png_is_cut_short(data: bytes) -> bool:
    return b"IEND" not in data


def _gif_is_cut_short(data: bytes) -> bool:
    position = 13 + _gif_palette_bytes(data[10])
    while data[position] in b"!,":  # an extension or an image; each ends in blocks that begin with their length
        position += 2 if data[position] == ord("!") else 11 + _gif_palette_bytes(data[position + 9])
        while data[position]:
            position += 1 + data[position]
        position += 1
    return False


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp_is_cut_short(data: bytes) -> bool:
    return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)


def _bmp_is_cut_short(data: bytes) -> bool:
    return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)


def _tiff_is_cut_short(data: bytes) -> bool:
    """Whether the first directory, or anything that it refers to, lies behind the end."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(data[: 16 if data[2] == ord("+") else 8])
    first = directory.next
    file = BytesIO(data)
    file.seek(first)
    directory.load(file)
    if directory.next == first:  # where the next one is stands behind the directory, and was not reached
        return True
    for offsets, sizes in (TIFF_STRIPS, TIFF_TILES):
        if offsets in directory and sizes in directory:
            return any(sum(extent) > len(data) for extent in zip(directory[offsets], directory[sizes], strict=False))
    return True


ENDS_EARLY: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bool]], ...] = (
    (JPEG, _jpeg_is_cut_short),
    (PNG, _png_is_cut_short),
    (GIF, _gif_is_cut_short),
    (RIFF, _webp_is_cut_short),
    (BMP, _bmp_is_cut_short),
    (TIFFS, _tiff_is_cut_short),
)

assert not ImageFile.LOAD_TRUNCATED_IMAGES  # a truncated picture is an error, never gray below the cut

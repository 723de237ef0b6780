"""Identify file formats by their first bytes, and detect truncated files by the structure of their format."""

import re
from collections.abc import Callable
from io import SEEK_END
from typing import BinaryIO, Literal, NamedTuple

from levit_cli.errors import InputError, InputErrorKind
from levit_cli.images import jpeg
from levit_cli.images.plugins import tiff_directory
from levit_cli.system.text import count_noun

MIN_TEXT_BYTES = 12  # a shorter file may be a truncated image
MAX_READ_BYTES = 1 << 29  # of a broken image, to determine what is wrong with it

JPEG, PNG, GIF, RIFF, BMP = b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0")  # both byte orders; BigTIFF
HEIF_BOX, JP2_BOX, JXL_BOX = b"ftyp", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL "
JPEG2000_CODESTREAM, JXL_CODESTREAM = b"\xff\x4f\xff\x51", b"\xff\x0a"
PNM = re.compile(rb"P[1-6](?:\s+[0-9#]|\s*\Z)")  # a text may begin with P1, too
OtherFormat = Literal["HEIF", "JPEG 2000", "JPEG XL", "PNM"]
TIFF_STRIPS, TIFF_TILES = (273, 279), (324, 325)  # (offsets, byte counts)


class Signature(NamedTuple):
    """The bytes that identify a format, and the error for a file that has them but cannot be decoded."""

    offset: int
    magic: bytes
    description: str
    kind: InputErrorKind


_REFUSED: InputErrorKind = "format_not_allowed"
_NOT_AN_IMAGE: InputErrorKind = "not_an_image"
_OTHER_MODE: InputErrorKind = "unsupported_mode"
_BROKEN: InputErrorKind = "corrupt"  # a supported format that cannot be decoded
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
    Signature(0, JP2_BOX, "JPEG 2000", _BROKEN),
    Signature(0, JPEG2000_CODESTREAM, "JPEG 2000", _BROKEN),
    Signature(0, JXL_BOX, "JPEG XL", _BROKEN),
    Signature(0, JXL_CODESTREAM, "JPEG XL", _BROKEN),
    Signature(4, HEIF_BOX, "HEIC or AVIF", _BROKEN),
    Signature(0, b"P7\n", "a portable arbitrary map (PAM)", _REFUSED),
    *(Signature(0, magic, "a PNM with floating-point values (PFM)", _OTHER_MODE) for magic in (b"PF\n", b"Pf\n")),
    Signature(0, b"<svg", "SVG", _REFUSED),
    Signature(0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the image", _NOT_AN_IMAGE),
    Signature(0, b"<!doctype html", "an HTML page", _NOT_AN_IMAGE),
    Signature(0, b"<html", "an HTML page", _NOT_AN_IMAGE),
    Signature(0, b"PK\3\4", "a ZIP archive", _NOT_AN_IMAGE),
    Signature(0, b"\x1f\x8b", "gzip data", _NOT_AN_IMAGE),
    Signature(0, b"BZh", "bzip2 data", _NOT_AN_IMAGE),
    Signature(0, b"\xfd7zXZ\0", "xz data", _NOT_AN_IMAGE),
    Signature(0, b"\x28\xb5\x2f\xfd", "Zstandard data", _NOT_AN_IMAGE),
    Signature(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _NOT_AN_IMAGE),
    Signature(0, b"Rar!\x1a\x07", "a RAR archive", _NOT_AN_IMAGE),
    Signature(257, b"ustar", "a tar archive", _NOT_AN_IMAGE),
)


def other_format(head: bytes) -> OtherFormat | None:
    """Return the format of a file if a module of its own decodes it."""
    if head[4:8] == HEIF_BOX:
        return "HEIF"
    if head.startswith((JP2_BOX, JPEG2000_CODESTREAM)):
        return "JPEG 2000"
    if head.startswith((JXL_BOX, JXL_CODESTREAM)):
        return "JPEG XL"
    return "PNM" if PNM.match(head) else None


def unidentified_error(head: bytes, file: BinaryIO) -> InputError:
    """Return the error for a file that no decoder accepts; its message says what the file appears to be."""
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, magic, description, kind in SIGNATURES:
        at_start = head if offset else (head if head.startswith(magic) else lowered)
        if at_start[offset:].startswith(magic if at_start is head else magic.lower()):
            if kind != _BROKEN:
                return InputError(kind, f"this is {description}")
            if len(head) < MIN_TEXT_BYTES or not _is_text(head):  # a text that begins with "BMW" is not a bitmap
                return decoding_error(f"begins like {description} but cannot be decoded", file)
    if _is_partial_signature(head):
        return InputError("truncated", f"only the first {count_noun(len(head), 'byte')} of an image")
    if b"<svg" in lowered:
        return InputError("format_not_allowed", "this is SVG")
    return InputError("not_an_image", f"this is {'text' if _is_text(head) else 'data in an unknown format'}")


def _is_partial_signature(head: bytes) -> bool:
    """Whether the file ends within the signature of an image format."""
    if head.startswith(RIFF[: len(head)]):
        return len(head) < 12
    if head[:3] == bytes(3) and head[4:] == HEIF_BOX[: len(head) - 4]:
        return True
    magics = [magic for offset, magic, _, kind in SIGNATURES if kind == _BROKEN and not offset]
    return head == b"P" or any(magic.startswith(head) for magic in magics)


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def decoding_error(message: str, file: BinaryIO) -> InputError:
    """Return the error for an image on which a decoder failed: ``truncated`` or ``corrupt``."""
    if "truncated" in message.lower() or _is_truncated(read_from_start(file)):
        return InputError("truncated", message)
    return InputError("corrupt", message)


def read_from_start(file: BinaryIO) -> bytes:
    """Read the whole file, or at most ``MAX_READ_BYTES``."""
    size = file.seek(0, SEEK_END)
    file.seek(0)
    return file.read(min(size, MAX_READ_BYTES))  # read allocates as much as it is asked for


def _is_truncated(data: bytes) -> bool:
    """Whether the data ends before the end that its format declares."""
    for magic, is_truncated in TRUNCATION_CHECKS:
        if data.startswith(magic):
            try:
                return is_truncated(data)
            except Exception:  # the data ends within the headers
                return True
    return False


def _is_truncated_png(data: bytes) -> bool:
    return b"IEND" not in data


def _is_truncated_gif(data: bytes) -> bool:
    position = 13 + _gif_palette_bytes(data[10])
    while data[position] in b"!,":  # an extension or an image; its data is in blocks that start with their length
        position += 2 if data[position] == ord("!") else 11 + _gif_palette_bytes(data[position + 9])
        while data[position]:
            position += 1 + data[position]
        position += 1
    return False


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _is_truncated_webp(data: bytes) -> bool:
    return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)


def _is_truncated_bmp(data: bytes) -> bool:
    return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)


def _is_truncated_tiff(data: bytes) -> bool:
    """Whether the first directory, or the pixel data that it refers to, extends beyond the end of the file."""
    directory, is_complete = tiff_directory(data)
    if not is_complete:
        return True
    for offsets, sizes in (TIFF_STRIPS, TIFF_TILES):
        if offsets in directory and sizes in directory:
            return any(sum(chunk) > len(data) for chunk in zip(directory[offsets], directory[sizes], strict=False))
    return True


TRUNCATION_CHECKS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bool]], ...] = (
    (JPEG, jpeg.lacks_end_marker),
    (PNG, _is_truncated_png),
    (GIF, _is_truncated_gif),
    (RIFF, _is_truncated_webp),
    (BMP, _is_truncated_bmp),
    (TIFFS, _is_truncated_tiff),
)

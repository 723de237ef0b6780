"""What a file is by its first bytes, and whether it ends before its own format says it does."""

from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, NamedTuple

from levit_cli.errors import InputError, InputErrorKind
from levit_cli.images import jpeg

SHORTEST_TEXT = 12  # bytes; what is shorter may be the beginning of an image
MAX_READ_BYTES = 1 << 29  # of an image that is broken, to see how

JPEG, PNG, GIF, RIFF, BMP = b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0")  # either byte order; the large form
TIFF_STRIPS, TIFF_TILES = (273, 279), (324, 325)  # (offsets, byte counts)


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
    Signature(0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the image", _NO_IMAGE),
    Signature(0, b"<!doctype html", "an HTML page", _NO_IMAGE),
    Signature(0, b"<html", "an HTML page", _NO_IMAGE),
    Signature(0, b"PK\3\4", "a ZIP archive", _NO_IMAGE),
    Signature(0, b"\x1f\x8b", "gzip data", _NO_IMAGE),
)


def unidentified(head: bytes, file: BinaryIO) -> InputError:
    """The error of a file that no decoder takes, saying what it looks like."""
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, magic, looks_like, kind in SIGNATURES:
        at_start = head if offset else (head if head.startswith(magic) else lowered)
        if at_start[offset:].startswith(magic if at_start is head else magic.lower()):
            if kind != _BROKEN:
                return InputError(kind, f"this is {looks_like}")
            if len(head) < SHORTEST_TEXT or not _is_text(head):  # "BMW" is no bitmap
                return broken(f"begins like {looks_like} but cannot be read", file)
    if _is_beginning(head):
        return InputError("truncated", f"only the first {len(head)} bytes of an image")
    if b"<svg" in lowered:
        return InputError("format_not_allowed", "this is SVG")
    return InputError("not_an_image", f"this is {'text' if _is_text(head) else 'data of an unknown kind'}")


def _is_beginning(head: bytes) -> bool:
    """Whether the file ends amid the signature of an image."""
    if head.startswith(RIFF[: len(head)]):
        return len(head) < 12
    return any(magic.startswith(head) for offset, magic, _, kind in SIGNATURES if kind == _BROKEN and not offset)


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def broken(message: str, file: BinaryIO) -> InputError:
    """The error of an image that a decoder gave up: ``truncated`` or ``corrupt``."""
    if "truncated" in message.lower() or _is_cut_short(read_whole(file)):
        return InputError("truncated", message)
    return InputError("corrupt", message)


def read_whole(file: BinaryIO) -> bytes:
    """The file from its start, as far as it can be needed."""
    file.seek(0)
    return file.read(MAX_READ_BYTES)


def _is_cut_short(data: bytes) -> bool:
    """Whether the data ends before its own format says it does."""
    for magic, ends_early in ENDS_EARLY:
        if data.startswith(magic):
            try:
                return ends_early(data)
            except Exception:  # not even its headers are whole
                return True
    return False


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
    (JPEG, jpeg.is_cut_short),
    (PNG, _png_is_cut_short),
    (GIF, _gif_is_cut_short),
    (RIFF, _webp_is_cut_short),
    (BMP, _bmp_is_cut_short),
    (TIFFS, _tiff_is_cut_short),
)

"""Recognize intact images whose bands, bits or compression we do not read, so that they are not reported as corrupt."""

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from levit_cli.errors import InputError
from levit_cli.images import jpeg
from levit_cli.images.plugins import tiff_directory
from levit_cli.images.signatures import BMP, JPEG, TIFFS
from levit_cli.system.text import count_noun

HINT = "convert it to RGB or gray with 8 bits"

# tags of TIFF files
WIDTH, BITS, COMPRESSION, PHOTOMETRIC, BANDS, PLANAR, EXTRA, SAMPLE_FORMAT = 256, 258, 259, 262, 277, 284, 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, YCBCR, LAB = 0, 1, 6, 8
UNSIGNED, SIGNED = 1, 2
UNCOMPRESSED = 1
SAMPLE_FORMATS = {SIGNED: "signed", 3: "floating point", 5: "complex", 6: "complex"}
MAX_BITS = 128
PHOTOMETRICS = {
    0: "gray", 1: "gray", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "ICC Lab",
    10: "ITU Lab", 32803: "color filter array", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
DECODED = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)
# Compressions that libtiff, as built for Pillow, decodes in part or not at all.
COMPRESSIONS = {
    6: "old-style JPEG", 34661: "JBIG", 34676: "LogLuv", 34677: "LogLuv", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy JPEG", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

JPEG_BANDS = (2, *range(5, 11))  # intact but unusual; libjpeg decodes at most 10
LOSSLESS_JPEG, HIERARCHICAL_JPEG = (0xC3, 0xCB), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
BMP_COMPRESSIONS = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK, run lengths", 13: "CMYK, run lengths"}
BIT_FIELDS = (3, 6)


def require_known_layout(image: Image.Image) -> None:
    """Raise ``unsupported_mode`` for layouts of TIFF files that Pillow would decode to wrong values."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    bits, bands, formats = _tuple(tags, BITS, 1), tags.get(BANDS, 1), _tuple(tags, SAMPLE_FORMAT, UNSIGNED)
    is_signed_byte = SIGNED in formats and 8 in bits  # Pillow reads unsigned bytes
    # Pillow reads 8 bits of each band, the signed bands of Lab as unsigned ones, and Pillow 12 YCbCr as interleaved.
    has_misread_colors = tags.get(PHOTOMETRIC) in (YCBCR, LAB)
    is_planar = tags.get(PLANAR) == 2 and bands > 1 and (set(bits) != {8} or has_misread_colors)
    is_multi_band = tags.get(PHOTOMETRIC) in (WHITE_IS_ZERO, BLACK_IS_ZERO) and bands > 2  # Pillow reads the first
    is_compressed = tags.get(COMPRESSION, 1) != UNCOMPRESSED
    is_swapped = image.mode in ("I", "F") and is_compressed and tags.prefix == b"MM"  # Pillow swaps the bytes again
    if is_signed_byte or is_planar or is_multi_band or is_swapped:
        raise InputError("unsupported_mode", f"{_tiff_layout(tags)}; {HINT}")


def layout_error(data: bytes, error: InputError) -> InputError:
    """Return ``unsupported_mode`` if a file that seems corrupt is in a layout that we do not read; else ``error``."""
    for magic, unsupported in UNSUPPORTED:
        if data.startswith(magic):
            try:
                layout = unsupported(data)
            except Exception:  # the headers are broken
                layout = None
            if layout:
                return InputError("unsupported_mode", f"{layout}; {HINT}")
    return error


def _unsupported_tiff(data: bytes) -> str | None:
    """Return the layout of a TIFF that Pillow refuses, unless its values are impossible."""
    tags, _ = tiff_directory(data)
    bits = _tuple(tags, BITS, 1)
    is_possible = tags.get(PHOTOMETRIC, 0) in PHOTOMETRICS and 1 <= min(bits) <= max(bits) <= MAX_BITS
    return _tiff_layout(tags) if is_possible and not _pillow_reads(tags, data) else None


def _pillow_reads(tags: Any, data: bytes) -> bool:
    """Whether Pillow's tables have the layout, so that the data must be corrupt."""
    from PIL.TiffImagePlugin import COMPRESSION_INFO, OPEN_INFO

    bands, photometric = tags.get(BANDS, 1), tags.get(PHOTOMETRIC, 0)
    bits, formats = _tuple(tags, BITS, 1), _tuple(tags, SAMPLE_FORMAT, UNSIGNED)
    key = (
        data[:2], photometric, formats[:1] if len(set(formats)) == 1 else formats, tags.get(266, 1),
        bits * bands if len(bits) == 1 else bits[:bands], _tuple(tags, EXTRA),
    )  # fmt: skip
    compression = tags.get(COMPRESSION, 1)
    is_planar = tags.get(PLANAR) == 2 and (photometric == YCBCR or EXTRA in tags)
    is_decoded = compression in COMPRESSION_INFO and compression not in COMPRESSIONS
    return key in OPEN_INFO and is_decoded and not is_planar


def _tiff_layout(tags: Mapping[int, Any]) -> str:
    bands, bits, formats = tags.get(BANDS, 1), _tuple(tags, BITS, 1), _tuple(tags, SAMPLE_FORMAT, UNSIGNED)
    compression = tags.get(COMPRESSION, 1)
    details = [
        PHOTOMETRICS.get(tags.get(PHOTOMETRIC, 0)),
        SAMPLE_FORMATS.get(formats[0]),
        "band by band" if tags.get(PLANAR) == 2 and bands > 1 else None,
        None if compression in DECODED else f"compressed as {COMPRESSIONS.get(compression, f'method {compression}')}",
    ]
    each = " and ".join(str(number) for number in sorted(set(bits)))
    return f"a TIFF with {_bands(bands, each)} ({', '.join(filter(None, details))})"


def _bands(bands: int, bits: object) -> str:
    return f"{count_noun(bands, 'band')} of {bits} bit{'' if bits in (1, '1') else 's'}"


def _tuple(tags: Mapping[int, Any], tag: int, *default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _unsupported_jpeg(data: bytes) -> str | None:
    frame = next(segment for segment in jpeg.segments(data) if segment.marker in jpeg.FRAME_HEADERS)
    bits, bands = frame.data[0], frame.data[5]
    layout = f"JPEG with {_bands(bands, bits)}"
    if frame.marker in LOSSLESS_JPEG:
        return f"a lossless {layout}"
    if frame.marker in HIERARCHICAL_JPEG:
        return f"a hierarchical {layout}"
    return f"a {layout}" if bits in (12, 16) or (bits == 8 and bands in JPEG_BANDS) else None


def _unsupported_bmp(data: bytes) -> str | None:
    is_old = int.from_bytes(data[14:18], "little") == 12
    bits = int.from_bytes(data[24:26] if is_old else data[28:30], "little")
    compression = 0 if is_old else int.from_bytes(data[30:34], "little")
    if bits == 64:
        return f"a BMP with {_bands(4, 16)}"
    layout = f"a BMP with {_bands(1, bits)}" if bits <= 8 else f"a BMP with 3 or 4 bands in {bits} bits"
    if compression in BMP_COMPRESSIONS:
        return f"{layout} (compressed as {BMP_COMPRESSIONS[compression]})"
    if compression in BIT_FIELDS:
        return f"{layout} (unusual bit masks)"
    return layout if bits == 2 else None


UNSUPPORTED: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], str | None]], ...] = (
    (TIFFS, _unsupported_tiff),
    (JPEG, _unsupported_jpeg),
    (BMP, _unsupported_bmp),
)

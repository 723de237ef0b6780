"""Write TIFF files in layouts that Pillow does not write: any number of bands, of bits, and of kinds of numbers."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}  # by the kind of the NumPy type
GRAY, RGB, CMYK = 1, 2, 5


def tiff(
    pixels: NDArray[Any],
    photometric: int = GRAY,
    *,
    bits: int = 0,
    extra: tuple[int, ...] = (),
    planar: bool = False,
    order: str = "<",
    deflate: bool = False,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """Return a TIFF of one strip, or of one strip per band.

    Args:
        pixels: (height, width, bands).
        bits: per value, if fewer than those of the pixels' type; packed with the high bits first.
        extra: the meanings of the bands that are not colors: 0 unspecified, 1 and 2 opacity.
        planar: store the bands one after another.
        order: ``<`` or ``>``, the byte order.
        deflate: compress the strips; Pillow then reads them with libtiff.
        tags: more tags, or other values for them; an empty tuple leaves a tag out.
    """
    height, width, bands = pixels.shape
    planes = [pixels[..., band : band + 1] for band in range(bands)] if planar else [pixels]
    strips = [_strip(plane, bits, order) for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    bits, compression = bits or 8 * pixels.dtype.itemsize, 8 if deflate else 1
    offsets = tuple(8 + sum(map(len, strips[:number])) for number in range(len(strips)))
    values = {
        256: (width,), 257: (height,), 258: (bits,) * bands, 259: (compression,), 262: (photometric,), 273: offsets,
        277: (bands,), 278: (height,), 279: tuple(map(len, strips)), 284: (2 if planar else 1,),
        338: extra, 339: (SAMPLE_FORMATS[pixels.dtype.kind],) * bands, **(tags or {}),
    }  # fmt: skip
    content = b"".join(strips)
    place = 8 + len(content)
    entries, spilled = b"", b""
    used = {tag: numbers for tag, numbers in sorted(values.items()) if numbers}
    for tag, numbers in used.items():
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        kind = 4
        if max(numbers) < 65_536 and tag not in (273, 279):
            kind, data = 3, struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(data) > 4:
            where = place + 2 + 12 * len(used) + 4 + len(spilled)
            spilled += data
            data = struct.pack(f"{order}I", where)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(used)) + entries + bytes(4) + spilled
    return magic + struct.pack(f"{order}I", place) + content + directory


def _strip(values: NDArray[Any], bits: int, order: str) -> bytes:
    if not bits:
        return values.astype(values.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    rows = values.reshape(len(values), -1).astype(np.uint64)
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()  # each row begins a byte

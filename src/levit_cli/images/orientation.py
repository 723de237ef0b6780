"""Turn images upright by the orientation in their EXIF or XMP metadata.

``ImageOps.exif_transpose`` is not used: it copies images that are upright already, writes the EXIF block again, and
warns about broken blocks, which ``python -W error`` turns into errors.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image

from levit_cli.images.plugins import tiff_directory

EXIF_ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Metadata(NamedTuple):
    """The metadata of an image that may hold its orientation."""

    exif: bytes = b""
    xmp: bytes = b""


def metadata_of(image: Image.Image) -> Metadata:
    """Return the metadata that Pillow has read with an image."""
    return Metadata(image.info.get("exif", b""), image.info.get("xmp", b""))


def upright(image: Image.Image, metadata: Metadata) -> Image.Image:
    """Rotate or flip an image by its orientation; invalid values and broken metadata are ignored."""
    orientation = _ignoring_errors(_in_exif, image, metadata)
    if orientation is None:  # as in Pillow, that in XMP counts only if there is no other
        orientation = _ignoring_errors(_in_xmp, image, metadata)
    method = _ignoring_errors(TRANSPOSE_BY_ORIENTATION.get, orientation)
    return image.transpose(method) if method is not None else image


def _ignoring_errors(read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except Exception:  # the metadata is broken, but the pixels are intact
        return None


def _in_exif(image: Image.Image, metadata: Metadata) -> Any:
    """Return the orientation in the EXIF block, or in the tags of a TIFF."""
    if not metadata.exif:
        return getattr(image, "tag_v2", {}).get(EXIF_ORIENTATION)
    return tiff_directory(_without_prefix(metadata.exif))[0].get(EXIF_ORIENTATION)


def _in_xmp(_: Image.Image, metadata: Metadata) -> Any:
    match = XMP_ORIENTATION.search(metadata.xmp)
    return int(match[1]) if match else None


def _without_prefix(exif: bytes) -> bytes:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif

"""Convert images of any Pillow mode to RGB.

- ``1 L P PA LA La RGB RGBA RGBa RGBX CMYK YCbCr HSV``: Pillow's own conversion. Transparency is dropped, not
  blended, as in torchvision's loader, timm and transformers. The decoder has already inverted Adobe's inverted CMYK.
- ``I;16`` in either byte order, and ``I`` with values of 0 to 65535: 16-bit gray, divided by 257 and rounded.
  Pillow also uses ``I;16`` for 12-bit TIFFs, whose white is 4095.
- ``F`` with values of 0 to 1: multiplied by 255 and rounded.
- ``LAB``: converted to sRGB with color profiles.
- ``I`` and ``F`` with other values: an error, because the value that means white is unknown.
"""

from typing import Any

import numpy as np
from PIL import Image

from levit_cli.errors import InputError

TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
WHITE_IS_ZERO = 0
BAND_PIXELS = 1 << 20


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB by the rules in the module's docstring.

    Raises:
        InputError: ``unsupported_mode`` if the range of the values is unknown.
    """
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I;16"):
        return _scaled(image, 255 / (4095 if _tag(image, TIFF_BITS) == (12,) else 65_535))
    if mode == "I":
        return _scaled(image, 1 / 257, highest=65_535)
    if mode == "F":
        return _scaled(image, 255, highest=1)
    if mode == "LAB":
        return _lab_to_rgb(image)
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a direct conversion warns about the transparency table
    elif mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError("unsupported_mode", f"cannot convert mode {mode} to RGB") from error


def _scaled(image: Image.Image, factor: float, highest: float | None = None) -> Image.Image:
    """Scale gray values to 256 levels. The image is processed in bands because a float copy could exhaust memory."""
    width, height = image.size
    gray = np.empty((height, width), np.uint8)
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        values = np.asarray(region(image, (0, top, width, bottom)))
        if highest is not None and not (values.min() >= 0 and values.max() <= highest):  # NaN fails too
            bits = (_tag(image, TIFF_BITS) or (32,))[0]
            kind = " floating-point" if image.mode == "F" else ""
            raise InputError(
                "unsupported_mode",
                f"1 band of {bits}{kind} bits with values from {values.min():g} to {values.max():g}, "
                f"but only 0 to {highest:g} is supported",
            )
        gray[top:bottom] = np.rint(values.astype(np.float32) * np.float32(factor))
    if _tag(image, TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts only images with up to 8 bits
        np.subtract(255, gray, out=gray)
    return Image.fromarray(gray).convert("RGB")


def region(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the part of an image in a box (left, top, right, bottom).

    ``Image.crop`` does the same but fails if the part is larger than ``Image.MAX_IMAGE_PIXELS`` of this process.
    """
    left, top, right, bottom = box
    if box == (0, 0, *image.size):
        return image
    part = Image.new(image.mode, (right - left, bottom - top), None)
    part.paste(image, (-left, -top))
    return part


def _tag(image: Image.Image, tag: int) -> Any:
    return getattr(image, "tag_v2", {}).get(tag)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # loads a color management library that few images need

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only with inPlace=True
    return converted

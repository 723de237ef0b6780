"""Every Pillow mode becomes RGB by one rule.

- ``1 L P PA LA La RGB RGBA RGBa RGBX CMYK YCbCr HSV``: Pillow's own conversion. Transparency is dropped, not
  blended, as torchvision's loader, timm and transformers do. CMYK of Adobe's inverted kind is righted by the decoder.
- ``I;16`` in either byte order, and ``I`` with values of 0 to 65535: sixteen-bit gray, divided by 257 and rounded.
  Pillow gives twelve-bit TIFFs this mode, too: there white is 4095.
- ``F`` with values of 0 to 1: multiplied by 255 and rounded.
- ``LAB``: through its colour profile to sRGB.
- other ranges of ``I`` and ``F`` mean what nobody can know: refused.
"""

import numpy as np
from PIL import Image

from levit_cli.errors import InputError

TIFF_BITS = 258
BAND_PIXELS = 1 << 20


def to_rgb(image: Image.Image) -> Image.Image:
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


def _scaled(image: Image.Image, factor: float, highest: float | None = None) -> Image.Image:
    """Gray of many levels in 256, in bands: as floats, or only as an array, a large image would be too much."""
    width, height = image.size
    gray = np.empty((height, width), np.uint8)
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        values = np.asarray(image.crop((0, top, width, bottom)))
        if highest is not None and not (values.min() >= 0 and values.max() <= highest):  # NaN fails too
            raise InputError(
                "unsupported_mode",
                f"gray values from {values.min():g} to {values.max():g} in mode {image.mode}: "
                f"their range is not known, only 0 to {highest:g} is",
            )
        gray[top:bottom] = np.rint(values.astype(np.float32) * np.float32(factor))
    return Image.fromarray(gray).convert("RGB")


def _has_twelve_bits(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(TIFF_BITS) == (12,)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # loads a colour engine that hardly any image needs

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # None only when it works in place
    return converted

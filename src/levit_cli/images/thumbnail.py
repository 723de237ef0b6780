"""Encode small copies of images for pages: WebP, or JPEG where Pillow was built without WebP."""

from io import BytesIO

from PIL import Image, features

EFFORT = 2  # WebP's default, 4, takes twice as long for files that are 5 % smaller
QUALITIES = (60, 35, 15)  # tried in this order
SHRINK = 0.7  # of the sides, if the lowest quality is still too large
MIN_SIDE = 16


def thumbnail(image: Image.Image, side: int, max_bytes: int | None = None) -> bytes:
    """Return an image as a small WebP or JPEG.

    Args:
        image: an upright RGB image.
        side: maximum width and height in pixels. Smaller images keep their size.
        max_bytes: the quality, and then the size, is lowered until it has at most this number of bytes. An image of at
            most ``MIN_SIDE`` pixels a side may have more.
    """
    while True:
        image = _shrunk(image, side)
        for quality in QUALITIES:
            encoded = _encoded(image, quality)
            if max_bytes is None or len(encoded) <= max_bytes:
                return encoded
        side = int(SHRINK * max(image.size))
        if side < MIN_SIDE:
            return encoded


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(scale * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _encoded(image: Image.Image, quality: int) -> bytes:
    file = BytesIO()
    if features.check("webp"):
        image.save(file, "WEBP", quality=quality, method=EFFORT)
    else:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()

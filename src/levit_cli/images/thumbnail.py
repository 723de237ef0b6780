"""Make thumbnails for HTML pages."""

import base64
import io

from PIL.Image import Image


def jpeg_thumbnail(image: Image, size: tuple[int, int]) -> str:
    """Return an image as a small JPEG in Base64. The image itself is made smaller.

    Args:
        size: (width, height) that the thumbnail does not exceed.
    """
    image.thumbnail(size)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=80)
    return base64.b64encode(jpeg.getvalue()).decode("ascii")

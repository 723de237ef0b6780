"""The ``hf-tensor`` preprocessing: resize with torch, like transformers' fast ``LevitImageProcessor``.

torch's antialiased bicubic filter differs from Pillow's by one or two levels on most images. The preprocessing exists
for results that must match that processor.
"""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch.nn import functional as F

from levit_cli.errors import InputError
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import to_tensor

MAX_RESIZED_PIXELS = 64 << 20  # the whole image is resized: 1 x 60000 pixels would become 4 gigapixels


def preprocess_tensor(image: Image, transform: Transform) -> NDArray[np.uint8]:
    """Return the (height, width, 3) uint8 crop of a transform from an RGB image.

    Raises:
        InputError: ``extreme_aspect`` if the resized image would not fit into memory.
    """
    width, height = transform.resized_size(*image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise InputError("extreme_aspect", f"{image.width} x {image.height} would be resized to {width} x {height}")
    pixels = to_tensor(np.asarray(image)).permute(2, 0, 1).contiguous()  # (3, H, W), contiguous as in torchvision
    if image.size != (width, height):
        pixels = F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]
    crop_height, crop_width = transform.crop_size
    top, left = transform.crop_offset(height, crop_height), transform.crop_offset(width, crop_width)
    crop = pixels[:, top : top + crop_height, left : left + crop_width]
    return crop.permute(1, 2, 0).contiguous().numpy()

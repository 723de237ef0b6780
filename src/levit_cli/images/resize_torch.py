"""The ``hf-tensor`` preprocessing: transformers' fast ``LevitImageProcessor``, which resizes with torch.

Its antialiased bicubic filter differs from Pillow's by a level or two on most images, so it is a preprocessing of its
own, for results that must match that processor.
"""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch.nn import functional as F

from levit_cli.errors import InputError
from levit_cli.images.transforms import Transform
from levit_cli.model.levit import to_tensor

MAX_RESIZED_PIXELS = 64 << 20  # this way resizes the whole image; a 1 x 60000 one would become 4 gigapixels


def preprocess_tensor(image: Image, transform: Transform) -> NDArray[np.uint8]:
    """(height, width, 3) bytes of the preprocessing's crop from an RGB image.

    Raises:
        InputError: ``extreme_aspect`` where the resized image would not fit into memory.
    """
    width, height = transform.resized_size(*image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise InputError("extreme_aspect", f"{image.width} x {image.height} would be resized to {width} x {height}")
    pixels = to_tensor(np.asarray(image)).permute(2, 0, 1).contiguous()  # (3, H, W), as torchvision makes it
    if image.size != (width, height):
        pixels = F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]
    crop_height, crop_width = transform.crop_size
    top, left = transform.crop_offset(height, crop_height), transform.crop_offset(width, crop_width)
    crop = pixels[:, top : top + crop_height, left : left + crop_width]
    return crop.permute(1, 2, 0).contiguous().numpy()

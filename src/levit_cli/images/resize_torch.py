"""The tensor recipe: what transformers' fast ``LevitImageProcessor`` does, resizing with torch instead of Pillow.

Its antialiased bicubic filter is another one than Pillow's (by a level or two on most pictures), so it is a recipe of
its own, ``hf-tensor``, for results that are to match that processor.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture
from torch.nn import functional as F

from levit_cli.errors import InputError
from levit_cli.images.transforms import Recipe

MAX_RESIZED_PIXELS = 64 << 20  # this way resizes the whole picture; a 1 x 60000 one would become 4 gigapixels


def preprocess_tensor(image: Picture, recipe: Recipe) -> NDArray[np.uint8]:
    """(height, width, 3) bytes of the recipe's crop from an RGB picture.

    Raises:
        InputError: ``extreme_aspect`` where the resized picture would not fit into memory.
    """
    width, height = recipe.resized_size(*image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise InputError("extreme_aspect", f"{image.width} x {image.height} would be resized to {width} x {height}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W), as torchvision makes it
    if image.size != (width, height):
        pixels = F.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]
    crop_height, crop_width = recipe.crop_size
    top, left = recipe.crop_offset(height, crop_height), recipe.crop_offset(width, crop_width)
    crop = pixels[:, top : top + crop_height, left : left + crop_width]
    return crop.permute(1, 2, 0).contiguous().numpy()

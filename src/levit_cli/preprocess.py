"""From an RGB picture to the pixels that a network sees: resize by a recipe, but only what its crop keeps.

Pillow resizes in two passes, across and then down, and rounds to whole levels after each. Doing the passes one by one
on the region that ends inside the crop gives the reference's pixels (resize all, then crop) within a level or two,
for less work, and makes a 1 x 60000 picture harmless. One call with ``box=`` would let Pillow choose the order of the
passes by the size of the output, and then differs by up to 13 levels.
"""

from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture

from levit_cli.recipes import Recipe

WIDEST_FILTER = 3.0  # source pixels to each side that Pillow's widest filter (Lanczos) reads, at a scale of one


def preprocess(image: Picture, recipe: Recipe) -> NDArray[np.uint8]:
    """(height, width, 3) bytes of the recipe's crop from an RGB picture."""
    width, height = recipe.resized_size(*image.size)
    crop_height, crop_width = recipe.crop_size
    left, top = recipe.crop_offset(width, crop_width), recipe.crop_offset(height, crop_height)
    resample = Image.Resampling[recipe.filter.upper()]
    first_row, last_row = _source_span(image.height, height, top, crop_height)
    rows = _taps(first_row, last_row, image.height, height)
    image = _resize_across(image.crop((0, rows[0], image.width, rows[1])), width, left, crop_width, resample)
    image = image.resize(
        (crop_width, crop_height), resample, box=(0, first_row - rows[0], crop_width, last_row - rows[0])
    )
    return np.asarray(image)


def _resize_across(image: Picture, width: int, left: int, crop_width: int, resample: Any) -> Picture:
    first, last = _source_span(image.width, width, left, crop_width)
    return image.resize((crop_width, image.height), resample, box=(first, 0, last, image.height))


def _source_span(source: int, resized: int, start: int, length: int) -> tuple[float, float]:
    """Where the crop [start, start + length) of the resized axis lies on the source axis."""
    return start * source / resized, (start + length) * source / resized


def _taps(first: float, last: float, source: int, resized: int) -> tuple[int, int]:
    """The whole source rows that the filter may read for a span."""
    reach = WIDEST_FILTER * max(source / resized, 1.0) + 1
    return max(floor(first - reach), 0), min(ceil(last + reach), source)

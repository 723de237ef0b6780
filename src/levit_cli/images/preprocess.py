"""From an RGB image to the pixels that a network sees: resize by a preprocessing, but only what its crop keeps.

Pillow resizes in two passes, across and down, and rounds to whole levels after each. Doing the passes one by one on
the region that ends inside the crop gives the reference's pixels (resize all, then crop) within a level or two, for
less work, and makes a 1 x 60000 image harmless. One call with ``box=`` would let Pillow choose the order of the
passes by the size of the output, and then differs by up to 13 levels; so the order is chosen here, as Pillow chooses
it for the whole image.
"""

from math import ceil, floor
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from levit_cli.images.transforms import Transform

WIDEST_FILTER = 3.0  # source pixels to each side that Pillow's widest filter (Lanczos) reads, at a scale of one
ORDERS_PASSES = int(PIL.__version__.partition(".")[0]) >= 13  # Pillows before it, as on Python 3.10, go across first
ACROSS, DOWN = 0, 1


class Span(NamedTuple):
    """Where the crop lies on one axis of the source, and the whole pixels that the filter reads for it."""

    first: float
    last: float
    first_tap: int
    last_tap: int


def preprocess(image: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """(height, width, 3) bytes of the preprocessing's crop from an RGB image."""
    resized = transform.resized_size(*image.size)
    crop = transform.crop_size[::-1]
    resample = Image.Resampling[transform.filter.upper()]
    across, down = (
        _span(source, length, transform.crop_offset(length, side), side)
        for source, length, side in zip(image.size, resized, crop, strict=True)
    )
    order = (DOWN, ACROSS) if _goes_down_first(image.size, resized) else (ACROSS, DOWN)
    image = image.crop((across.first_tap, down.first_tap, across.last_tap, down.last_tap))
    for axis in order:
        image = _resize_axis(image, axis, crop[axis], (across, down)[axis], resample)
    return np.asarray(image)


def _goes_down_first(source: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow resizes the whole image down first: it does where much more height is lost than width."""
    lost_width, lost_height = (before - after for before, after in zip(source, resized, strict=True))
    return ORDERS_PASSES and lost_height > max(2 * lost_width, 0)


def _span(source: int, resized: int, start: int, length: int) -> Span:
    """The crop [start, start + length) of a resized axis on its source."""
    first, last = start * source / resized, (start + length) * source / resized
    reach = WIDEST_FILTER * max(source / resized, 1.0) + 1
    return Span(first, last, max(floor(first - reach), 0), min(ceil(last + reach), source))


def _resize_axis(image: Image.Image, axis: int, length: int, span: Span, resample: Image.Resampling) -> Image.Image:
    size, box = [*image.size], [0.0, 0.0, *image.size]
    size[axis] = length
    box[axis], box[axis + 2] = span.first - span.first_tap, span.last - span.first_tap
    return image.resize((size[0], size[1]), resample, box=(box[0], box[1], box[2], box[3]))

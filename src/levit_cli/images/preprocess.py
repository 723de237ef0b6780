"""Preprocess an RGB image to the pixels that the network sees: resize and crop, computing only the pixels of the crop.

The reference implementations resize the whole image and then crop it. Pillow resizes in two passes, horizontal and
vertical, and rounds to whole levels after each. We run each pass only on the source region of the crop. The result is
within two levels of the reference, takes less time, and needs little memory even for a 1 x 60000 image. A single call
with ``box=`` would let Pillow choose the order of the passes by the output size, and the result would differ by up to
13 levels. We therefore choose the order ourselves, as Pillow does for the whole image.
"""

from math import ceil, floor
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from levit_cli.images.rgb import region
from levit_cli.images.transforms import Transform

MAX_FILTER_RADIUS = 3.0  # source pixels per side that Pillow's widest filter (Lanczos) reads at scale 1
# Older versions of Pillow always resize horizontally first.
PILLOW_CHOOSES_ORDER = int(PIL.__version__.partition(".")[0]) >= 13
HORIZONTAL, VERTICAL = 0, 1


class Span(NamedTuple):
    """The range of the crop on one axis of the source image, and the range of pixels that the filter reads for it."""

    first: float
    last: float
    first_tap: int
    last_tap: int


class Plan(NamedTuple):
    """The two passes over an image.

    Args:
        crop: (width, height) of the result.
        spans: the range of the crop, horizontal and vertical.
        order: the axis of the first and of the second pass.
    """

    crop: tuple[int, int]
    spans: tuple[Span, Span]
    order: tuple[int, int]


def plan_passes(size: tuple[int, int], transform: Transform) -> Plan:
    """Return the passes over an image of that (width, height)."""
    crop_height, crop_width = transform.crop_size
    crop, resized = (crop_width, crop_height), transform.resized_size(*size)
    horizontal, vertical = (
        _span(source, length, transform.crop_offset(length, side), side)
        for source, length, side in zip(size, resized, crop, strict=True)
    )
    order = (VERTICAL, HORIZONTAL) if _vertical_first(size, resized) else (HORIZONTAL, VERTICAL)
    return Plan(crop, (horizontal, vertical), order)


def preprocess(image: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """Return the (height, width, 3) uint8 crop of a transform from an RGB image."""
    crop, spans, order = plan_passes(image.size, transform)
    resample = Image.Resampling[transform.filter.upper()]
    horizontal, vertical = spans
    image = region(image, (horizontal.first_tap, vertical.first_tap, horizontal.last_tap, vertical.last_tap))
    for axis in order:
        image = _resize_axis(image, axis, crop[axis], spans[axis], resample)
    return np.asarray(image)


def _vertical_first(source: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow would start with the vertical pass: it does if the height shrinks much more than the width."""
    width_loss, height_loss = (before - after for before, after in zip(source, resized, strict=True))
    return PILLOW_CHOOSES_ORDER and height_loss > max(2 * width_loss, 0)


def _span(source: int, resized: int, start: int, length: int) -> Span:
    """Map the range [start, start + length) of a resized axis to the source axis."""
    first, last = start * source / resized, (start + length) * source / resized
    radius = MAX_FILTER_RADIUS * max(source / resized, 1.0) + 1
    return Span(first, last, max(floor(first - radius), 0), min(ceil(last + radius), source))


def _resize_axis(image: Image.Image, axis: int, length: int, span: Span, resample: Image.Resampling) -> Image.Image:
    size, box = [*image.size], [0.0, 0.0, *image.size]
    size[axis] = length
    box[axis], box[axis + 2] = span.first - span.first_tap, span.last - span.first_tap
    return image.resize((size[0], size[1]), resample, box=(box[0], box[1], box[2], box[3]))

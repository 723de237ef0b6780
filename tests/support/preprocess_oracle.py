"""A slow reference for preprocessing, and images to compare it on.

``resize_then_crop`` resizes the whole image in one call of Pillow and then crops its center, as torchvision, timm and
transformers do. levit's preprocessing resizes only what the crop keeps and is compared to this reference.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from levit_cli.images.transforms import Transform

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # width, height, in Pillow's order

EVERY_REMAINDER: list[Size] = [(261 + i, 340 + j) for i in range(4) for j in range(4)] + [
    (97 + i, 60 + j) for i in range(4) for j in range(4)
]
SHAPES: list[Size] = [
    *((32, 32), (224, 224), (248, 248), (256, 256), (257, 257), (600, 600)),
    *((640, 480), (480, 640), (75, 100), (1000, 400), (1200, 150)),
    *((400, 801), (400, 1000), (150, 1200), (120, 500)),  # tall: Pillow 13 resizes these down before across
    *((1, 1), (2, 3), (3, 2), (5, 300), (300, 5)),
]


def resize_then_crop(image: Image.Image, transform: Transform) -> Pixels:
    width, height = transform.resized_size(*image.size)
    crop_height, crop_width = transform.crop_size
    left, top = transform.crop_offset(width, crop_width), transform.crop_offset(height, crop_height)
    resized = image.resize((width, height), Image.Resampling[transform.filter.upper()])
    return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))


def noise_and_edges(size: Size) -> Image.Image:
    """Make a smooth image with fine noise and hard edges, on which resize filters differ most."""
    width, height = size
    rng = np.random.default_rng(width * 10_000 + height)
    coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(int)
    pixels += rng.integers(-20, 21, pixels.shape)
    pixels[height // 3 : height // 2, width // 4 :] = (255, 0, 128)
    pixels[:, width // 2 : width // 2 + 2] = 0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def differences(ours: Pixels, reference: Pixels) -> NDArray[np.int16]:
    assert ours.shape == reference.shape
    return np.abs(ours.astype(np.int16) - reference.astype(np.int16))

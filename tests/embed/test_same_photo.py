"""Copies of a photo are the same photo, other photos are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from levit_cli.embed.candidates import connected_photos
from levit_cli.embed.same_photo import SIDE, Small, are_same, layouts, small_images
from levit_cli.predict.pipeline import normalized


def photo(seed: int) -> Image.Image:
    """Return an image with coarse shapes and fine details, 160 x 160."""
    rng = np.random.default_rng(seed)
    parts = [(5, 1.0), (11, 0.6), (40, 0.5)]
    total = np.zeros((160, 160, 3))
    for size, weight in parts:
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        total += weight * np.asarray(noise.resize((160, 160), Image.Resampling.BICUBIC), float)
    return Image.fromarray((total / 2.1).astype(np.uint8))


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file)


COPIES: list[Callable[[Image.Image], Image.Image]] = [
    lambda image: image,
    lambda image: image.resize((96, 96), Image.Resampling.LANCZOS),
    recompressed,
    lambda image: image.crop((8, 0, 160, 152)),
    lambda image: image.crop((4, 4, 156, 156)),
    lambda image: ImageEnhance.Brightness(image).enhance(1.25),
]


def small(*images: Image.Image) -> Small:
    return small_images(np.stack([np.asarray(image.convert("RGB").resize((112, 112), 3)) for image in images]))


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_the_same_photo(copy: Callable[[Image.Image], Image.Image]) -> None:
    photos = [photo(seed) for seed in range(12)]
    assert are_same(small(*photos), small(*map(copy, photos))).all()
    assert are_same(small(*map(copy, photos)), small(*photos)).all()


def test_other_photos_are_not() -> None:
    photos = [photo(seed) for seed in range(24)]
    assert not are_same(small(*photos[:12]), small(*photos[12:])).any()


def test_photos_that_agree_except_in_their_details_are_not_the_same() -> None:
    """As two photos of different shirts on the same background."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((112, 112), 3)

    def with_details(seed: int) -> Image.Image:
        noise = np.random.default_rng(seed).integers(-20, 21, (56, 56, 3)).repeat(2, axis=0).repeat(2, axis=1)
        return Image.fromarray(np.clip(np.asarray(coarse, int) + noise, 0, 255).astype(np.uint8))

    one, other = small(with_details(1)), small(with_details(2))
    assert float((layouts(one) * layouts(other)).sum()) > 0.99
    assert not are_same(one, other).any()
    assert are_same(one, one).all()


def test_plain_images_have_no_layout_and_no_details() -> None:
    plain = np.full((2, SIDE, SIDE, 3), 200, np.uint8)
    assert not layouts(plain).any()
    assert not are_same(plain, plain).any()


@pytest.mark.parametrize(("height", "width"), [(56, 56), (64, 64), (112, 224), (240, 240), (97, 131), (32, 48)])
def test_small_images_of_any_size_are_means_of_areas(height: int, width: int) -> None:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, None, :, None], (2, height, width, 3))
    found = small_images(np.ascontiguousarray(pixels))
    assert found.shape == (2, SIDE, SIDE, 3)
    expected = np.interp((np.arange(SIDE) + 0.5) / SIDE * width - 0.5, np.arange(width), ramp)
    assert np.abs(found[0, 0, :, 0] - expected).max() <= 255 / min(width, SIDE)


def test_an_image_is_compared_with_few_others_even_if_all_look_alike() -> None:
    """The work must not grow with the square of the number of images."""
    count = 300
    rng = np.random.default_rng(0)
    vectors = normalized(np.ones((count, 4)) + 0.01 * rng.standard_normal((count, 4)))
    shape = np.linspace(0, 200, SIDE)[:, None, None] + np.zeros((SIDE, SIDE, 3))
    images = np.clip(shape + rng.integers(0, 50, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    images[7] = images[3]
    loaded = 0

    def load(numbers: NDArray[np.intp]) -> Small:
        nonlocal loaded
        loaded += len(numbers)
        chosen: Small = images[numbers]
        return chosen

    found = connected_photos(vectors, load, 0.9)
    assert loaded <= 21 * count
    assert all(len(part) >= 2 for part in found)

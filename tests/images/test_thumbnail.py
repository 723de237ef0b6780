"""Thumbnails keep the proportions of an image, and their number of bytes is limited whatever they show."""

import io

import numpy as np
import pytest
from PIL import Image

from levit_cli.images.thumbnail import MIN_SIDE, thumbnail
from tests.support.sample_images import sample_image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def size_of(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        return image.size


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 200), (100, 67)), ((60, 80), (60, 80)), ((2000, 1), (100, 1)), ((1, 5000), (1, 100)), ((1, 1), (1, 1))],
)
def test_the_longer_side_is_limited(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = sample_image(*size)
    assert size_of(thumbnail(image, 100)) == expected
    assert image.size == size  # the image of the caller is unchanged


@pytest.mark.parametrize("max_bytes", [20_000, 3_000, 400])
def test_the_number_of_bytes_is_limited(max_bytes: int) -> None:
    encoded = thumbnail(noise(200, 100), 200, max_bytes)
    assert len(encoded) <= max_bytes
    width, height = size_of(encoded)
    assert width == pytest.approx(2 * height, abs=2)


def test_a_limit_that_no_image_meets_gives_a_tiny_one() -> None:
    assert max(size_of(thumbnail(noise(200, 100), 200, 1))) <= 2 * MIN_SIDE


def test_without_webp_it_is_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "webp")
    assert thumbnail(sample_image(), 50).startswith(b"\xff\xd8")

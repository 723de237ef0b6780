"""The sizes and crop offsets of the published preprocessing."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from levit_cli.choices import PreprocessingName
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Rounding, Size, transform_for

NAMES: tuple[PreprocessingName, ...] = get_args(PreprocessingName)


@pytest.mark.parametrize(
    ("name", "image_size", "resize_to", "rounding"),
    [
        ("fb", (224, 224), (256, 256), "half_even"),
        ("hf", (224, 224), (256, 256), "floor"),
        ("hf-tensor", (224, 224), (256, 256), "floor"),
        ("timm", (224, 224), (248, 248), "half_even"),
        ("fb", (96, 96), (109, 109), "half_even"),
        ("hf", (96, 96), (109, 109), "floor"),
        ("timm", (96, 96), (106, 106), "half_even"),
        ("fb", (96, 160), (109, 182), "half_even"),
        ("hf", (160, 96), (182, 109), "floor"),
        ("timm", (96, 160), (106, 177), "half_even"),
        ("fb", (384, 384), (438, 438), "half_even"),
        ("timm", (384, 384), (426, 426), "half_even"),
    ],
)
def test_each_transform_has_the_published_size_and_rounding(
    name: PreprocessingName, image_size: Size, resize_to: Size, rounding: Rounding
) -> None:
    transform = transform_for(name, image_size)
    assert (transform.resize_to, transform.crop_size, transform.crop_rounding) == (resize_to, image_size, rounding)


@pytest.mark.parametrize("name", NAMES)
def test_each_transform_has_its_name_and_normalizes_for_imagenet(name: PreprocessingName) -> None:
    transform = transform_for(name, (224, 224))
    assert (transform.name, transform.filter, transform.mean, transform.std) == (
        name,
        "bicubic",
        IMAGENET_MEAN,
        IMAGENET_STD,
    )
    assert transform.resizer == ("torch" if name == "hf-tensor" else "pillow")


@pytest.mark.parametrize(
    ("length", "half_even", "floor"),
    [(224, 0, 0), (225, 0, 0), (226, 1, 1), (227, 2, 1), (229, 2, 2), (231, 4, 3), (256, 16, 16), (341, 58, 58)],
)
def test_half_a_pixel_of_crop_offset_is_rounded_to_even_or_down(length: int, half_even: int, floor: int) -> None:
    assert transform_for("fb", (224, 224)).crop_offset(length, 224) == half_even
    assert transform_for("timm", (224, 224)).crop_offset(length, 224) == half_even
    assert transform_for("hf", (224, 224)).crop_offset(length, 224) == floor


@pytest.mark.parametrize(
    ("source", "resized"),
    [
        ((640, 480), (341, 256)),
        ((480, 640), (256, 341)),
        ((500, 375), (341, 256)),
        ((333, 500), (256, 384)),
        ((256, 256), (256, 256)),
        ((1, 1), (256, 256)),
        ((2, 3), (256, 384)),
        ((1, 60_000), (256, 15_360_000)),
        ((60_000, 1), (15_360_000, 256)),
    ],
)
def test_the_shorter_edge_fits_exactly_and_the_longer_is_truncated(source: Size, resized: Size) -> None:
    assert transform_for("fb", (224, 224)).resized_size(*source) == resized


def test_the_resized_size_equals_the_formula_of_torchvision() -> None:
    transform = transform_for("timm", (224, 224))
    for short in range(1, 400, 7):
        for long in range(short, 900, 11):
            expected = int(248 * long / short)
            assert transform.resized_size(long, short) == (expected, 248)
            assert transform.resized_size(short, long) == (248, expected)


@pytest.mark.parametrize("crop_size", [(96, 160), (160, 96), (224, 128), (64, 64)])
@pytest.mark.parametrize("name", NAMES)
def test_the_resized_image_covers_the_crop(name: PreprocessingName, crop_size: Size) -> None:
    transform = transform_for(name, crop_size)
    for width in range(1, 300, 13):
        for height in range(1, 300, 17):
            resized_width, resized_height = transform.resized_size(width, height)
            assert resized_width >= transform.resize_to[1]
            assert resized_height >= transform.resize_to[0]
            assert resized_width == transform.resize_to[1] or resized_height == transform.resize_to[0]


@pytest.mark.parametrize(
    "change",
    [
        {"resize_to": (223, 256)},
        {"resize_to": (256, 100)},
        {"resize_to": (65_536, 256)},
        {"crop_size": (300, 224)},
        {"filter": "cubic"},
        {"crop_rounding": "ceil"},
        {"resizer": "opencv"},
        {"mean": (0.5, float("nan"), 0.5)},
        {"std": (0.5, 0.0, 0.5)},
    ],
    ids=str,
)
def test_unknown_or_impossible_values_are_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        replace(transform_for("fb", (224, 224)), **change)

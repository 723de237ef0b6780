"""Preprocessing that other libraries' files describe is done to the pixel, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from levit_cli.checkpoints.metadata import read_metadata
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import Transform
from tests.support.preprocess_oracle import SHAPES, Pixels, differences, noise_and_edges, resize_then_crop

timm_data = pytest.importorskip("timm.data")
transformers = pytest.importorskip("transformers")

IMAGES = [noise_and_edges(size) for size in [*SHAPES, (261, 341), (343, 262), (97, 61)]]
NORMALIZATION = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def require_equal(transform: Transform, reference: Callable[[Image.Image], Pixels]) -> None:
    for image in IMAGES:
        assert not differences(resize_then_crop(image, transform), reference(image)).any(), image.size


def saved(folder: Path, kind: str, **settings: Any) -> Path:
    """Save an image processor of transformers, as a user would who copies it into a model folder."""
    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(folder)
    return folder


def processor_pixels(folder: Path, kind: str) -> Callable[[Image.Image], Pixels]:
    """Return what the processor of a folder makes of an image before it normalizes the values."""
    processor = getattr(transformers, kind).from_pretrained(folder)
    return lambda image: np.asarray(
        processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    ).transpose(1, 2, 0)


SQUARE_96 = {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}}
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("CLIPImageProcessorPil", SQUARE_96),
    "CLIP with a smaller crop": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 120}, "crop_size": 96}),
    "CLIP with an integer size": ("CLIPImageProcessorPil", {"size": 96, "crop_size": 96}),
    "CLIP, bilinear": ("CLIPImageProcessorPil", {**SQUARE_96, "resample": 2}),
    "CLIP, nearest": ("CLIPImageProcessorPil", {**SQUARE_96, "resample": 0}),
    "CLIP, a crop that is not square": (
        "CLIPImageProcessorPil", {"size": {"shortest_edge": 97}, "crop_size": {"height": 64, "width": 96}},
    ),
    "ChineseCLIP": ("ChineseCLIPImageProcessorPil", SQUARE_96),
    "BiT": ("BitImageProcessorPil", {"size": {"shortest_edge": 109}, "crop_size": 96}),
    "MobileNetV1": ("MobileNetV1ImageProcessorPil", {}),
    "MobileNetV2": ("MobileNetV2ImageProcessorPil", {}),
    "ConvNeXt": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}}),
    "ConvNeXt with another crop_pct": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 96}, "crop_pct": 0.8}),
    "LeViT": ("LevitImageProcessorPil", {}),
    "LeViT, a crop that is not square": (
        "LevitImageProcessorPil", {"size": {"shortest_edge": 96}, "crop_size": {"height": 64, "width": 96}},
    ),
}  # fmt: skip


@pytest.mark.guarantee("foreign-preprocessing")
@pytest.mark.parametrize("name", ACCEPTED)
def test_the_pixels_equal_those_of_another_familys_processor(tmp_path: Path, name: str) -> None:
    kind, settings = ACCEPTED[name]
    saved(tmp_path, kind, **{**NORMALIZATION, **settings})
    transform = read_metadata(tmp_path).transform
    assert transform is not None
    require_equal(transform, processor_pixels(tmp_path, kind))
    assert [transform.mean, transform.std] == [(0.1, 0.2, 0.3), (0.4, 0.5, 0.6)]


@pytest.mark.guarantee("foreign-preprocessing")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessorPil", {}),
        ("DeiTImageProcessorPil", {}),
        ("BeitImageProcessorPil", {}),
        ("SiglipImageProcessorPil", {}),
        ("EfficientNetImageProcessorPil", {}),
        ("PoolFormerImageProcessorPil", {}),
        ("MobileViTImageProcessorPil", {}),
        ("ConvNextImageProcessorPil", {}),  # stretches the image to 384 x 384
        ("CLIPImageProcessorPil", {"size": {"height": 224, "width": 224}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 224, "longest_edge": 300}}),
        ("CLIPImageProcessorPil", {"do_center_crop": False}),
        ("CLIPImageProcessorPil", {"do_resize": False}),
        ("CLIPImageProcessorPil", {"do_rescale": False}),
        ("CLIPImageProcessorPil", {"do_normalize": False}),
        ("CLIPImageProcessorPil", {"do_pad": True}),
        ("CLIPImageProcessorPil", {"rescale_factor": 1 / 127.5}),
        ("LevitImageProcessorPil", {"size": {"height": 224, "width": 224}}),
    ],
)
def test_a_processor_that_is_not_done_exactly_is_refused(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="--preprocessing"):
        read_metadata(saved(tmp_path, kind, **settings))


def every_processor() -> list[str]:
    names = {name for name in dir(transformers) if name.endswith("ImageProcessorPil")}
    return sorted(names)


@pytest.mark.guarantee("foreign-preprocessing")
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", every_processor())
def test_every_processor_of_transformers_is_done_exactly_or_refused(tmp_path: Path, kind: str) -> None:
    try:
        saved(tmp_path, kind)
    except (ImportError, TypeError, ValueError) as error:
        pytest.skip(f"cannot be created without arguments: {error}")
    try:
        transform = read_metadata(tmp_path).transform
    except RefusedError:
        return
    assert transform is not None
    require_equal(transform, processor_pixels(tmp_path, kind))


TIMM_SETTINGS: list[dict[str, Any]] = [
    {},
    {"crop_pct": None},
    {"input_size": [3, 96, 96]},
    {"input_size": [3, 96, 96], "crop_pct": 0.9},
    {"input_size": [3, 96, 96], "crop_pct": 1.0, "interpolation": "bilinear"},
    {"input_size": [3, 96, 96], "interpolation": "lanczos"},
    {"input_size": [3, 96, 160]},
    {"input_size": [3, 160, 96], "crop_pct": 0.95},
    {"input_size": [3, 97, 161], "crop_pct": 1.0, "interpolation": "nearest"},
    {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "crop_mode": "center"},
]


@pytest.mark.guarantee("foreign-preprocessing")
@pytest.mark.parametrize("settings", TIMM_SETTINGS, ids=str)
def test_the_pixels_equal_those_of_timm(tmp_path: Path, settings: dict[str, Any]) -> None:
    stated = {"first_conv": "stem.conv1.linear", "mean": [0.1, 0.2, 0.3], **settings}
    config = {"architecture": "levit_128s", "pretrained_cfg": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    transform = read_metadata(tmp_path).transform
    assert transform is not None
    known = {key: value for key, value in stated.items() if value is not None}
    resolved = timm_data.resolve_data_config({}, pretrained_cfg=known)
    reference = timm_data.create_transform(**resolved, is_training=False, normalize=False)
    require_equal(transform, lambda image: reference(image).permute(1, 2, 0).numpy())
    assert (transform.mean, transform.std) == (tuple(resolved["mean"]), tuple(resolved["std"]))


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
@pytest.mark.parametrize("input_size", [[3, 96, 96], [3, 96, 160]])
def test_another_crop_mode_of_timm_is_refused(tmp_path: Path, crop_mode: str, input_size: list[int]) -> None:
    stated = {"input_size": input_size, "crop_mode": crop_mode, "crop_pct": 1.0}
    config = {"architecture": "levit_128s", "pretrained_cfg": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match=rf"crop mode {crop_mode}.*--preprocessing"):
        read_metadata(tmp_path)

"""Read and write the settings of Hugging Face's image processors in ``preprocessor_config.json``.

A folder may hold the processor of another model family, such as CLIP's. If it resizes the shortest edge and takes the
center crop, we do exactly what it says. Every other one is refused, because its pixels would differ from ours.
"""

import re
from collections.abc import Mapping
from typing import Any

from levit_cli.checkpoints.metadata_parts import (
    CHOOSE_PREPROCESSING,
    OURS,
    parse_number,
    parse_side,
    parse_size,
    parse_transform,
    parse_triple,
    published_or_same,
)
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Filter, Size, Transform

FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
MARGIN = 256 / 224  # resized edge / shortest_edge of LevitImageProcessor
CLASS_NAME = re.compile(r"(\w+?)(ImageProcessor(Fast|Pil)?|FeatureExtractor)")
LEVIT, CONVNEXT = "Levit", "ConvNext"
PLAIN = ("CLIP", "ChineseCLIP", "Bit", "MobileNetV1", "MobileNetV2")  # resize the shortest edge to size, then crop
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
NO_CROP_FROM = 384  # ConvNextImageProcessor stretches the whole image to sizes from here on
CONVNEXT_CROP_PCT = 224 / 256


def transform_from_processor(settings: Mapping[str, Any]) -> Transform:
    """Return the preprocessing that the settings of an image processor describe.

    Raises:
        RefusedError: it cannot be done exactly.
    """
    family = _family(settings)
    _require_steps(settings, family)
    settings = {key: value for key, value in settings.items() if value is not None}  # null: the default
    if family == LEVIT and OURS in settings:
        transform = parse_transform(settings[OURS]["recipe"])
        # Edits of the file's other keys take precedence: our section counts only while it agrees with them.
        if processor_settings(transform).items() <= settings.items():
            return transform
    if family != LEVIT:
        _require_stated(settings, ("size", "resample", "image_mean", "image_std"))
    edge, crop_size = _sizes(settings, family)
    transform = Transform(
        "custom",
        resize_to=(edge, edge),
        crop_size=crop_size,
        crop_rounding="floor",
        filter=_filter(settings.get("resample", 3)),
        mean=parse_triple(settings.get("image_mean", IMAGENET_MEAN)),
        std=parse_triple(settings.get("image_std", IMAGENET_STD)),
    )
    return published_or_same(transform, "hf")


def _family(settings: Mapping[str, Any]) -> str:
    """Return the model family of a processor's class; files of old versions name a feature extractor."""
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "LevitImageProcessor")
    match = CLASS_NAME.fullmatch(name)
    if match is None or match[1] not in (LEVIT, CONVNEXT, *PLAIN):
        known = ", ".join((LEVIT, *PLAIN, CONVNEXT))
        raise _refused(f"is a {name}", f"only those of {known} are done exactly")
    return match[1]


def _require_steps(settings: Mapping[str, Any], family: str) -> None:
    """Refuse settings that switch a step off, or switch on one that we do not have."""
    steps = [step for step in STEPS if family != CONVNEXT or step != "do_center_crop"]
    for step in steps:
        if not settings.get(step, True):
            raise _refused(f"disables {step}")
    for key, value in settings.items():
        if value and key.startswith("do_") and key not in (*steps, "do_convert_rgb"):
            raise _refused(f"enables {key}")
    if round(255 * parse_number(settings.get("rescale_factor") or 1 / 255), 3) != 1:
        raise _refused("has a rescale_factor other than 1/255")


def _require_stated(settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if missing := [key for key in keys if key not in settings]:
        raise _refused(f"does not state {', '.join(missing)}")


def _sizes(settings: Mapping[str, Any], family: str) -> tuple[int, Size]:
    """Return the length of the resized shortest edge, and the size of the crop."""
    size = settings.get("size", 224)
    edge = _shortest_edge(size, stretches=bool(settings.get("default_to_square")))
    if family == CONVNEXT:
        if edge >= NO_CROP_FROM:
            raise _refused(f"resizes to {edge} x {edge} px without keeping the aspect ratio")
        return int(edge / parse_number(settings.get("crop_pct", CONVNEXT_CROP_PCT))), (edge, edge)
    if family != LEVIT:
        _require_stated(settings, ("crop_size",))
    # LeViT's older files without crop_size use one number for both sizes. Newer ones default to a crop of 224.
    crop_size = parse_size(settings.get("crop_size", 224 if isinstance(size, Mapping) else edge))
    return int(MARGIN * edge) if family == LEVIT else edge, crop_size


def _shortest_edge(size: Any, *, stretches: bool) -> int:
    if not isinstance(size, Mapping):
        if stretches or isinstance(size, list):
            raise _refused(f"resizes to {size} without keeping the aspect ratio")
        return parse_side(size)
    stated = {key: value for key, value in size.items() if value is not None}
    if "height" in stated or "width" in stated:
        raise _refused("resizes without keeping the aspect ratio")
    if set(stated) != {"shortest_edge"}:
        raise _refused(f"has the size {stated}", "only shortest_edge is supported")
    return parse_side(stated["shortest_edge"])


def _filter(resample: Any) -> Filter:
    if not isinstance(resample, int) or isinstance(resample, bool) or resample not in FILTERS:
        raise ValueError(f"resample is {resample!r}, which is not one of Pillow's filters 0 to 5")
    return FILTERS[resample]


def _refused(what: str, why: str = "") -> RefusedError:
    return RefusedError(f"the image processor {what}", why=why, hint=CHOOSE_PREPROCESSING)


def processor_settings(transform: Transform) -> dict[str, Any]:
    """Return the settings of ``LevitImageProcessor`` that come closest to a preprocessing."""
    height, width = transform.crop_size
    return {
        "do_resize": True,
        "size": {"shortest_edge": _levit_shortest_edge(min(transform.resize_to))},
        "resample": {name: number for number, name in FILTERS.items()}[transform.filter],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def _levit_shortest_edge(edge: int) -> int:
    """Return the ``shortest_edge`` that transformers scales to ``edge``, or to the next larger edge it can reach."""
    size = int(edge / MARGIN)
    while int(MARGIN * size) < edge:
        size += 1
    return size

"""Read and write Hugging Face's ``config.json`` and ``preprocessor_config.json``."""

from collections.abc import Mapping
from typing import Any

from levit_cli.checkpoints.metadata_parts import (
    CHOOSE_PREPROCESSING,
    OURS,
    Metadata,
    parse_evaluation,
    parse_size,
    parse_transform,
    parse_triple,
    published_or_same,
    require_temperature,
    square_or_pair,
    written_by_levit,
)
from levit_cli.data.labels import Labels, from_id2label
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Filter, Transform
from levit_cli.model.config import MLP_RATIO, PATCH_SIZE, VALUE_RATIO, LevitConfig

FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
MARGIN = 256 / 224  # resized edge / the processor's shortest_edge


def from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Metadata:
    """Return the metadata in the two files. Pass an empty mapping for a missing file."""
    model_type = config.get("model_type", "levit")
    if model_type != "levit":
        raise RefusedError(f"the architecture is {model_type}, not levit")
    ours = config.get(OURS, {})
    id2label = config.get("id2label", {})
    # transformers writes LABEL_0 … if there are no names; levit only if the classes are called so
    named = written_by_levit(ours) or any(name != f"LABEL_{index}" for index, name in id2label.items())
    return Metadata(
        image_size=parse_size(config["image_size"]) if "image_size" in config else None,
        labels=from_id2label(id2label) if id2label and named else None,
        transform=_transform_from_hf(preprocessor) if preprocessor else None,
        drop_path_rate=float(ours.get("drop_path_rate", config.get("drop_path_rate", 0.0))),
        evaluation=parse_evaluation(ours),
        temperature=require_temperature(float(ours.get("temperature", 1.0))),
    )


def _transform_from_hf(preprocessor: Mapping[str, Any]) -> Transform:
    if OURS in preprocessor:
        transform = parse_transform(preprocessor[OURS]["recipe"])
        # Edits of the file's other keys take precedence: our section counts only while it agrees with them.
        if hf_preprocessor(transform).items() <= preprocessor.items():
            return transform
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not preprocessor.get(step, True):
            raise RefusedError(f"preprocessor_config.json disables {step}", hint=CHOOSE_PREPROCESSING)
    if round(255 * preprocessor.get("rescale_factor", 1 / 255), 3) != 1:
        raise RefusedError("preprocessor_config.json has a rescale_factor other than 1/255", hint=CHOOSE_PREPROCESSING)
    size = preprocessor.get("size", 224)
    if isinstance(size, Mapping) and "shortest_edge" not in size:
        raise RefusedError(
            "preprocessor_config.json resizes without keeping the aspect ratio", hint=CHOOSE_PREPROCESSING
        )
    # Older files without crop_size use one number for both sizes. Newer ones default to a crop of 224.
    edge, implied_crop = (size["shortest_edge"], 224) if isinstance(size, Mapping) else (size, size)
    edge = int(MARGIN * edge)
    crop_size = parse_size(preprocessor.get("crop_size", implied_crop))
    transform = Transform(
        "custom",
        resize_to=(edge, edge),
        crop_size=crop_size,
        crop_rounding="floor",
        filter=FILTERS[preprocessor.get("resample", 3)],
        mean=parse_triple(preprocessor.get("image_mean", IMAGENET_MEAN)),
        std=parse_triple(preprocessor.get("image_std", IMAGENET_STD)),
    )
    return published_or_same(transform, "hf")


def hf_config(config: LevitConfig, labels: Labels) -> dict[str, Any]:
    """Return ``config.json`` as transformers writes it, without our section."""
    stages = config.num_stages
    return {
        "architectures": [f"LevitForImageClassification{'WithTeacher' if config.distilled else ''}"],
        "model_type": "levit",
        "image_size": square_or_pair(config.image_size),
        "num_channels": 3,
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "patch_size": PATCH_SIZE,
        "hidden_sizes": list(config.hidden_sizes),
        "num_attention_heads": list(config.num_heads),
        "depths": list(config.depths),
        "key_dim": list(config.key_dims),
        "drop_path_rate": 0,  # transformers accepts only an integer; our section holds the actual rate
        "mlp_ratio": [MLP_RATIO] * stages,
        "attention_ratio": [VALUE_RATIO] * stages,
        "initializer_range": 0.02,
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
    }


def hf_preprocessor(transform: Transform) -> dict[str, Any]:
    """Return the settings of ``LevitImageProcessor`` that come closest to a preprocessing."""
    height, width = transform.crop_size
    return {
        "do_resize": True,
        "size": {"shortest_edge": _hf_shortest_edge(min(transform.resize_to))},
        "resample": {name: number for number, name in FILTERS.items()}[transform.filter],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def _hf_shortest_edge(edge: int) -> int:
    """Return the ``shortest_edge`` that transformers scales to ``edge``, or to the next larger edge it can reach."""
    size = int(edge / MARGIN)
    while int(MARGIN * size) < edge:
        size += 1
    return size

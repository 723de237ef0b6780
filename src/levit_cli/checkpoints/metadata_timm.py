"""Read and write timm's ``config.json``."""

import re
from collections.abc import Mapping
from math import floor
from typing import Any

from levit_cli.checkpoints.metadata_parts import (
    CHOOSE_PREPROCESSING,
    OURS,
    Metadata,
    parse_evaluation,
    parse_number,
    parse_size,
    parse_threshold,
    parse_transform,
    parse_triple,
    published_or_same,
    require_temperature,
    square_or_pair,
    with_wnids,
)
from levit_cli.data.labels import Labels, from_list
from levit_cli.errors import RefusedError
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform
from levit_cli.model.config import Grid, LevitConfig, variant_name
from levit_cli.system.text import count_noun

CROP_PCT = 0.9  # of the published LeViTs
# What timm takes for keys that a file does not state.
DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}
ARCHITECTURES = re.compile(r"levit(_conv)?_(128s|128|192|256|384)")


def from_timm(config: Mapping[str, Any], with_transform: bool) -> Metadata:
    """Return the metadata in the file. Keys in ``pretrained_cfg`` take precedence over those outside it."""
    _require_timm_levit(config)
    trained = {**config, **config.get("pretrained_cfg", {})}
    names = trained.get("label_names")
    ours = config.get(OURS, {})
    return Metadata(
        image_size=_image_size(trained) if trained.get("input_size") is not None else None,
        labels=with_wnids(from_list(names) if names else None, ours),
        transform=_transform_from_timm(trained) if with_transform and not trained.keys().isdisjoint(DEFAULTS) else None,
        drop_path_rate=float(config.get("model_args", {}).get("drop_path_rate", ours.get("drop_path_rate", 0.0))),
        evaluation=parse_evaluation(ours),
        temperature=require_temperature(float(ours.get("temperature", 1.0))),
        threshold=parse_threshold(ours),
    )


def _require_timm_levit(config: Mapping[str, Any]) -> None:
    """Refuse timm's LeViTs with another stem or with SiLU. The weights alone do not show the activation."""
    architecture, options = str(config["architecture"]), config.get("model_args", {})
    activations = {options.get("act_layer"), options.get("attn_act_layer")}
    if not ARCHITECTURES.fullmatch(architecture) or not activations <= {None, "hard_swish"}:
        raise RefusedError(f"timm's architecture {architecture} is not supported", why=f"its model_args are {options}")
    for pool in (config.get("global_pool"), options.get("global_pool")):
        if pool not in (None, "avg"):
            raise RefusedError(f"timm's global_pool {pool!r} is not supported", why="a LeViT averages all positions")


def _image_size(settings: Mapping[str, Any]) -> Grid:
    channels, *size = settings["input_size"]
    if channels != 3:
        raise RefusedError(f"the model takes images of {count_noun(channels, 'channel')}, not RGB")
    return parse_size(size)


def _transform_from_timm(trained: Mapping[str, Any]) -> Transform:
    if OURS in trained and "recipe" in trained[OURS]:
        transform = parse_transform(trained[OURS]["recipe"])
        # Edits of the file's other keys take precedence: our section counts only while it agrees with them.
        if _timm_preprocessing(transform).items() <= trained.items():
            return transform
    settings = DEFAULTS | {key: value for key, value in trained.items() if value is not None}
    if settings["crop_mode"] != "center":
        raise RefusedError(f"timm's crop mode {settings['crop_mode']} is not supported", hint=CHOOSE_PREPROCESSING)
    height, width = _image_size(settings)
    kept = parse_number(settings["crop_pct"])
    transform = Transform(
        "custom",
        resize_to=(floor(height / kept), floor(width / kept)),
        crop_size=(height, width),
        crop_rounding="half_even",
        filter=settings["interpolation"],
        mean=parse_triple(settings["mean"]),
        std=parse_triple(settings["std"]),
    )
    return published_or_same(transform, "timm")


def timm_config(config: LevitConfig, labels: Labels, transform: Transform) -> dict[str, Any]:
    """Return ``config.json`` as timm writes it, without our section."""
    return {
        "architecture": _timm_architecture(config),
        "num_classes": config.num_classes,
        "num_features": config.hidden_sizes[-1],
        "global_pool": "avg",
        "model_args": {
            "img_size": square_or_pair(config.image_size),
            "embed_dim": list(config.hidden_sizes),
            "key_dim": config.key_dims[0],
            "num_heads": list(config.num_heads),
            "depth": list(config.depths),
            "drop_path_rate": config.drop_path_rate,
        },
        "pretrained_cfg": {
            **_timm_preprocessing(transform),
            "fixed_input_size": True,
            "num_classes": config.num_classes,
            "pool_size": list(config.grids[-1]),
            "first_conv": "stem.conv1.linear",
            "classifier": ["head.linear", "head_dist.linear"] if config.distilled else "head.linear",
            **({} if labels.generated else {"label_names": list(labels.names)}),
        },
    }


def _timm_preprocessing(transform: Transform) -> dict[str, Any]:
    return {
        "input_size": [3, *transform.crop_size],
        "interpolation": transform.filter,
        "crop_pct": _crop_pct(transform),
        "crop_mode": "center",
        "mean": list(transform.mean),
        "std": list(transform.std),
    }


def _crop_pct(transform: Transform) -> float:
    """Return a ``crop_pct`` for which timm's ``floor(crop_size / crop_pct)`` equals the resized edge."""
    side, edge = transform.crop_size[0], transform.resize_to[0]
    return CROP_PCT if floor(side / CROP_PCT) == edge else side / (edge + 0.5) if side != edge else 1.0


def _timm_architecture(config: LevitConfig) -> str:
    name = variant_name(config) or "levit-256"  # with model_args, timm builds a custom LeViT from any of its names
    return name.replace("levit-", "levit_").lower()

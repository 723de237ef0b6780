"""Read and write Hugging Face's ``config.json``."""

from collections.abc import Mapping
from typing import Any

from levit_cli.checkpoints.metadata_parts import (
    OURS,
    Metadata,
    parse_evaluation,
    parse_size,
    parse_threshold,
    require_temperature,
    square_or_pair,
    with_wnids,
)
from levit_cli.checkpoints.metadata_processor import transform_from_processor
from levit_cli.data.labels import Labels, from_config, placeholders
from levit_cli.errors import RefusedError
from levit_cli.model.config import MLP_RATIO, PATCH_SIZE, VALUE_RATIO, LevitConfig

# Settings of the network that its weights do not show. All published LeViTs have these values.
FIXED = {"num_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1, "patch_size": PATCH_SIZE}


def from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Metadata:
    """Return the metadata in the two files. Pass an empty mapping for a missing file."""
    model_type = config.get("model_type", "levit")
    if model_type != "levit":
        raise RefusedError(f"the architecture is {model_type}, not levit")
    _require_fixed(config)
    ours = config.get(OURS, {})
    labels = from_config(config, named=ours.get("named") is True)
    return Metadata(
        image_size=parse_size(config["image_size"]) if "image_size" in config else None,
        labels=with_wnids(labels, ours),
        transform=transform_from_processor(preprocessor) if preprocessor else None,
        drop_path_rate=float(ours.get("drop_path_rate", config.get("drop_path_rate", 0.0))),
        evaluation=parse_evaluation(ours),
        temperature=require_temperature(float(ours.get("temperature", 1.0))),
        threshold=parse_threshold(ours),
    )


def _require_fixed(config: Mapping[str, Any]) -> None:
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            why = f"only {value} is supported, and the weights do not show the value"
            raise RefusedError(f"{key} is {config[key]}", why=why)


def hf_config(config: LevitConfig, labels: Labels) -> dict[str, Any]:
    """Return ``config.json`` as transformers writes it, without our section."""
    stages = config.num_stages
    names = placeholders(len(labels)) if labels.generated else labels.names
    return {
        "architectures": [f"LevitForImageClassification{'WithTeacher' if config.distilled else ''}"],
        "model_type": "levit",
        "image_size": square_or_pair(config.image_size),
        **FIXED,
        "hidden_sizes": list(config.hidden_sizes),
        "num_attention_heads": list(config.num_heads),
        "depths": list(config.depths),
        "key_dim": list(config.key_dims),
        "drop_path_rate": 0,  # transformers accepts only an integer; our section holds the actual rate
        "mlp_ratio": [MLP_RATIO] * stages,
        "attention_ratio": [VALUE_RATIO] * stages,
        "initializer_range": 0.02,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }

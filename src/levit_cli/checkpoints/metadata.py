"""Read and write a model's JSON metadata, in two files for Hugging Face or in one for timm.

Both formats have keys for labels, image size and preprocessing. Values that these keys cannot express exactly are
stored in our section, the object under the key ``levit_cli``. Both libraries ignore it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from levit_cli.checkpoints.metadata_hf import from_hf, hf_config
from levit_cli.checkpoints.metadata_parts import OURS, Evaluation, Metadata, Threshold, require_temperature
from levit_cli.checkpoints.metadata_processor import processor_settings
from levit_cli.checkpoints.metadata_timm import from_timm, timm_config
from levit_cli.choices import CheckpointFormat
from levit_cli.data.labels import Labels, from_names, placeholders
from levit_cli.errors import RefusedError, reason_of
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.system.atomic import replace_text
from levit_cli.system.text import parse_json

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
METADATA_FILES = (CONFIG, PREPROCESSOR, PROCESSOR)
HF_PROCESSOR = "LevitImageProcessor"


def read_metadata(folder: Path, *, with_transform: bool = True) -> Metadata:
    """Read ``config.json`` and ``preprocessor_config.json`` of a model folder in either format. Both may be missing.

    As in transformers, an image processor in ``processor_config.json`` takes precedence.

    Args:
        with_transform: read the preprocessing. If the caller replaces it, False avoids an error for an unsupported one.

    Raises:
        RefusedError: a file exists but is invalid.
    """
    config, preprocessor = _read_json(folder / CONFIG), _read_processor(folder) if with_transform else {}
    try:
        if "architecture" in config:
            return from_timm(config, with_transform)
        return from_hf(config, preprocessor)
    except RefusedError as error:
        what = f"The metadata in {folder} is refused: {error.what}"
        raise RefusedError(what, why=error.why, hint=error.hint) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = repr(error) if isinstance(error, LookupError) else reason_of(error)
        raise RefusedError(f"The metadata in {folder} is invalid", why=why) from error


def _read_processor(folder: Path) -> dict[str, Any]:
    nested = _read_json(folder / PROCESSOR).get("image_processor")
    if nested is not None and not isinstance(nested, dict):
        raise RefusedError(f"Cannot read {folder / PROCESSOR}", why="its image_processor is not a JSON object")
    return nested or _read_json(folder / PREPROCESSOR)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError(f"Cannot read {path}", why=reason_of(error)) from error
    if not isinstance(content, dict):
        raise RefusedError(f"Cannot read {path}", why="it is not a JSON object")
    return content


def store_temperature(folder: Path, temperature: float) -> Path:
    """Write a temperature to the ``config.json`` of a model folder and keep the rest of the file unchanged.

    A stored threshold is removed, because it was chosen for the probabilities of another temperature.

    Returns:
        The path of the file.

    Raises:
        RefusedError: the file exists but is not a JSON object, or the temperature is invalid.
        OutputError: the file cannot be written.
    """
    return _store(folder, {"temperature": require_temperature(temperature), "threshold": None})


def store_threshold(folder: Path, threshold: Threshold) -> Path:
    """Write a threshold to the ``config.json`` of a model folder, as ``store_temperature`` does.

    Args:
        threshold: its temperature must be the stored one, or 1 if none is stored.
    """
    return _store(folder, {"threshold": asdict(threshold)})


def _store(folder: Path, values: dict[str, Any]) -> Path:
    """Write values to our section of ``config.json``; None removes a key."""
    path = folder / CONFIG
    config = _read_json(path)
    ours = {**config.get(OURS, {}), **values}
    config[OURS] = {name: value for name, value in ours.items() if value is not None or name not in values}
    replace_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return path


def write_metadata(
    format: CheckpointFormat,
    config: LevitConfig,
    labels: Labels,
    transform: Transform,
    evaluation: Evaluation | None,
    temperature: float = 1.0,
    threshold: Threshold | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the contents of the JSON files of a model folder, by file name."""
    exact_transform = {"recipe": asdict(transform)}
    ours: dict[str, Any] = {"drop_path_rate": config.drop_path_rate}
    if evaluation:
        ours["evaluation"] = asdict(evaluation)
    if temperature != 1:
        ours["temperature"] = temperature
    if threshold:
        ours["threshold"] = asdict(threshold)
    if labels.wnids != from_names(labels.names).wnids:
        ours["wnids"] = list(labels.wnids or ())
    if labels.names == placeholders(len(labels)):
        ours["named"] = True  # the classes are called like Hugging Face's placeholders
    if format == "timm":
        return {CONFIG: {**timm_config(config, labels, transform), OURS: ours | exact_transform}}
    return {
        CONFIG: {**hf_config(config, labels), OURS: ours},
        PREPROCESSOR: {"image_processor_type": HF_PROCESSOR, **processor_settings(transform), OURS: exact_transform},
    }

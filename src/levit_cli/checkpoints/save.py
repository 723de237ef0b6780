"""Save a checkpoint in any format, as a model folder with metadata or as one weight file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints.load import Checkpoint
from levit_cli.checkpoints.metadata import write_metadata
from levit_cli.checkpoints.model_card import model_card
from levit_cli.checkpoints.weights import (
    PICKLE_SUFFIXES,
    WEIGHT_FILES,
    WEIGHT_SUFFIXES,
    cast,
    write_pickle,
    write_safetensors,
)
from levit_cli.choices import CheckpointFormat, Dtype
from levit_cli.errors import OutputError, RefusedError, UsageError, reason_of
from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import SHRINK_STRIDE, LevitConfig
from levit_cli.model.tensors import BIAS_INDEX, tensors
from levit_cli.system.atomic import replace_text

Array = NDArray[Any]


def save(
    checkpoint: Checkpoint, path: Path, format: CheckpointFormat, dtype: Dtype | None = None, *, card: str | None = None
) -> list[Path]:
    """Save ``checkpoint`` in a format. Each file is replaced atomically.

    Args:
        path: one weight file if it ends in .safetensors, .pth, .pt or .bin, otherwise a folder.
        dtype: type of the stored weights; None keeps the type of the source.
        card: content of the folder's README.md; None for a card that describes the conversion.

    Returns:
        The files written, the weights first.

    Raises:
        UsageError: the format cannot be saved as a folder.
        RefusedError: a weight cannot be represented in ``dtype``.
        OutputError: a file cannot be written.
    """
    dtype = dtype or checkpoint.dtype
    _require_representable(checkpoint.state, dtype)
    arrays = to_format(checkpoint.state, checkpoint.config, format)
    if path.suffix in WEIGHT_SUFFIXES:
        _write_weights(path, arrays, dtype)
        return [path]
    if format == "fb":
        raise UsageError(f"Meta's format is one file, but {path} names a folder", hint="use a name that ends in .pth")
    # The card contains the hash of the source. It is created before writing, because the source may be this folder.
    card = model_card(checkpoint, format, dtype) if card is None else card
    return _write_folder(checkpoint, path, arrays, format, dtype, card)


def to_format(state: Mapping[str, Array], config: LevitConfig, format: CheckpointFormat) -> dict[str, Array]:
    """Return the arrays with the names of a format, in network order. Meta's index tensors are recomputed."""
    arrays: dict[str, Array] = {}
    for tensor in tensors(config):
        arrays[tensor.names.of(format)] = state[tensor.names.ours]
        if tensor.kind == "attention_bias" and format == "fb":
            prefix = tensor.names.fb.rpartition(".")[0]
            arrays[f"{prefix}.{BIAS_INDEX}"] = _index_of(config, tensor.names.ours)
    return arrays


def _index_of(config: LevitConfig, name: str) -> Array:
    stage = int(name.split(".")[1])
    if ".shrink." in name:
        return bias_index(config.grids[stage - 1], SHRINK_STRIDE)
    return bias_index(config.grids[stage])


def _require_representable(state: Mapping[str, Array], dtype: Dtype) -> None:
    """Refuse a dtype in which a value overflows or a batch norm's variance becomes 0."""
    if dtype == "float32":
        return
    for name, values in cast(state, dtype).items():
        if not np.isfinite(values).all() or (name.endswith("running_var") and not np.all(values > 0)):
            raise RefusedError(
                f"{name} cannot be stored as {dtype}",
                why="one of its values is too large or too small for that type",
                hint=f"use {'bfloat16' if dtype == 'float16' else 'float32'}",
            )


def _write_weights(path: Path, arrays: Mapping[str, Array], dtype: Dtype) -> None:
    write = write_pickle if path.suffix in PICKLE_SUFFIXES else write_safetensors
    write(path, arrays, dtype)


def _write_folder(
    checkpoint: Checkpoint, folder: Path, arrays: Mapping[str, Array], format: CheckpointFormat, dtype: Dtype, card: str
) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot create the folder {folder}", why=reason_of(error)) from error
    texts = {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in write_metadata(
            format,
            checkpoint.config,
            checkpoint.labels,
            checkpoint.transform,
            checkpoint.evaluation,
            checkpoint.temperature,
            checkpoint.threshold,
        ).items()
    }
    texts["README.md"] = card
    weights = folder / WEIGHT_FILES[0]
    _write_weights(weights, arrays, dtype)
    for name, text in texts.items():
        replace_text(folder / name, text)
    return [weights, *(folder / name for name in texts)]

"""A small LeViT with random weights for tests, as arrays or as a folder, and random images for it."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from levit_cli.choices import Dtype
from levit_cli.model.config import LevitConfig
from levit_cli.model.tensors import random_state

__all__ = ["TINY", "random_pixels", "random_state", "write_folder"]

TINY = LevitConfig((16, 24, 32), (8, 8, 8), (2, 3, 4), (1, 2, 1), num_classes=7, image_size=(64, 64))


def random_pixels(config: LevitConfig, batch: int = 2, seed: int = 1) -> NDArray[np.uint8]:
    """(B, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (batch, *config.image_size, 3), dtype=np.uint8)


def write_folder(
    folder: Path, state: Mapping[str, NDArray[Any]] | None = None, config: LevitConfig = TINY, dtype: Dtype = "float32"
) -> Path:
    """Write a model as a Hugging Face folder with hf preprocessing, and return the folder.

    Args:
        state: the weights; random ones by default.
    """
    with TemporaryDirectory() as temporary:
        bare = Path(temporary, "bare.safetensors")
        write_safetensors(bare, to_format(state or random_state(config), config, "timm"), dtype)
        save(load(bare, preprocessing="hf"), folder, "hf", dtype)
    return folder

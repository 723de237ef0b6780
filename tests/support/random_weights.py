"""A small LeViT for tests, and random images for it. Its weights come from ``random_state``."""

import numpy as np
from numpy.typing import NDArray

from levit_cli.model.config import LevitConfig
from levit_cli.model.tensors import random_state

__all__ = ["TINY", "random_pixels", "random_state"]

TINY = LevitConfig((16, 24, 32), (8, 8, 8), (2, 3, 4), (1, 2, 1), num_classes=7, image_size=(64, 64))


def random_pixels(config: LevitConfig, batch: int = 2, seed: int = 1) -> NDArray[np.uint8]:
    """(B, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (batch, *config.image_size, 3), dtype=np.uint8)

"""Weights that hide nothing: every tensor random, batch norms and attention biases included.

A fresh LeViT ends its residual branches in batch norms of weight 0, behind which any mistake in folding disappears.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.model.config import LevitConfig
from levit_cli.model.tensors import Tensor, tensors

TINY = LevitConfig((16, 24, 32), (8, 8, 8), (2, 3, 4), (1, 2, 1), num_classes=7, image_size=(64, 64))


def random_state(config: LevitConfig, seed: int = 0) -> dict[str, NDArray[Any]]:
    """float32 arrays by our names, of magnitudes that keep activations near one."""
    rng = np.random.default_rng(seed)
    return {tensor.names.ours: _random(tensor, rng) for tensor in tensors(config)}


def _random(tensor: Tensor, rng: np.random.Generator) -> NDArray[Any]:
    name, shape = tensor.names.ours, tensor.shape
    if tensor.kind == "counter":
        return np.array(rng.integers(1, 1000), np.int64)
    if tensor.kind == "matrix":
        return rng.normal(0, 0.7 * np.prod(shape[1:]) ** -0.5, shape).astype(
            np.float32
        )  # 0.7: no growth from block to block
    if name.endswith(("running_var", "norm.weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.5, shape).astype(np.float32)


def random_pixels(config: LevitConfig, batch: int = 2, seed: int = 1) -> NDArray[np.uint8]:
    """(B, H, W, 3) bytes."""
    return np.random.default_rng(seed).integers(0, 256, (batch, *config.image_size, 3), dtype=np.uint8)

"""Compute the logits with NumPy in double precision, as the reference for the runtimes that a model is exported to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.images.transforms import Transform
from levit_cli.model.config import Grid, LevitConfig
from levit_cli.model.folded import forward

Array = NDArray[Any]


class NumpyOps:
    """``model.folded.Ops`` for NumPy arrays in float64."""

    def __init__(self, weights: Mapping[str, Array], transform: Transform) -> None:
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}
        self.mean, self.std = np.array(transform.mean), np.array(transform.std)

    def normalize(self, pixels: Array) -> Array:
        normalized: Array = (pixels / 255 - self.mean) / self.std
        return normalized.transpose(0, 3, 1, 2)

    def convolution(self, x: Array, name: str) -> Array:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        batch, channels, height, width = x.shape
        rows, columns = -(-height // 2), -(-width // 2)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        taps = [
            padded[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2].reshape(batch, channels, -1)
            for i in range(3)
            for j in range(3)
        ]
        flat = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # (out, 9 * channels), in the order of the taps
        result: Array = flat @ np.concatenate(taps, axis=1) + bias[:, None]
        return result.reshape(batch, len(weight), rows, columns)

    def linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return product

    def hardswish(self, x: Array) -> Array:
        result: Array = x * np.clip(x + 3, 0, 6) / 6
        return result

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def add_bias(self, logits: Array, name: str) -> Array:
        return logits + self.weights[name]

    def softmax(self, logits: Array) -> Array:
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return shares

    def matmul(self, x: Array, y: Array, *, transpose_y: bool) -> Array:
        product: Array = x @ (y.swapaxes(-1, -2) if transpose_y else y)
        return product

    def grid_to_tokens(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)

    def subsample(self, x: Array, grid: Grid) -> Array:
        return x.reshape(len(x), *grid, -1)[:, ::2, ::2].reshape(len(x), -1, x.shape[-1])

    def split_heads(self, x: Array, start: int, heads: int, dim: int) -> Array:
        part = x[..., start : start + heads * dim]
        return part.reshape(*x.shape[:2], heads, dim).transpose(0, 2, 1, 3)

    def merge_heads(self, x: Array) -> Array:
        batch, _, tokens, _ = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)

    def token_mean(self, x: Array) -> Array:
        mean: Array = x.mean(axis=1)
        return mean


def reference_logits(
    weights: Mapping[str, Array], config: LevitConfig, transform: Transform, pixels: NDArray[np.uint8]
) -> Array:
    """Return the logits (B, classes) in float64 of pixels (B, H, W, 3), one image at a time to need little memory.

    Args:
        weights: folded weights.
    """
    ops = NumpyOps(weights, transform)
    with np.errstate(all="ignore"):  # a model whose logits are not finite is an error of the caller's
        return np.concatenate([forward(ops, config, image[None])[0] for image in pixels])

"""Define the inference form of LeViT: fold the weights, and compute the forward pass that all engines share.

``fold`` is a pure function on NumPy arrays. It folds each batch norm into the adjacent layer and the query scale into
the query rows, gathers the attention bias for each pair of tokens, averages the two heads into one linear layer, and
regroups the rows of q, k and v from per-head interleaving to [all q | all k | all v].

``forward`` calls the operations of ``Ops`` in order. The OpenVINO and torch engines implement these operations.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import (
    BATCH_NORM_EPS,
    SHRINK_STRIDE,
    SHRINK_VALUE_RATIO,
    STEM_CONVS,
    VALUE_RATIO,
    Grid,
    LevitConfig,
)

Array = NDArray[Any]
T = TypeVar("T")


class Ops(Protocol[T]):
    """The operations that an engine implements. ``name`` is the name of a folded weight or the prefix of a layer."""

    def normalize(self, pixels: T) -> T:
        """Normalize pixels with the mean and standard deviation of the preprocessing.

        (B, H, W, 3) uint8 -> (B, 3, H, W).
        """

    def convolution(self, x: T, name: str) -> T:
        """Apply a 3x3 convolution with stride 2, zero padding of 1 and bias."""

    def linear(self, x: T, name: str) -> T: ...
    def hardswish(self, x: T) -> T: ...
    def add(self, x: T, y: T) -> T: ...
    def add_bias(self, logits: T, name: str) -> T: ...
    def softmax(self, logits: T) -> T: ...
    def matmul(self, x: T, y: T, *, transpose_y: bool) -> T: ...
    def grid_to_tokens(self, x: T) -> T:
        """(B, C, h, w) -> (B, h * w, C)."""

    def subsample(self, x: T, grid: Grid) -> T:
        """(B, h * w, C) -> (B, ceil(h / 2) * ceil(w / 2), C), the tokens at even rows and columns."""

    def split_heads(self, x: T, start: int, heads: int, dim: int) -> T:
        """(B, N, channels) -> (B, heads, N, dim), starting at channel ``start``."""

    def merge_heads(self, x: T) -> T:
        """(B, heads, N, dim) -> (B, N, heads * dim)."""

    def token_mean(self, x: T) -> T:
        """(B, N, C) -> (B, C)."""


def forward(ops: Ops[T], config: LevitConfig, pixels: T) -> tuple[T, T]:
    """Return the logits and the features of ``pixels`` (B, H, W, 3) uint8.

    Returns:
        The logits (B, classes), which are the mean of the two heads, and the features (B, C) before the heads, which
        are the mean of the last stage's tokens.
    """
    x = ops.normalize(pixels)  # (B, 3, H, W)
    for index in range(STEM_CONVS):
        x = ops.convolution(x, f"stem.{index}")
        if index < STEM_CONVS - 1:
            x = ops.hardswish(x)
    x = ops.grid_to_tokens(x)  # (B, N, C)
    for stage in range(config.num_stages):
        if stage:
            x = _shrink(ops, config, stage, x)
        for block in range(config.depths[stage]):
            prefix = f"stages.{stage}.blocks.{block}"
            x = ops.add(x, _attention(ops, config, stage, x, f"{prefix}.attention"))
            x = ops.add(x, _mlp(ops, x, f"{prefix}.mlp"))
    features = ops.token_mean(x)
    return ops.linear(features, "head"), features


def _attention(ops: Ops[T], config: LevitConfig, stage: int, x: T, prefix: str) -> T:
    heads, dim = config.num_heads[stage], config.key_dims[stage]
    qkv = ops.linear(x, f"{prefix}.qkv")  # (B, N, heads * (D + D + 2D))
    q = ops.split_heads(qkv, 0, heads, dim)
    k = ops.split_heads(qkv, heads * dim, heads, dim)
    v = ops.split_heads(qkv, 2 * heads * dim, heads, VALUE_RATIO * dim)
    return _attend(ops, q, k, v, prefix)


def _shrink(ops: Ops[T], config: LevitConfig, stage: int, x: T) -> T:
    prefix = f"stages.{stage}.shrink"
    heads, dim = config.shrink_heads(stage), config.shrink_key_dim
    kv = ops.linear(x, f"{prefix}.attention.kv")  # (B, N, heads * (D + 4D))
    k = ops.split_heads(kv, 0, heads, dim)
    v = ops.split_heads(kv, heads * dim, heads, SHRINK_VALUE_RATIO * dim)
    kept = ops.subsample(x, config.grids[stage - 1])
    q = ops.split_heads(ops.linear(kept, f"{prefix}.attention.q"), 0, heads, dim)
    x = _attend(ops, q, k, v, f"{prefix}.attention")  # no residual: the grid has changed
    return ops.add(x, _mlp(ops, x, f"{prefix}.mlp"))


def _attend(ops: Ops[T], q: T, k: T, v: T, prefix: str) -> T:
    logits = ops.add_bias(ops.matmul(q, k, transpose_y=True), f"{prefix}.bias")  # (B, heads, queries, keys)
    mixed = ops.merge_heads(ops.matmul(ops.softmax(logits), v, transpose_y=False))
    return ops.linear(ops.hardswish(mixed), f"{prefix}.proj")


def _mlp(ops: Ops[T], x: T, prefix: str) -> T:
    return ops.linear(ops.hardswish(ops.linear(x, f"{prefix}.up")), f"{prefix}.down")


def fold(state: Mapping[str, Array], config: LevitConfig) -> dict[str, Array]:
    """Fold the weights of the training form into those of the inference form.

    Args:
        state: float32 arrays of the training form by name (see ``model.tensors.tensors``).
        config: the architecture of the arrays.

    Returns:
        New float32 arrays: ``<prefix>.weight`` and ``<prefix>.bias`` for each convolution (out, in, 3, 3) and linear
        layer (out, in), ``<attention>.bias`` (heads, queries, keys), and one ``head``.
    """
    folded: dict[str, Array] = {}
    for index in range(STEM_CONVS):
        _put(folded, f"stem.{index}", *_fold_norm(state, f"stem.{index}", "conv"))
    for stage in range(config.num_stages):
        if stage:
            _fold_shrink(folded, state, config, stage)
        for block in range(config.depths[stage]):
            _fold_block(folded, state, config, stage, block)
    heads = [_fold_head(state, head) for head in config.head_names]
    _put(folded, "head", *(np.mean(parts, axis=0) for parts in zip(*heads, strict=True)))
    return folded


def _put(folded: dict[str, Array], prefix: str, weight: Array, bias: Array) -> None:
    folded[f"{prefix}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
    folded[f"{prefix}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)


def _fold_block(
    folded: dict[str, Array], state: Mapping[str, Array], config: LevitConfig, stage: int, block: int
) -> None:
    prefix = f"stages.{stage}.blocks.{block}"
    heads, dim = config.num_heads[stage], config.key_dims[stage]
    qkv = _fold_norm(state, f"{prefix}.attention.qkv")
    q, k, v = _regroup(qkv, heads, (dim, dim, VALUE_RATIO * dim))
    parts = zip(_scale(q, dim), k, v, strict=True)
    _put(folded, f"{prefix}.attention.qkv", *(np.concatenate(rows) for rows in parts))
    _put(folded, f"{prefix}.attention.proj", *_fold_norm(state, f"{prefix}.attention.proj"))
    biases = state[f"{prefix}.attention.biases"]
    folded[f"{prefix}.attention.bias"] = biases[:, bias_index(config.grids[stage])]
    _fold_mlp(folded, state, f"{prefix}.mlp")


def _fold_shrink(folded: dict[str, Array], state: Mapping[str, Array], config: LevitConfig, stage: int) -> None:
    prefix = f"stages.{stage}.shrink"
    heads, dim = config.shrink_heads(stage), config.shrink_key_dim
    k, v = _regroup(_fold_norm(state, f"{prefix}.attention.kv"), heads, (dim, SHRINK_VALUE_RATIO * dim))
    _put(folded, f"{prefix}.attention.kv", *(np.concatenate(rows) for rows in zip(k, v, strict=True)))
    _put(folded, f"{prefix}.attention.q", *_scale(_fold_norm(state, f"{prefix}.attention.q"), dim))
    _put(folded, f"{prefix}.attention.proj", *_fold_norm(state, f"{prefix}.attention.proj"))
    biases = state[f"{prefix}.attention.biases"]
    folded[f"{prefix}.attention.bias"] = biases[:, bias_index(config.grids[stage - 1], SHRINK_STRIDE)]
    _fold_mlp(folded, state, f"{prefix}.mlp")


def _fold_mlp(folded: dict[str, Array], state: Mapping[str, Array], prefix: str) -> None:
    for layer in ("up", "down"):
        _put(folded, f"{prefix}.{layer}", *_fold_norm(state, f"{prefix}.{layer}"))


Layer = tuple[Array, Array]  # weight, bias


def _norm_scale_shift(state: Mapping[str, Array], prefix: str) -> Layer:
    """Return a batch norm in evaluation mode as (scale, shift) of y = scale * x + shift, in float64."""
    weight, bias, mean, variance = (
        state[f"{prefix}.norm.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + BATCH_NORM_EPS)
    return scale, bias - mean * scale


def _fold_norm(state: Mapping[str, Array], prefix: str, layer: str = "linear") -> Layer:
    """Fold a layer without bias and the batch norm after it into one layer with bias."""
    scale, shift = _norm_scale_shift(state, prefix)
    weight = state[f"{prefix}.{layer}.weight"]
    return weight * scale.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1)), shift


def _fold_head(state: Mapping[str, Array], prefix: str) -> Layer:
    """Fold the batch norm before a head and the head's linear layer into one layer."""
    scale, shift = _norm_scale_shift(state, prefix)
    weight = state[f"{prefix}.linear.weight"].astype(np.float64)
    return weight * scale, weight @ shift + state[f"{prefix}.linear.bias"]


def _regroup(layer: Layer, heads: int, dims: tuple[int, ...]) -> list[Layer]:
    """Split a layer whose rows are laid out per head, such as [q D | k D | v 2D] * heads, into one layer per part."""
    weight, bias = layer
    per_head = weight.reshape(heads, sum(dims), -1), bias.reshape(heads, sum(dims))
    cuts = np.cumsum(dims)[:-1]
    weights, biases = (np.split(part, cuts, axis=1) for part in per_head)
    return [
        (rows.reshape(-1, weight.shape[1]), shifts.reshape(-1)) for rows, shifts in zip(weights, biases, strict=True)
    ]


def _scale(layer: Layer, key_dim: int) -> Layer:
    """Return a query layer multiplied by the attention's scale, 1/sqrt(D)."""
    weight, bias = layer
    return weight * np.float32(key_dim**-0.5), bias * key_dim**-0.5
